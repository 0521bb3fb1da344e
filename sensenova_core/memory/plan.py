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
from .allocator import taken, taken_by
from .budget import Limits, in_words
from .units import Units

RING = {"auto": 3, "full": 3, "balanced": 3, "low": 2}  # buffers that stream and compute
FRAGMENTATION = 1.23  # what an allocator reserves over what activations use that come and go
UNEVEN = 1.08  # times that, where they are of many lengths
STAGING = 2  # page-locked buffers through which files are read


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model. units: of each expert's, in order, as they lie and move; the understanding expert's last
    `head_pieces` are the output head's. fixed: small tensors that never move. stored_bytes: of the whole model.
    working: of the buffer that an expert's units are made ready in, if they do not run as they lie; scratch: what that
    takes beside it. int8: how many weights are multiplied as INT8.
    """

    units: dict[str, tuple[int, ...]]
    head_pieces: int
    fixed: int
    stored_bytes: int
    working: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EXPERTS, 0))
    scratch: int = 0
    int8: int = 0

    @classmethod
    def of(cls, units: Units, *, layers: int, fixed: int, stored_bytes: int) -> "Sizes":
        sizes = {expert: tuple(unit.nbytes for unit in found) for expert, found in units.items()}
        apart = {expert: [unit for unit in found if unit.apart] for expert, found in units.items()}
        working = {expert: max((unit.running_bytes for unit in found), default=0) for expert, found in apart.items()}
        scratch = max(unit.scratch for found in units.values() for unit in found)
        return cls(
            units=sizes,
            head_pieces=len(sizes[UNDERSTANDING]) - layers,
            fixed=fixed,
            stored_bytes=stored_bytes,
            working=working,
            scratch=scratch,
            int8=sum(len(unit.int8) for found in units.values() for unit in found),
        )

    def unpacking(self, expert: str) -> int:
        """What units of an expert are made ready in: nothing where they run as they lie."""
        return self.working[expert] + (self.scratch if self.working[expert] else 0)

    def slot_of(self, expert: str) -> int:
        """A buffer that any unit of an expert fits in, as an allocator gives it. The experts of a mixture may differ
        much."""
        return taken(max(self.units[expert]))

    @property
    def layers(self) -> int:
        """Of either expert."""
        return len(self.units[UNDERSTANDING]) - self.head_pieces

    @property
    def slot(self) -> int:
        """A buffer that any unit of either expert fits in."""
        return max(map(self.slot_of, self.units))

    @property
    def staging(self) -> int:
        """The buffers that files are read through."""
        return STAGING * self.slot

    def ring(self, mode: str, expert: str) -> int:
        """Buffers to stream through. One computes while the others fill, but where units compute in the working buffer,
        all of them fill."""
        return RING[mode] - 1 if self.working[expert] else RING[mode]

    def buffers(self, mode: str) -> int:
        """All that a mode has a use for: both experts for "auto", else the larger one, or its ring."""
        slots = {expert: len(sizes) for expert, sizes in self.units.items()}
        if mode in ("balanced", "low"):
            slots = {expert: min(self.ring(mode, expert), count) for expert, count in slots.items()}
        return (sum if mode == "auto" else max)(count * self.slot_of(expert) for expert, count in slots.items())

    def wanted(self, mode: str) -> int:
        """Most bytes of weights that a mode asks for at one time: of one expert, though "auto" keeps both if it may."""
        return self.fixed + max(map(self.unpacking, self.units)) + self.buffers("full" if mode == "auto" else mode)

    def smallest(self, task: "Task", libraries: int = 0) -> tuple[int, int]:
        """Bytes of the smallest budget for a task, and those of them that are beside the weights. libraries: see
        Limits."""
        beside = self.fixed + libraries
        return max(
            (work.reserved + beside + self.unpacking(expert) + self.slot_of(expert), work.reserved)
            for expert, work in task.works.items()
        )


@dataclass(frozen=True)
class Work:
    """What an expert does in a run. activations: bytes beside the weights. passes: None when nobody knows them yet.

    stays: of the activations, how many bytes lie there from beginning to end, and in how many tensors: keys and values.
    uneven: whether the others are of many lengths, as images and the text between them.
    """

    activations: int
    passes: int | None = None
    stays: tuple[int, int] = (0, 0)
    uneven: bool = False

    @property
    def reserved(self) -> int:
        """What an allocator takes for them, at the most."""
        size, count = self.stays
        lost = FRAGMENTATION * UNEVEN if self.uneven else FRAGMENTATION
        return taken_by(size, count) + int((self.activations - size) * lost)


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
    def most_activations(self) -> int:
        """Bytes beside the weights, at the most."""
        return max(work.reserved for work in self.works.values())

    @property
    def works(self) -> dict[str, Work]:
        """By expert."""
        return {UNDERSTANDING: self.reading} | ({} if self.drawing is None else {GENERATION: self.drawing})


@dataclass(frozen=True)
class Phase:
    """One expert at work: "reading", "writing" or "drawing".

    resident: indexes of units that stay on the card. page_locked: of those streamed whose bytes are kept page-locked in
    system memory, because every pass wants them. ring: buffers that streamed units pass through. other_expert_units:
    how many of the other expert's may stay on the card meanwhile; other_slot_bytes: of a buffer for one.
    unpacking_bytes: of what units are unpacked in. library_bytes: see Limits.libraries.
    """

    name: str
    unit_bytes: tuple[int, ...]
    slot_bytes: int
    other_slot_bytes: int
    fixed_bytes: int
    activation_bytes: int
    passes: int | None
    resident: tuple[int, ...]
    ring: int
    other_expert_units: int
    page_locked: tuple[int, ...] = ()
    unpacking_bytes: int = 0
    library_bytes: int = 0

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
    def page_locked_bytes(self) -> int:
        return len(self.page_locked) * self.slot_bytes

    @property
    def slots(self) -> int:
        """Buffers on the card."""
        return len(self.resident) + self.ring + self.other_expert_units

    @property
    def buffer_bytes(self) -> int:
        other = self.other_expert_units * self.other_slot_bytes
        return (len(self.resident) + self.ring) * self.slot_bytes + other

    @property
    def device_bytes(self) -> int:
        weights = self.fixed_bytes + self.unpacking_bytes + self.buffer_bytes
        return weights + self.activation_bytes + self.library_bytes


@dataclass(frozen=True)
class Plan:
    """Where weights will be during a run. phases: by expert. system_free: bytes of system memory there were to take.

    staging: bytes of the page-locked buffers that files are read through. stored_bytes: of the whole model. int8: how
    many weights are multiplied as INT8. later: bytes on the card that the same run will take at the most, where it is
    planned anew as it grows.
    """

    task: str
    limits: Limits
    system_free: int
    staging: int
    stored_bytes: int
    phases: dict[str, Phase]
    int8: int = 0
    later: int = 0

    @property
    def device_bytes(self) -> int:
        """Peak on the card, as an allocator reserves it. CUDA's own context comes on top."""
        return max(self.later, *(phase.device_bytes for phase in self.phases.values()))

    @property
    def page_locked_bytes(self) -> int:
        """Peak of page-locked memory."""
        return self.staging + max(phase.page_locked_bytes for phase in self.phases.values())

    @property
    def streams(self) -> bool:
        """Whether some units are copied in every pass of many."""
        return any(phase.streamed and phase.name != "reading" for phase in self.phases.values())


def make_plan(sizes: Sizes, task: Task, limits: Limits, *, system_free: int) -> Plan:
    """The plan that copies least within the limits. The same arguments give the same plan.

    system_free: bytes of system memory that may be taken. Raises SettingsError naming the smallest budget that works,
    and what else would help.
    """
    _check_smallest(sizes, task, limits)
    rooms = {expert: _room(sizes, task, limits, expert=expert) for expert in task.works}
    both = limits.mode == "auto" and min(rooms.values()) >= sizes.buffers("auto")
    lockable = max(0, limits.page_lockable(system_free) - sizes.staging)
    phases = {
        expert: _phase(sizes, task, limits, expert=expert, room=room, both=both, lockable=lockable)
        for expert, room in rooms.items()
    }
    return Plan(
        task=task.name,
        limits=limits,
        system_free=system_free,
        staging=sizes.staging,
        stored_bytes=sizes.stored_bytes,
        phases=phases,
        int8=sizes.int8,
    )


def _room(sizes: Sizes, task: Task, limits: Limits, *, expert: str) -> int:
    """Bytes for buffers on the card beside everything else in an expert's phase: one buffer or more."""
    room, slot, outside = sizes.buffers("auto"), sizes.slot_of(expert), sizes.fixed + sizes.unpacking(expert)
    work = task.works[expert].reserved + limits.libraries
    if limits.weights is not None:  # without a ring no copy hides behind computing
        room = min(room, max(sizes.ring(limits.mode, expert) * slot, limits.weights - outside))
    if limits.buffers is not None:
        room = min(room, max(slot, limits.buffers))
    if limits.device is not None:
        room = min(room, limits.device - work - outside)
    return room


def _check_smallest(sizes: Sizes, task: Task, limits: Limits) -> None:
    """Raise SettingsError unless every phase has room for one buffer."""
    needed, work = sizes.smallest(task, limits.libraries)
    if limits.device is not None and limits.device < needed:
        raise SettingsError(
            f"{task.name} does not fit in {in_words(limits.device)} of device memory: the smallest that works "
            f"is {in_words(needed, ceil)}, {in_words(work)} of it for the picture or text itself; raise max_memory, "
            f"free the card, or ask for {task.smaller}"
        )


def _phase(sizes: Sizes, task: Task, limits: Limits, *, expert: str, room: int, both: bool, lockable: int) -> Phase:
    """An expert's phase with so many bytes for buffers on the card. both: whether both experts' units have room there.

    lockable: bytes of system memory that units may be kept page-locked in.
    """
    mode, name = limits.mode, "drawing" if expert == GENERATION else "writing" if task.writes else "reading"
    units, slot, work = sizes.units[expert], sizes.slot_of(expert), task.works[expert]
    if name == "reading":
        units = units[: len(units) - sizes.head_pieces]
    other = next(each for each in sizes.units if each != expert)
    slots, most = min(room // slot, len(units)), sizes.ring(mode, expert)
    if mode in ("balanced", "low"):
        slots = min(slots, most)
    ring, other_units = min(most, slots), 0
    resident: tuple[int, ...] = ()
    if both:  # while reading, the output head stays too, though no pass asks for it
        resident, ring, other_units = tuple(range(len(sizes.units[expert]))), 0, len(sizes.units[other])
    elif name == "reading":  # a single pass gains nothing from staying; what the next phase wants may
        if mode in ("auto", "full"):
            other_units = min((room - ring * slot) // sizes.slot_of(other), len(sizes.units[other]))
    elif slots == len(units):
        resident, ring = tuple(range(len(units))), 0
    else:
        streamed = set(_spread(range(len(units)), len(units) - (slots - ring)))
        resident = tuple(index for index in range(len(units)) if index not in streamed)
    moving = [index for index in range(len(units)) if index not in set(resident)]
    again = name != "reading" and work.passes != 1
    page_locked = _spread(moving, min(len(moving), lockable // slot)) if again else ()
    return Phase(
        name=name,
        unit_bytes=units,
        slot_bytes=slot,
        other_slot_bytes=sizes.slot_of(other),
        fixed_bytes=sizes.fixed,
        activation_bytes=work.reserved,
        passes=work.passes,
        resident=resident,
        ring=ring,
        other_expert_units=other_units,
        page_locked=tuple(page_locked),
        unpacking_bytes=sizes.unpacking(expert),
        library_bytes=limits.libraries,
    )


def _spread(indexes: Sequence[int], count: int) -> list[int]:
    """`count` of the indexes, evenly spaced, so that what each costs hides behind as many of the others."""
    return [indexes[(2 * number + 1) * len(indexes) // (2 * count)] for number in range(count)]
