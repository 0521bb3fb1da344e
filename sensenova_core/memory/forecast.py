"""What a task will take, said before there is a prompt for it."""

from collections.abc import Sequence
from math import ceil

from ..model.config import ModelConfig
from ..model.unified import EXPERTS
from ..settings import (
    CONDITION,
    IMAGES_ONLY,
    UNCONDITIONAL,
    USUAL_PROMPT,
    DocumentSettings,
    ForecastSettings,
    SamplingSettings,
    understanding_pixel_limits,
)
from . import activations
from .budget import Limits, in_words, parse_size
from .placement import Placement
from .plan import Task, make_plan
from .plan_text import in_rows, rows_of


def explain(
    memory: Placement,
    config: ModelConfig,
    settings: SamplingSettings,
    asked: ForecastSettings,
    *,
    branches: Sequence[str],
    itemsize: int,
    remembered: int,
) -> str:
    """Plans in words. branches: of guidance, that a picture needs. itemsize: of what the model computes with.

    remembered: bytes on the device, beside the weights, that can be given back. Raises SettingsError where it cannot
    fit.
    """
    card, ram = parse_size("card", asked.card), parse_size("ram", asked.ram)
    tasks = _usual_tasks(config, settings, asked, branches, itemsize)
    more = {"assumed": _assumed(asked)}
    if memory.device.type == "cpu" and card is None:
        more["card"] = _cards_for(memory, tasks)
    plans = []
    for task in tasks:
        plan = None if memory.in_place and card is None else memory.plan(task, remembered, card, ram)
        plans.append(_in_place(memory, task) if plan is None else rows_of(plan))
        if memory.device.type == "cpu" and card is None:
            plans[-1]["free"] = _there(task, *memory.on_system(task, remembered, plan), ram)
    return "\n\n".join(in_rows(rows | more) for rows in plans)


def _usual_tasks(
    config: ModelConfig, settings: SamplingSettings, asked: ForecastSettings, branches: Sequence[str], itemsize: int
) -> list[Task]:
    """Tasks of a run that is not prepared yet: a prompt with images of the largest size that is read."""
    images, begun = asked.images, asked.prompt_tokens
    if asked.task == "understand":
        read = images * (understanding_pixel_limits(config.best_area)[1] // config.token_pixels**2)
        return [activations.writing(config, begun + read, asked.max_tokens, itemsize, "an answer of")]
    prompt = activations.usual_tokens(config, images, begun)
    if asked.task == "interleave":
        written = {name: prompt + asked.think_tokens for name in branches if name != UNCONDITIONAL}
        unconditional = UNCONDITIONAL in branches
        return [
            activations.document(config, DocumentSettings(settings), written, 0, itemsize, unconditional=unconditional)
        ]
    lengths = {CONDITION: prompt + asked.think_tokens, IMAGES_ONLY: prompt, UNCONDITIONAL: USUAL_PROMPT}
    used = {name: lengths[name] for name in branches}
    name = activations.picture_name(images)
    tasks = [activations.drawing(config, settings, used, itemsize, True, name)]
    if asked.think_tokens:
        tasks.insert(0, activations.writing(config, prompt, asked.think_tokens, itemsize, "reasoning of"))
    return tasks


def _assumed(asked: ForecastSettings) -> str:
    """What `_usual_tasks` takes for granted, in words."""
    images = "images" if asked.images > 1 else "an image"
    shown = f", {images} of the largest size that is read" if asked.images else ""
    between = f", {activations.USUAL_TEXT} tokens of text between two pictures" if asked.task == "interleave" else ""
    return f"a prompt of {asked.prompt_tokens} tokens with the system message{shown}{between}"


def _in_place(memory: Placement, task: Task) -> dict[str, str]:
    """A plan's rows where nothing is planned."""
    sizes = memory.sizes
    unpacking = max(map(sizes.unpacking, EXPERTS))
    ready = f", {in_words(unpacking)} to make one layer ready at a time" if unpacking else ""
    return {
        "task": task.name,
        "mode": "weights run where they lie, mapped from their files",
        "system": f"{in_words(task.most_working)} for the task itself{ready}; "
        f"{in_words(sizes.stored_bytes)} stay in their files",
    }


def _there(task: Task, needed: int, free: int, ram: int | None) -> str:
    """Whether system memory is there for a task on the CPU. ram: bytes to plan for in place of those that are free."""
    free = free if ram is None else ram
    if needed <= free:
        return f"{in_words(free)} of system memory, of which it takes up to {in_words(needed, ceil)}"
    return (
        f"only {in_words(free)} of system memory, where it takes up to {in_words(needed, ceil)}: it will swap, or be "
        f"refused; close other programs, or ask for {task.smaller}"
    )


def _cards_for(memory: Placement, tasks: list[Task]) -> str:
    """What to know about cards where none was named."""
    least = max(memory.sizes.smallest(task)[0] for task in tasks)
    most = max(make_plan(memory.sizes, task, Limits("full"), 0).device_bytes for task in tasks)
    return (
        f"none was named; {in_words(least, ceil)} is the least that works, with {in_words(most, ceil)} all layers "
        "of the expert in use stay. To plan for one, give its free memory as card (--card), such as 11GiB"
    )
