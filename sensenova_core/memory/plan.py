"""A residency plan: which units stay on the card and which stream, given so much memory. Pure arithmetic.

A run has one phase per expert: the understanding expert reads (one pass over what is known) or writes (a pass for every
token), the generation expert draws (a pass for every step). In a phase only its own expert is wanted on the card.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil

from ..errors import SettingsError
from ..model import GENERATION, UNDERSTANDING
from ..model.unified import EXPERTS
from .budget import Limits, in_words
from .units import Units

RING = {"auto": 3, "full": 3, "balanced": 3, "low": 2}  # buffers that stream and compute
FRAGMENTATION = 1.15  # what an allocator reserves over what activations use
USUAL_BANDWIDTH = 25e9  # bytes a second over PCIe 4 x16
STAGING = 2  # page-locked buffers through which files are read


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model. units: of each expert's, in order, as they lie and move; the understanding expert's last
    `head_pieces` are the output head's. fixed: small tensors that never move. stored: the whole model, embeddings too.
    working: of the buffer that an expert's units are made ready in, if they do not run as they lie; scratch: what that
    takes beside it.
    """

    units: dict[str, tuple[int, ...]]
    head_pieces: int
    fixed: int
    stored: int
    working: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EXPERTS, 0))
    scratch: int = 0

    @classmethod
    def of(cls, units: Units, layers: int, fixed: int, stored: int) -> "Sizes":
        sizes = {expert: tuple(unit.nbytes for unit in found) for expert, found in units.items()}
        apart = {expert: [unit for unit in found if unit.apart] for expert, found in units.items()}
        working = {expert: max((unit.running_bytes for unit in found), default=0) for expert, found in apart.items()}
        scratch = max(unit.scratch for found in units.values() for unit in found)
        return cls(sizes, len(sizes[UNDERSTANDING]) - layers, fixed, stored, working, scratch)

    def unpacking(self, expert: str) -> int:
        """What units of an expert are made ready in: nothing where they run as they lie."""
        return self.working[expert] + (self.scratch if self.working[expert] else 0)

    def slot_of(self, expert: str) -> int:
        """A buffer that any unit of an expert fits in. The experts of a mixture may differ much."""
        return max(self.units[expert])

    @property
    def layers(self) -> int:
        """Of either expert."""
        return len(self.units[UNDERSTANDING]) - self.head_pieces

    @property
    def slot(self) -> int:
        """A buffer that any unit of either expert fits in."""
        return max(map(max, self.units.values()))

    @property
    def staging(self) -> int:
        """The buffers that files are read through."""
        return STAGING * self.slot

    def ring(self, mode: str, expert: str) -> int:
        """Buffers to stream through. One computes while the others fill, but where units compute in the working buffer,
        all of them fill."""
        return RING[mode] - (self.working[expert] > 0)

    def buffers(self, mode: str) -> int:
        """All that a mode has a use for: both experts for "auto", else the larger one, or its ring."""
        slots = {expert: len(sizes) for expert, sizes in self.units.items()}
        if mode in ("balanced", "low"):
            slots = {expert: min(self.ring(mode, expert), count) for expert, count in slots.items()}
        return (sum if mode == "auto" else max)(count * self.slot_of(expert) for expert, count in slots.items())

    def wanted(self, mode: str) -> int:
        """Most bytes of weights that a mode asks for at one time: of one expert, though "auto" keeps both if it may."""
        return self.fixed + max(map(self.unpacking, self.units)) + self.buffers("full" if mode == "auto" else mode)

    def smallest(self, task: "Task") -> tuple[int, int]:
        """Bytes of the smallest budget for a task, and those of them that are beside the weights."""
        return max(
            (work.reserved + self.fixed + self.unpacking(expert) + self.slot_of(expert), work.reserved)
            for expert, work in task.works.items()
        )


@dataclass(frozen=True)
class Work:
    """What an expert does in a run. working: bytes beside the weights. passes: None when nobody knows beforehand."""

    working: int
    passes: int | None = None

    @property
    def reserved(self) -> int:
        return int(self.working * FRAGMENTATION)


@dataclass(frozen=True)
class Task:
    """What is to be planned, in words too. writes: the understanding expert writes text, and does not only read."""

    name: str
    reading: Work
    writes: bool = False
    drawing: Work | None = None

    @property
    def smaller(self) -> str:
        """What would take less."""
        if self.drawing is None:
            return "fewer or smaller images to read, a shorter text to go on from, fewer tokens"
        return f"fewer pixels, {'' if self.writes else 'a batch of 1, '}fewer or smaller images, less text"

    @property
    def most_working(self) -> int:
        """Bytes beside the weights, at the most."""
        return max(work.reserved for work in self.works.values())

    @property
    def works(self) -> dict[str, Work]:
        """By expert."""
        return {UNDERSTANDING: self.reading} | ({} if self.drawing is None else {GENERATION: self.drawing})


@dataclass(frozen=True)
class Phase:
    """One expert at work: "reading", "writing" or "drawing".

    resident, pinned: indexes of units that stay on the card; and of those streamed whose bytes stay in page-locked
    memory, because every pass wants them. ring: buffers that streamed units pass through. kept: units of the other
    expert that may stay where they are. unpacking_bytes: of what units are unpacked in.
    """

    name: str
    unit_bytes: tuple[int, ...]
    slot_bytes: int
    kept_bytes: int
    fixed_bytes: int
    working_bytes: int
    passes: int | None
    resident: tuple[int, ...]
    ring: int
    kept: int
    pinned: tuple[int, ...] = ()
    unpacking_bytes: int = 0

    @cached_property
    def stays(self) -> frozenset[int]:
        return frozenset(self.resident)

    @cached_property
    def streamed(self) -> tuple[int, ...]:
        return tuple(index for index in range(len(self.unit_bytes)) if index not in self.stays)

    @property
    def streamed_bytes(self) -> int:
        """What every pass copies."""
        return sum(self.unit_bytes[index] for index in self.streamed)

    @property
    def pinned_bytes(self) -> int:
        return len(self.pinned) * self.slot_bytes

    @property
    def slots(self) -> int:
        """Buffers on the card."""
        return len(self.resident) + self.ring + self.kept

    @property
    def buffer_bytes(self) -> int:
        return (len(self.resident) + self.ring) * self.slot_bytes + self.kept * self.kept_bytes

    @property
    def device_bytes(self) -> int:
        return self.fixed_bytes + self.unpacking_bytes + self.buffer_bytes + self.working_bytes


@dataclass(frozen=True)
class Plan:
    """Where weights will be during a run. phases: by expert. host_free: bytes of system memory there were to take.

    staging: bytes of the page-locked buffers that files are read through. stored: of the whole model.
    """

    task: str
    limits: Limits
    host_free: int
    staging: int
    stored: int
    phases: dict[str, Phase]

    @property
    def device_bytes(self) -> int:
        """Peak on the card."""
        return max(phase.device_bytes for phase in self.phases.values())

    @property
    def pinned_bytes(self) -> int:
        """Peak of page-locked memory."""
        return self.staging + max(phase.pinned_bytes for phase in self.phases.values())

    @property
    def streams(self) -> bool:
        """Whether some units are copied in every pass of many."""
        return any(phase.streamed and phase.name != "reading" for phase in self.phases.values())

    @property
    def mode(self) -> str:
        """What the mode comes to: auto's choice, or that not all of "full" fits."""
        mode = self.limits.mode
        if mode not in ("auto", "full"):
            return mode
        if not self.streams:
            kept = any(phase.kept and phase.resident for phase in self.phases.values())
            return f"{mode}: both experts stay" if kept else "full" if mode == "full" else "auto: full"
        return f"{mode}: as many layers stay as fit"

    def brief(self) -> str:
        """In one line: what the mode comes to, and what it takes."""
        limit = "" if self.limits.device is None else f" of {in_words(self.limits.device)}"
        return f"memory {self.mode}; {self.task} takes up to {in_words(self.device_bytes)}{limit}"

    def explain(self) -> str:
        """For the user: what the run will take, and why."""
        return in_rows(self.rows())

    def rows(self) -> dict[str, str]:
        """What `explain` says, by subject."""
        limit = self.limits.device
        rows = {"task": self.task, "mode": self.mode + ("" if limit is None else f", {in_words(limit)} to use")}
        rows |= {phase.name: _explained(phase, self.limits) for phase in self.phases.values()}
        rows["device"] = f"{in_words(self.device_bytes)} at most"
        if unpacking := max(phase.unpacking_bytes for phase in self.phases.values()):
            rows["device"] += f", {in_words(unpacking)} of it to make one layer ready at a time"
        rows["system"] = (
            f"{in_words(self.pinned_bytes)} page-locked of {in_words(self.host_free)} free; "
            f"{in_words(self.stored)} stay in their files"
        )
        return rows


def in_rows(rows: dict[str, str]) -> str:
    return "\n".join(f"{name:<8} : {row}" for name, row in rows.items())


def make_plan(sizes: Sizes, task: Task, limits: Limits, host_free: int) -> Plan:
    """The plan that copies least within the limits. The same arguments give the same plan.

    host_free: bytes of system memory that may be taken. Raises SettingsError naming the smallest budget that works,
    and what else would help.
    """
    _check_smallest(sizes, task, limits)
    rooms = {expert: _room(sizes, expert, task, limits) for expert in task.works}
    both = limits.mode == "auto" and min(rooms.values()) >= sizes.buffers("auto")
    phases = {expert: _phase(expert, sizes, task, limits, rooms[expert], both, host_free) for expert in task.works}
    return Plan(task.name, limits, host_free, sizes.staging, sizes.stored, phases)


def _room(sizes: Sizes, expert: str, task: Task, limits: Limits) -> int:
    """Bytes for buffers on the card beside everything else in an expert's phase: one buffer or more."""
    room, slot, outside = sizes.buffers("auto"), sizes.slot_of(expert), sizes.fixed + sizes.unpacking(expert)
    if limits.weights is not None:  # without a ring no copy hides behind computing
        room = min(room, max(sizes.ring(limits.mode, expert) * slot, limits.weights - outside))
    if limits.buffers is not None:
        room = min(room, max(slot, limits.buffers))
    if limits.device is not None:
        room = min(room, limits.device - task.works[expert].reserved - outside)
    return room


def _check_smallest(sizes: Sizes, task: Task, limits: Limits) -> None:
    """Raise SettingsError unless every phase has room for one buffer."""
    needed, work = sizes.smallest(task)
    if limits.device is not None and limits.device < needed:
        raise SettingsError(
            f"{task.name} does not fit in {in_words(limits.device)} of device memory: the smallest that works "
            f"is {in_words(needed, ceil)}, {in_words(work)} of it for the picture or text itself; raise max_memory, "
            f"free the card, or ask for {task.smaller}"
        )


def _phase(expert: str, sizes: Sizes, task: Task, limits: Limits, room: int, both: bool, host_free: int) -> Phase:
    name = "drawing" if expert == GENERATION else "writing" if task.writes else "reading"
    units, slot, work = sizes.units[expert], sizes.slot_of(expert), task.works[expert]
    if name == "reading":
        units = units[: len(units) - sizes.head_pieces]
    other = next(each for each in sizes.units if each != expert)
    slots, most = min(room // slot, len(units)), sizes.ring(limits.mode, expert)
    if limits.mode in ("balanced", "low"):
        slots = min(slots, most)
    ring, resident, kept = min(most, slots), (), 0
    if both:  # while reading, the output head stays too, though no pass asks for it
        resident, ring, kept = tuple(range(len(sizes.units[expert]))), 0, len(sizes.units[other])
    elif name == "reading":  # a single pass gains nothing from staying; what the next phase wants may
        if limits.mode in ("auto", "full"):
            kept = min((room - ring * slot) // sizes.slot_of(other), len(sizes.units[other]))
    elif slots == len(units):
        resident, ring = tuple(range(len(units))), 0
    else:
        streamed = set(_spread(range(len(units)), len(units) - (slots - ring)))
        resident = tuple(index for index in range(len(units)) if index not in streamed)
    moving = [index for index in range(len(units)) if index not in set(resident)]
    pinnable = max(0, (limits.pinned(host_free) - sizes.staging) // slot)
    again = name != "reading" and work.passes != 1
    pinned = _spread(moving, min(len(moving), pinnable)) if again else ()
    return Phase(
        name,
        units,
        slot,
        sizes.slot_of(other),
        sizes.fixed,
        work.reserved,
        work.passes,
        resident,
        ring,
        kept,
        tuple(pinned),
        sizes.unpacking(expert),
    )


def _spread(indexes: Sequence[int], count: int) -> list[int]:
    """`count` of the indexes, evenly spaced, so that what each costs hides behind as many of the others."""
    return [indexes[(2 * place + 1) * len(indexes) // (2 * count)] for place in range(count)]


def _explained(phase: Phase, limits: Limits) -> str:
    units, streamed = len(phase.unit_bytes), len(phase.streamed)
    if not streamed:
        return f"all {units} parts stay on the card ({in_words(sum(phase.unit_bytes))})"
    often = "once" if phase.name == "reading" else "for every token" if phase.name == "writing" else "every step"
    text = f"{streamed} of {units} parts stream through {phase.ring} buffers, {in_words(phase.streamed_bytes)} {often}"
    again = phase.name != "reading" and phase.passes != 1
    if again and len(phase.pinned) < streamed and limits.host != 0:
        text += f"; system memory holds only {len(phase.pinned)} of them page-locked, the others are read anew: slower"
    if phase.name == "writing":
        text += f"; about {phase.streamed_bytes / USUAL_BANDWIDTH:.2f} s a token at {USUAL_BANDWIDTH / 1e9:.0f} GB/s"
    return text
