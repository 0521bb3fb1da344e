"""What a task will take, said before there is a prompt for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

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
from .activations import PAINTING, USUAL_TEXT, Activations
from .allocator import libraries
from .budget import Limits, in_words, parse_size
from .placement import Placement
from .plan import Plan, Sizes, Task, make_plan
from .plan_text import IN_PLACE, compute_row, in_rows, rows_of


@dataclass(frozen=True)
class InPlace:
    """Bytes of a run whose weights stay in their files: work and unpacking are of the task, free those there are."""

    work: int
    unpacking: int
    stored: int
    free: int | None = None


@dataclass(frozen=True)
class Forecast:
    """A run's plan, or that it needs none, and what to say of it by subject."""

    task: str
    plan: Plan | InPlace
    rows: dict[str, str]


def explained(forecasts: Sequence[Forecast]) -> str:
    """In words."""
    return "\n\n".join(in_rows(each.rows) for each in forecasts)


def foresee(
    memory: Placement,
    activations: Activations,
    asked: ForecastSettings,
    *,
    settings: SamplingSettings,
    branches: Sequence[str],
    remembered: int,
) -> list[Forecast]:
    """Of runs one after the other. settings: of the picture, and branches: of guidance, that it needs.

    remembered: bytes on the device, beside the weights, that can be given back. Raises SettingsError where it cannot
    fit.
    """
    card, ram = parse_size("card", asked.card), parse_size("ram", asked.ram)
    tasks = _usual_tasks(activations, asked, settings=settings, branches=branches)
    more = {"assumed": _assumed(asked)}
    in_place = memory.in_place and card is None
    if asked.task == "interleave":  # its largest
        fits = len(tasks) - 1 if in_place else memory.largest(tasks, remembered, card=card, system_free=ram)[0]
        more["document"] = _as_far_as(fits, len(tasks))
        tasks = [tasks[fits]]
    if memory.device.type == "cpu" and card is None:
        more["card"] = _cards_for(memory, tasks)
    made = []
    for task in tasks:
        plan = None if in_place else memory.plan(task, remembered, card=card, system_free=ram)
        rows, free = (_in_place(memory, task) if plan is None else rows_of(plan)), None
        if memory.device.type == "cpu" and card is None:
            needed, there = memory.on_system(task, remembered, plan)
            free = there if ram is None else ram
            rows["free"] = _there(task, needed, free)
        sizes = memory.sizes
        bytes_in_place = InPlace(task.most_activations, _unpacking(sizes), sizes.stored_bytes, free)
        made.append(Forecast(task.name, plan or bytes_in_place, rows | more))
    return made


def _usual_tasks(
    activations: Activations, asked: ForecastSettings, *, settings: SamplingSettings, branches: Sequence[str]
) -> list[Task]:
    """Tasks of a run that is not prepared yet: a prompt with images of the largest size that is read."""
    if asked.task == "understand":
        config = activations.config
        read = asked.images * (understanding_pixel_limits(config.best_area)[1] // config.token_pixels**2)
        return [activations.writing(asked.prompt_tokens + read, asked.max_tokens, "an answer of")]
    prompt = activations.usual_tokens(asked.images, asked.prompt_tokens)
    if asked.task == "interleave":
        written = {name: prompt + asked.think_tokens for name in branches if name != UNCONDITIONAL}
        guided = UNCONDITIONAL in branches
        return activations.documents(DocumentSettings(settings), written, 0, unconditional=guided)
    lengths = {CONDITION: prompt + asked.think_tokens, IMAGES_ONLY: prompt, UNCONDITIONAL: USUAL_PROMPT}
    used = {name: lengths[name] for name in branches}
    beside = PAINTING if asked.inpaint else 0
    drawing = activations.drawing(settings, used, unread=True, images=asked.images, beside=beside)
    if not asked.think_tokens:
        return [drawing]
    return [activations.writing(prompt, asked.think_tokens, "reasoning of"), drawing]


def _as_far_as(index: int, pictures: int) -> str:
    """index: of the last picture that fits."""
    if index == pictures - 1:
        return f"grows with each of up to {pictures} pictures; this is its largest, and it is planned anew before each"
    return f"fits as far as picture {index + 1} of up to {pictures}; set max_images, or draw smaller pictures"


def _assumed(asked: ForecastSettings) -> str:
    """What `_usual_tasks` takes for granted, in words."""
    images = "images" if asked.images > 1 else "an image"
    shown = f", {images} of the largest size that is read" if asked.images else ""
    between = f", {USUAL_TEXT} tokens of text between two pictures" if asked.task == "interleave" else ""
    return f"a prompt of {asked.prompt_tokens} tokens with the system message{shown}{between}"


def _in_place(memory: Placement, task: Task) -> dict[str, str]:
    """A plan's rows where nothing is planned."""
    sizes = memory.sizes
    unpacking = _unpacking(sizes)
    ready = f", {in_words(unpacking)} to make one layer ready at a time" if unpacking else ""
    return {
        "task": task.name,
        "mode": IN_PLACE,
        **compute_row(sizes.int8),
        "system": f"{in_words(task.most_activations)} for the task itself{ready}; "
        f"{in_words(sizes.stored_bytes)} stay in their files",
    }


def _unpacking(sizes: Sizes) -> int:
    return max(map(sizes.unpacking, EXPERTS))


def _there(task: Task, needed: int, free: int) -> str:
    """Whether system memory is there for a task on the CPU."""
    if needed <= free:
        return f"{in_words(free)} of system memory, of which it takes up to {in_words(needed, ceil)}"
    return (
        f"only {in_words(free)} of system memory, where it takes up to {in_words(needed, ceil)}: it will swap, or be "
        f"refused; close other programs, or ask for {task.smaller}"
    )


def _cards_for(memory: Placement, tasks: list[Task]) -> str:
    """What to know about cards where none was named."""
    full = Limits("full", libraries=libraries(None))
    least = max(memory.sizes.smallest(task, full.libraries)[0] for task in tasks)
    most = max(make_plan(memory.sizes, task, full, system_free=0).device_bytes for task in tasks)
    return (
        f"none was named; {in_words(least, ceil)} is the least that works, with {in_words(most, ceil)} all layers "
        "of the expert in use stay. To plan for one, give its free memory as card (--card), such as 11GiB"
    )
