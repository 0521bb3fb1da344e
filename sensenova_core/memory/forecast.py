"""What a task will take, said before there is a prompt for it."""

from math import ceil

from ..drawing import flow
from ..engine import Engine
from ..errors import check_choice, check_count
from ..model.config import ModelConfig
from ..model.unified import EXPERTS
from ..settings import MAX_IMAGES, TASKS, DocumentSettings, SamplingSettings, understanding_pixel_limits
from ..writing.document import growing
from . import (
    Limits,
    Placement,
    Task,
    activations,
    in_rows,
    in_words,
    make_plan,
    parse_size,
)


def explain(
    engine: Engine,
    settings: SamplingSettings,
    images: int = 0,
    think_tokens: int = 0,
    card: str = "",
    ram: str = "",
    task: str = "draw",
    max_tokens: int = 512,
    prompt_tokens: int = activations.USUAL_PROMPT,
) -> str:
    """Plans in words.

    task: one of TASKS: a picture, an answer, or a document as far as its first picture. images: how many are edited or
    read. think_tokens: of reasoning before a picture. max_tokens: of an answer. prompt_tokens: with the system message.
    card, ram: sizes such as "11GiB" of free memory to plan for, in place of what is free here; where weights
    run in place, ram changes nothing.
    Raises SettingsError where it cannot fit.
    """
    check_choice("task", task, TASKS)
    settings.check_size(engine.config.token_pixels)
    check_count("images", images, 0, MAX_IMAGES)
    check_count("think_tokens", think_tokens, 0)
    check_count("max_tokens", max_tokens, 1)
    check_count("prompt_tokens", prompt_tokens, 1, engine.prompts.max_tokens)
    sizes = parse_size("card", card), parse_size("ram", ram)
    itemsize = engine.weights.compute_dtype.itemsize
    tasks = _usual_tasks(engine.config, settings, images, think_tokens, itemsize, task, max_tokens, prompt_tokens)
    more = {"assumed": _assumed(images, task, prompt_tokens)}
    if engine.device.type == "cpu" and not card:
        more["card"] = _cards_for(engine.memory, tasks)
    if engine.memory.in_place and not card:
        plans = [_in_place(engine.memory, each) for each in tasks]
    else:
        plans = [engine.plan(each, *sizes).rows() for each in tasks]
    return "\n\n".join(in_rows(rows | more) for rows in plans)


def _usual_tasks(
    config: ModelConfig,
    settings: SamplingSettings,
    images: int,
    think_tokens: int,
    itemsize: int,
    task: str,
    max_tokens: int,
    prompt_tokens: int,
) -> list[Task]:
    """Tasks of a run that is not prepared yet, one of TASKS: a prompt with images of the largest size that is read."""
    if task == "understand":
        read = images * (understanding_pixel_limits(config.best_area)[1] // config.token_pixels**2)
        return [activations.writing(config, prompt_tokens + read, max_tokens, itemsize, "an answer of")]
    prompt = activations.usual_tokens(config, images, prompt_tokens)
    if task == "interleave":
        made = DocumentSettings(settings)
        return [activations.document(config, made, dict.fromkeys(growing(made), prompt + think_tokens), 0, itemsize)]
    lengths = {
        flow.CONDITION: prompt + think_tokens,
        flow.IMAGES_ONLY: prompt,
        flow.UNCONDITIONAL: activations.USUAL_PROMPT,
    }
    used = {name: lengths[name] for name in flow.branches_needed(settings, bool(images))}
    name = activations.picture_name(images)
    tasks = [activations.drawing(config, settings, used, itemsize, True, name)]
    if think_tokens:
        tasks.insert(0, activations.writing(config, prompt, think_tokens, itemsize, "reasoning of"))
    return tasks


def _assumed(images: int, task: str, prompt_tokens: int) -> str:
    """What `_usual_tasks` takes for granted, in words."""
    shown = f", {'images' if images > 1 else 'an image'} of the largest size that is read" if images else ""
    between = f", {activations.USUAL_TEXT} tokens of text between two pictures" if task == "interleave" else ""
    return f"a prompt of {prompt_tokens} tokens with the system message{shown}{between}"


def _in_place(memory: Placement, task: Task) -> dict[str, str]:
    """A plan's rows where nothing is planned."""
    sizes = memory.sizes
    unpacking = max(map(sizes.unpacking, EXPERTS))
    ready = f", {in_words(unpacking)} to make one layer ready at a time" if unpacking else ""
    return {
        "task": task.name,
        "mode": "weights run where they lie, mapped from their files",
        "system": f"{in_words(task.most_working)} for the task itself{ready}; "
        f"{in_words(sizes.stored)} stay in their files",
    }


def _cards_for(memory: Placement, tasks: list[Task]) -> str:
    """What to know about cards where none was named."""
    least = max(memory.sizes.smallest(task)[0] for task in tasks)
    most = max(make_plan(memory.sizes, task, Limits("full"), 0).device_bytes for task in tasks)
    return (
        f"none was named; {in_words(least, ceil)} is the least that works, with {in_words(most, ceil)} all layers "
        "of the expert in use stay. To plan for one, give its free memory as card (--card), such as 11GiB"
    )
