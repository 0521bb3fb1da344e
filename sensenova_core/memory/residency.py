"""Carries out a plan: brings units to the device before they are needed, and hands them out pass by pass."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from math import inf

import torch
from torch import Tensor, nn

from ..checkpoint import Packed, StoredWeights
from ..model import GENERATION, UNDERSTANDING
from .budget import in_words
from .clock import Clock
from .fixed import Fixed
from .page_locked import PageLockedStore
from .passes import Passes
from .plan import Phase, Plan, Sizes
from .slots import Slot, Slots
from .transfers import Mark, Transfers
from .units import Key, Part, Units

log = logging.getLogger(__name__)


class Residency:
    """The weights of one model, some on the device and the others in their files.

    A pass asks for an expert's units in order; a thread of its own brings those that will be wanted next, as far ahead
    as there are buffers. Which ones those are is a guess from the plan: a wrong guess costs a copy, never a result.
    """

    def __init__(
        self,
        stored: StoredWeights,
        units: Units,
        sizes: Sizes,
        *,
        fixed: Fixed,
        device: torch.device,
        transfers: Transfers,
        clock: Clock,
    ):
        """clock: counts how long computing stands still for copies, as "waiting"."""
        self.stored, self.units, self.sizes = stored, units, sizes
        self.fixed, self.embed = fixed, fixed.embed
        self.device, self.transfers, self.clock = device, transfers, clock
        self.copies: Counter[Key] = Counter()
        self.times_dropped = 0
        self.phases: dict[str, Phase] = {}  # by expert: another run's may go on with the phase that the plan lacks
        self._draws = False  # whether the plan has a phase of drawing
        self._start()

    def _start(self) -> None:
        """With nothing placed, and a thread of its own."""
        direct = self.device.type == "cpu"
        self.store = PageLockedStore(self.stored, self.units, self.sizes, transfers=self.transfers, direct=direct)
        self.slots = Slots(self.device, self.transfers)
        self.placed = False
        self.passes: Passes | None = None  # of the phase that goes on
        self._settled = False  # all that it wants is there and stays
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sensenova-copy")
        self._keeping: Future[None] = self._worker.submit(self.store.keep, frozenset())

    def forked(self) -> None:
        """Begin anew in a forked process, which has no thread that would end what was begun."""
        self.fixed.drop()
        self.times_dropped += 1
        self._start()

    @property
    def nbytes(self) -> int:
        """On the device now."""
        return (self.sizes.fixed if self.placed else 0) + self.slots.nbytes

    @property
    def most_bytes(self) -> int:
        """On the device at any time so far."""
        return self.sizes.fixed + self.slots.most_bytes

    @property
    def buffer_bytes(self) -> int:
        """Of buffers that units lie in."""
        return self.slots.buffer_bytes

    @property
    def page_locked_bytes(self) -> int:
        """Of system memory, page-locked where that works."""
        return self.store.nbytes

    def place(self) -> None:
        """Bring the small tensors that every pass needs, unless they are there; the units come when they are used."""
        if self.placed:
            return
        log.info("copying to %s begins: %s that every pass needs, then layers", self.device, in_words(self.sizes.fixed))
        try:
            self.fixed.place(self.device)
        except BaseException:
            self.drop()
            raise
        self.placed = True

    @property
    def at_rest(self) -> object | None:
        """See model.Weights."""
        units, of = self.units[UNDERSTANDING], self.slots.of
        writes = self.passes is not None and self.passes.expert == UNDERSTANDING and self._settled
        if not writes or any(unit.apart for unit in units):
            return None
        lying = [of.get((UNDERSTANDING, index)) for index in range(len(units))]
        if any(slot is None or slot.ready is not None for slot in lying):
            return None
        return self.slots.times_taken, self.fixed.times_placed, self.times_dropped

    def check(self) -> None:
        """Nothing to do: whatever is read from a file is checked when it is read."""

    def use(self, units: Units, sizes: Sizes) -> None:
        """Go on with other units from the next run on, whose bytes lie where the last ones' did, or of which none is
        on the device."""
        self.units, self.sizes = units, sizes
        self.store.units, self.store.sizes = units, sizes

    def begin(self, plan: Plan) -> None:
        """Carry out another plan from the next pass on."""
        self._draws, self.passes = GENERATION in plan.phases, None
        self.phases |= plan.phases

    def enter(self, expert: str) -> None:
        """Begin an expert's phase, unless it is the one that goes on: what it has no buffers for makes room.

        A pass does so by itself; whoever makes tensors before the first pass asks for it before.
        """
        self._passes_of(expert)

    def _passes_of(self, expert: str) -> Passes:
        if self.passes is not None and self.passes.expert == expert:
            return self.passes
        phase = self.phases[expert]
        draws_next = expert == UNDERSTANDING and self._draws
        drawing = tuple((GENERATION, index) for index in range(len(self.units[GENERATION])))
        passes = Passes(expert, phase, drawing if draws_next else ())
        self.passes, self._settled = passes, False
        self._make_way(expert, phase)
        if phase.name == "reading" and draws_next:  # one pass wants nothing page-locked; the drawing after it does
            expert, phase = GENERATION, self.phases[GENERATION]
        self._keeping.result()
        self._keeping = self._worker.submit(self.store.keep, frozenset((expert, index) for index in phase.page_locked))
        return passes

    def _make_way(self, expert: str, phase: Phase) -> None:
        """Give back the buffers that a phase has no use for."""
        others = [key for key in self.slots.of if key[0] != expert]
        passing = sorted(key for key in self.slots.of if key[0] == expert and not self._stays(key))
        for key in others[phase.other_expert_units :] + passing[phase.ring :]:
            self.slots.evict(key)
        self.slots.room = phase.buffer_bytes
        self.slots.drop_free(phase.buffer_bytes)
        working = self.slots.working
        if working is not None and working.buffer.nbytes != self.sizes.working[expert]:
            self.slots.drop_working()

    def drop(self) -> None:
        """Give back all memory, on the device and page-locked. Every tensor is on disk alone again."""
        self.placed, self.passes = False, None
        self.times_dropped += 1
        self.slots.drop()
        self._worker.submit(self.store.release).result()
        self.fixed.drop()

    def shrink(self, size: int) -> int:
        """Give back buffers until at least `size` bytes are free or none is left; returns how many that were.

        Those that the next pass would want last go first. The next run needs a plan with less.
        """
        before, most = self.nbytes, self.slots.buffer_bytes - size
        self.passes = None
        self.slots.drop_free(most)
        for key in sorted(self.slots.of, key=lambda key: key[1], reverse=True):
            if self.slots.buffer_bytes <= most:
                break
            self.slots.evict(key)
            self.slots.drop_free(most)
        if not self.slots.of:  # nobody is about to want what is page-locked either
            self.slots.drop_working()
            self._worker.submit(self.store.release).result()
        return before - self.nbytes

    def layers(self, expert: str) -> Iterator[nn.Module]:
        """One pass over an expert's layers: each is ready to run until the next one is asked for."""
        passes = self._passes_of(expert)
        passes.begin()
        return self._pass(passes, range(self.sizes.layers))

    def head(self) -> Iterator[Tensor]:
        """One pass over the output head's pieces: the same."""
        passes, pieces = self._passes_of(UNDERSTANDING), range(self.sizes.layers, len(self.units[UNDERSTANDING]))
        return (piece.get_parameter("weight") for piece in self._pass(passes, pieces))

    def _pass(self, passes: Passes, indexes: range) -> Iterator[nn.Module]:
        expert = passes.expert
        for index in indexes:
            self._prefetch(passes, index)
            slot, unit = self.slots.of[expert, index], self.units[expert][index]
            self._await(slot)
            if unit.apart:
                with self._using(slot):
                    module = self.slots.made_ready(unit, _parts_in(slot), self.sizes.working[expert])
                if index + 1 < indexes.stop:  # which may come to this slot now, while the layer computes
                    self._prefetch(passes, index + 1)
                yield module
            else:
                with self._using(slot):
                    yield slot.module(unit, _parts_in(slot))

    @contextmanager
    def _using(self, slot: Slot) -> Iterator[None]:
        try:
            yield
        finally:  # a pass that is broken off may have begun to use it
            slot.free = None if self._settled else self.transfers.mark()

    def _await(self, slot: Slot) -> None:
        """Wait for the copy into a buffer, if there is one."""
        if slot.ready is None:
            return
        try:
            with self.clock.counting("waiting"):
                self.transfers.wait(slot.ready)
        except BaseException:  # what failed here may have failed further ahead as well
            for other in [other for other, ahead in self.slots.of.items() if ahead.ready is not None]:
                self.slots.evict(other)
            self._settled = False
            raise
        slot.ready = None

    def _prefetch(self, passes: Passes, index: int) -> None:
        """Begin to copy what is wanted next, in the order it is wanted, while there are buffers for it."""
        if self._settled:
            return
        wanted, phase = passes.distances(index), passes.phase
        for key in wanted:
            if key in self.slots.of:
                continue
            slot = self._slot_for(key, wanted, phase.ring)
            if slot is None:
                return
            self._fetch(key, slot)
        self._settled = not phase.streamed and phase.name != "reading"

    def _slot_for(self, key: Key, wanted: dict[Key, int], ring: int) -> Slot | None:
        """A buffer for a unit: a free one, a new one where the plan has room, or that of what is wanted later."""
        size = self.sizes.slot_of(key[0])
        passing = [other for other in self.slots.of if not self._stays(other)]
        if (self._stays(key) or len(passing) < ring) and (slot := self.slots.fitting(size)):
            return slot
        for other in sorted(passing, key=lambda other: wanted.get(other, inf), reverse=True):
            if wanted.get(other, inf) <= wanted[key]:
                return None
            self.slots.evict(other)
            if slot := self.slots.fitting(size):
                return slot
        return None if wanted[key] else self.slots.new(size)  # what the plan did not foresee must still run

    def _stays(self, key: Key) -> bool:
        return key[0] in self.phases and key[1] in self.phases[key[0]].stays

    def _fetch(self, key: Key, slot: Slot) -> None:
        self.slots.of[key] = slot
        self.copies[key] += 1
        slot.ready = self._worker.submit(self._send, key, slot, slot.free)

    @torch.inference_mode()
    def _send(self, key: Key, slot: Slot, free: Mark) -> Mark:
        mark = self.store.send(key, slot.buffer, free)
        slot.copied(mark)
        return mark


def _parts_in(slot: Slot) -> Callable[[Part], Tensor | Packed]:
    return lambda part: part.of(slot.buffer)
