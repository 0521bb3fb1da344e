"""Buffers on the device: those that units lie in, those that are free, and the one that units are made ready in."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import Packed
from .transfers import Mark, Transfers
from .units import Key, Part, Unit, fill, plant, uproot


class Slot:
    """A buffer on the device that any unit of an expert fits in, or that any of them is made ready in.

    ready: the copy into it. free: the end of its last use, noted late where nothing waits for it.

    Its memory is given back to the queue that it was taken from, and that queue comes after the copies into it first,
    also where nobody drops it but its owner ends.
    """

    def __init__(self, size: int, device: torch.device, transfers: Transfers):
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self.ready: Future[Mark] | None = None
        self._copied: list[Mark] = [None]  # of the last copy
        self._order = partial(_order, transfers, self._copied, transfers.stream())
        weakref.finalize(self, self._order).atexit = False
        self.free = transfers.mark()  # after the allocation, which may itself be a piece of work in the device's queue
        self._modules: dict[str, nn.Module] = {}

    @property
    def nbytes(self) -> int:
        buffer = self.buffer  # which another thread may drop while this one counts
        return 0 if buffer is None else buffer.nbytes

    def module(self, unit: Unit, lying: Callable[[Part], Tensor | Packed]) -> nn.Module:
        """The module that computes with what lies here; one serves all units of a kind. lying: gives a part as it lies
        until then."""
        if unit.kind not in self._modules:
            self._modules[unit.kind] = unit.module_on(self.buffer)
        module = self._modules[unit.kind]
        if unit.int8:
            plant(unit, module, lying)
        return module

    def copied(self, mark: Mark) -> None:
        """Note the mark of a copy into it that has begun."""
        self._copied[0] = mark

    def drop(self) -> None:
        """Give the memory back now, whoever still has a module on it, as a pass does until it gets the next one."""
        self._order()
        for module in self._modules.values():
            uproot(module)
            for value in module.parameters():
                value.data = value.data.new_empty(0)
        self._modules.clear()
        self.buffer = self.buffer.new_empty(0)


def _order(transfers: Transfers, copied: list[Mark], stream: Any) -> None:
    """Have a queue come after the last copy into a buffer of its. Holds no slot, for it outlives them."""
    transfers.order(copied[0], stream)


class Slots:
    """All buffers of one model. room: bytes that may be taken for units to lie in.

    of: by unit, the buffers that have one, or will when a copy has ended.
    """

    def __init__(self, device: torch.device, transfers: Transfers):
        self.room, self.most_bytes = 0, 0
        self.times_taken = 0  # a buffer, from a unit
        self.of: dict[Key, Slot] = {}
        self.free: list[Slot] = []
        self.working: Slot | None = None
        self._device, self._transfers = device, transfers

    @property
    def buffer_bytes(self) -> int:
        """Of buffers that units lie in."""
        return sum(slot.nbytes for slot in (*self.of.values(), *self.free))

    @property
    def nbytes(self) -> int:
        working = self.working
        return self.buffer_bytes + (0 if working is None else working.nbytes)

    def fitting(self, size: int) -> Slot | None:
        """A free buffer, or a new one in the place of free ones of another size; None where there is no room."""
        for slot in self.free:
            if slot.buffer.nbytes == size:
                self.free.remove(slot)
                return slot
        self.drop_free(self.room - size)
        return self.new(size) if self.buffer_bytes + size <= self.room else None

    def new(self, size: int) -> Slot:
        slot = Slot(size, self._device, self._transfers)
        self.most_bytes = max(self.most_bytes, self.nbytes + size)
        return slot

    def evict(self, key: Key) -> None:
        """Take a unit's buffer away from it. A copy into it may be under way: what comes to it next is ordered behind
        that, another copy by the queue of copies, and whoever is given its memory by `Slot.drop`."""
        slot = self.of.pop(key)
        self.times_taken += 1
        if slot.ready is not None:
            if not slot.ready.cancel():
                slot.ready.exception()  # waits until it has begun
            slot.ready = None
        if slot.free is None:
            slot.free = self._transfers.mark()
        self.free.append(slot)

    def made_ready(self, unit: Unit, lying: Callable[[Part], Tensor | Packed], size: int) -> nn.Module:
        """The module that computes with a unit, once it is made ready. lying: gives a part as it lies. size: of a new
        working buffer."""
        if self.working is None:
            self.working = self.new(size)
        fill(unit, lying, self.working.buffer)
        return self.working.module(unit, lying)

    def drop_free(self, most: int = 0) -> None:
        """Give free buffers back until no more than so many bytes are left of all that units lie in."""
        while self.free and self.buffer_bytes > most:
            self.free.pop().drop()

    def drop_working(self) -> None:
        if self.working is not None:
            self.working.drop()
            self.working = None

    def drop(self) -> None:
        """Give all of it back."""
        for key in list(self.of):
            self.evict(key)
        self.drop_free()
        self.drop_working()
