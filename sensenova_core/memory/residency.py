"""Carries out a plan: brings units to the device before they are needed, and hands them out pass by pass."""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import inf

import torch
from torch import nn

from ..checkpoint import StoredWeights
from ..model import SenseNovaU1
from .budget import in_words
from .page_locked import Key, PageLockedStore
from .plan import Phase, Plan, Sizes
from .transfers import Clock, Mark, Transfers
from .units import (
    EXPERTS,
    GENERATION,
    UNDERSTANDING,
    Fixed,
    Unit,
    Units,
    fill,
)

log = logging.getLogger(__name__)


class Slot:
    """A buffer on the device that any unit of an expert fits in, or that any of them is made ready in.

    ready: the copy into it. free: the end of its last use, noted late where nothing waits for it.
    """

    def __init__(self, size: int, device: torch.device, lane: Transfers):
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self.ready: Future[Mark] | None = None
        self.free = lane.mark()  # after the allocation, which may itself be a piece of work in the device's queue
        self._modules: dict[str, nn.Module] = {}

    def module(self, unit: Unit) -> nn.Module:
        """The module that computes with what lies here; one serves all units of a kind."""
        if unit.kind not in self._modules:
            self._modules[unit.kind] = unit.module_on(self.buffer)
        return self._modules[unit.kind]

    def drop(self) -> None:
        """Give the memory back now, whoever still holds a module on it, as a pass does until it gets the next one."""
        for module in self._modules.values():
            for value in module.parameters():
                value.data = value.data.new_empty(0)
        self._modules.clear()
        self.buffer = None


class Residency:
    """The weights of one model, some on the device and the others in their files.

    A pass asks for an expert's units in order; a thread of its own brings those that will be wanted next, as far ahead
    as there are buffers. Which ones those are is a guess from the plan: a wrong guess costs a copy, never a result.
    """

    def __init__(
        self,
        model: SenseNovaU1,
        weights: StoredWeights,
        units: Units,
        fixed: Fixed,
        sizes: Sizes,
        device: torch.device,
        lane: Transfers,
        clock: Clock,
    ):
        """The model's decoders and output head get their weights from here from now on.

        clock: counts how long computing stands still for copies, as "waiting".
        """
        self.weights, self.units, self.fixed, self.sizes, self.device = weights, units, fixed, sizes, device
        self.lane, self.clock = lane, clock
        self.store = PageLockedStore(weights, units, sizes, self.lane, direct=device.type == "cpu")
        self.copies: Counter[Key] = Counter()
        self.placed, self.times_dropped, self.most_bytes = False, 0, 0
        self.plan: Plan | None = None
        self._slots: dict[Key, Slot] = {}  # that hold a unit, or will when a copy has ended
        self._free: list[Slot] = []
        self._working: Slot | None = None  # where what does not run in its own buffer runs
        self._active, self._left, self._settled = "", None, False
        self._phases: dict[str, Phase] = {}
        self._residents: dict[str, frozenset[int]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sensenova-copy")
        self._kept: Future[None] = self._worker.submit(self.store.keep, frozenset())
        layers = model.config.decoder.num_layers
        for expert in EXPERTS:  # bound to parts of the model alone: a circle would keep dropped weights alive
            getattr(model, expert).decoder.source = partial(self.layers, expert, layers)
        model.understanding.head_source = partial(self.head, layers)

    @property
    def nbytes(self) -> int:
        """On the device now."""
        working = 0 if self._working is None else self._working.buffer.nbytes
        return (self.sizes.fixed if self.placed else 0) + working + self.buffer_bytes

    @property
    def buffer_bytes(self) -> int:
        """Of buffers that units lie in."""
        return sum(slot.buffer.nbytes for slot in (*self._slots.values(), *self._free))

    @property
    def host_bytes(self) -> int:
        """Kept in system memory, page-locked where that works."""
        return self.store.nbytes

    def place(self) -> None:
        """Bring the small tensors that every pass needs, unless they are there; the units come when they are used."""
        if self.placed:
            return
        log.info("copying to %s begins: %s that every pass needs, then layers", self.device, in_words(self.sizes.fixed))
        try:
            self.fixed.place(self.weights, self.device)
        except BaseException:
            self.drop()
            raise
        self.placed = True

    def use(self, units: Units, sizes: Sizes) -> None:
        """Go on with other units from the next run on, whose bytes lie where the last ones' did, or of which none is
        on the device."""
        self.units, self.sizes = units, sizes
        self.store.units, self.store.sizes = units, sizes

    def begin(self, plan: Plan) -> None:
        """Carry out another plan from the next pass on."""
        self.plan, self._active = plan, ""
        self._phases |= plan.phases  # another run's may go on with the phase that this plan lacks
        self._residents |= {expert: frozenset(phase.resident) for expert, phase in plan.phases.items()}

    def enter(self, expert: str) -> None:
        """Begin an expert's phase, unless it is the one that goes on: what it has no place for makes room.

        A pass does so by itself; whoever makes tensors before the first pass asks for it before.
        """
        if self._active == expert:
            return
        phase = self._phase(expert)
        self._active, self._left, self._settled = expert, phase.passes, False
        others = [key for key in self._slots if key[0] != expert]
        for key in others[phase.kept :]:
            self._evict(key)
        own = sorted(key for key in self._slots if key[0] == expert and not self._stays(key))
        for key in own[phase.ring :]:
            self._evict(key)
        while self._free and self.buffer_bytes > phase.buffer_bytes:
            self._free.pop().drop()
        if self._working is not None and self._working.buffer.nbytes != self.sizes.working[expert]:
            self._drop_working()
        self._kept.result()
        self._kept = self._worker.submit(self.store.keep, self._pinned(phase, expert))

    def drop(self) -> None:
        """Give back all memory, on the device and page-locked. Every tensor is on disk alone again."""
        self.placed, self._active = False, ""
        self.times_dropped += 1
        for key in list(self._slots):
            self._evict(key)
        while self._free:
            self._free.pop().drop()
        self._drop_working()
        self._worker.submit(self.store.release).result()
        self.fixed.drop()

    def shrink(self, size: int) -> int:
        """Give back buffers until at least `size` bytes are free or none is left; returns how many that were.

        Those that the next pass would want last go first. The next run needs a plan with less.
        """
        before = self.nbytes
        while self._free and before - self.nbytes < size:
            self._free.pop().drop()
        for key in sorted(self._slots, key=lambda key: key[1], reverse=True):
            if before - self.nbytes >= size:
                break
            self._evict(key)
            self._free.pop().drop()
        if not self._slots:  # nobody is about to want what is page-locked either
            self._drop_working()
            self._worker.submit(self.store.release).result()
        self._active = ""
        return before - self.nbytes

    def layers(self, expert: str, count: int) -> Iterator[nn.Module]:
        """One pass over an expert's layers: each is ready to run until the next one is asked for."""
        self.enter(expert)
        self._left = None if self._left is None else max(0, self._left - 1)
        return self._pass(expert, range(count))

    def head(self, first: int) -> Iterator[nn.Module]:
        """One pass over the output head's pieces, the first of which is the unit of that index."""
        self.enter(UNDERSTANDING)
        return self._pass(UNDERSTANDING, range(first, len(self.units[UNDERSTANDING])))

    def _pass(self, expert: str, indexes: range) -> Iterator[nn.Module]:
        for index in indexes:
            key = (expert, index)
            self._prefetch(key)
            slot = self._slots[key]
            if slot.ready is not None:
                self._await(slot)
            unit = self.units[expert][index]
            if unit.apart:
                with self._using(slot):
                    module = self._made_ready(unit, slot)
                if index + 1 < indexes.stop:  # which may come to this slot now, while the layer computes
                    self._prefetch((expert, index + 1))
                yield module
            else:
                with self._using(slot):
                    yield slot.module(unit)

    @contextmanager
    def _using(self, slot: Slot) -> Iterator[None]:
        try:
            yield
        finally:  # a pass that is broken off may have begun to use it
            slot.free = None if self._settled else self.lane.mark()

    def _made_ready(self, unit: Unit, slot: Slot) -> nn.Module:
        """The module that computes with a unit, once it is made ready from the slot that it lies in."""
        if self._working is None:
            self._working = self._new_buffer(self.sizes.working[unit.expert])
        fill(unit, lambda part: part.of(slot.buffer), self._working.buffer)
        return self._working.module(unit)

    def _drop_working(self) -> None:
        if self._working is not None:
            self._working.drop()
            self._working = None

    def _await(self, slot: Slot) -> None:
        try:
            with self.clock.counting("waiting"):
                self.lane.wait(slot.ready)
        except BaseException:  # what failed here may have failed further ahead as well
            for other in [other for other, ahead in self._slots.items() if ahead.ready is not None]:
                self._evict(other)
            raise
        slot.ready = None

    def _pinned(self, phase: Phase, expert: str) -> frozenset[Key]:
        """What stays page-locked during a phase: while a new prompt is read, what the drawing after it will want."""
        if phase.name == "reading" and GENERATION in self.plan.phases:
            phase, expert = self._phase(GENERATION), GENERATION
        return frozenset((expert, index) for index in phase.pinned)

    def _prefetch(self, now: Key) -> None:
        """Begin to copy what is wanted next, in the order it is wanted, while there are buffers for it."""
        if self._settled:
            return
        for ahead, key in enumerate(self._wanted_next(now)):
            if key in self._slots:
                continue
            slot = self._slot_for(key, ahead, now)
            if slot is None:
                return
            self._fetch(key, slot)
        phase = self._phase(now[0])
        self._settled = not phase.streamed and phase.name != "reading"

    def _wanted_next(self, now: Key) -> Iterator[Key]:
        """The units that will be wanted, as far as the plan tells: this one, the rest of the pass, the next one."""
        expert, index = now
        count = len(self._phase(expert).unit_bytes)
        yield from ((expert, later) for later in range(index, max(count, index + 1)))
        if self._left is None or self._left > 0:
            yield from ((expert, later) for later in range(index))
        elif expert == UNDERSTANDING and GENERATION in self.plan.phases:
            yield from ((GENERATION, later) for later in range(len(self.units[GENERATION])))

    def _distance(self, key: Key, now: Key) -> float:
        """How many units before one is wanted; infinity for never."""
        count = len(self._phase(now[0]).unit_bytes)
        if key[0] == now[0]:
            if key[1] >= now[1]:
                return key[1] - now[1]
            again = self._left is None or self._left > 0
            return count - now[1] + key[1] if again else inf
        follows = now[0] == UNDERSTANDING and GENERATION in self.plan.phases and self._left == 0
        return count - now[1] + key[1] if follows else inf

    def _slot_for(self, key: Key, ahead: int, now: Key) -> Slot | None:
        """A buffer for a unit: a free one, a new one where the plan has room, or that of what is wanted later."""
        phase = self._phase(now[0])
        passing = [other for other in self._slots if not self._stays(other)]
        if (self._stays(key) or len(passing) < phase.ring) and (slot := self._fitting(key, phase)):
            return slot
        passing = [other for other in passing if other != now]
        while passing:
            last = max(passing, key=lambda other: self._distance(other, now))
            if self._distance(last, now) <= ahead:
                return None
            passing.remove(last)
            self._evict(last)
            if slot := self._fitting(key, phase):
                return slot
        return None if ahead else self._new_slot(key)  # what the plan did not foresee must still run

    def _fitting(self, key: Key, phase: Phase) -> Slot | None:
        """A free buffer, or a new one in the place of free ones of another size; None where there is no room."""
        size = self.sizes.slot_of(key[0])
        for slot in self._free:
            if slot.buffer.nbytes == size:
                self._free.remove(slot)
                return slot
        while self._free and self.buffer_bytes + size > phase.buffer_bytes:
            self._free.pop().drop()
        return self._new_slot(key) if self.buffer_bytes + size <= phase.buffer_bytes else None

    def _new_slot(self, key: Key) -> Slot:
        return self._new_buffer(self.sizes.slot_of(key[0]))

    def _new_buffer(self, size: int) -> Slot:
        slot = Slot(size, self.device, self.lane)
        self.most_bytes = max(self.most_bytes, self.nbytes + slot.buffer.nbytes)
        return slot

    def _stays(self, key: Key) -> bool:
        return key[1] in self._residents.get(key[0], ())

    def _fetch(self, key: Key, slot: Slot) -> None:
        self._slots[key] = slot
        self.copies[key] += 1
        slot.ready = self._worker.submit(self._send, key, slot, slot.free)

    @torch.inference_mode()
    def _send(self, key: Key, slot: Slot, free: Mark) -> Mark:
        return self.store.send(key, slot.buffer, free)

    def _evict(self, key: Key) -> None:
        """Take a unit's buffer away from it; a copy into it that is under way ends first."""
        slot, self._settled = self._slots.pop(key), False
        if slot.ready is not None:
            if not slot.ready.cancel() and slot.ready.exception() is None:
                self.lane.finish(slot.ready.result())
            slot.ready = None
        if slot.free is None:
            slot.free = self.lane.mark()
        self._free.append(slot)

    def _phase(self, expert: str) -> Phase:
        return self._phases[expert]
