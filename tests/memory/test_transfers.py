"""Copies to a card, without one: what of CUDA is called, and in which order."""

import gc
import mmap
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from sensenova_core.memory.page_locked import PageLockedBuffer
from sensenova_core.memory.slots import Slot, Slots
from sensenova_core.memory.transfers import CudaTransfers, Transfers

CPU = torch.device("cpu")


class Queue:
    """A stream, which notes the events that it is to come after."""

    def __init__(self, *device):
        self.after: list[object] = []

    def wait_event(self, event: object) -> None:
        self.after.append(event)

    def synchronize(self) -> None: ...


class Card(SimpleNamespace):
    """Stands in for torch.cuda. refused: the error of page-locking; pending: what nobody has picked up."""

    def __init__(self):
        super().__init__(computes=Queue(), refused=0, pending=0, locked=[], unlocked=[])
        self.Stream, self.Event = Queue, lambda **named: SimpleNamespace(record=lambda stream: None)
        self.runtime = SimpleNamespace(cudaHostRegister=self.lock, cudaHostUnregister=self.unlock)

    def lock(self, start: int, size: int, flags: int) -> int:
        self.locked.append((start, size))
        self.pending = self.refused
        return self.refused

    def unlock(self, start: int) -> int:
        self.unlocked.append(start)
        self.pending = self.refused
        return self.refused

    @contextmanager
    def entered(self, thing: object):
        yield


@pytest.fixture
def card(monkeypatch) -> Card:
    card = Card()
    names = {"Stream": Queue, "Event": card.Event, "stream": card.entered, "device": card.entered}
    names |= {"current_stream": lambda device: card.computes, "cudart": lambda: card.runtime}
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    real = torch.ones

    def launch(*size, **named):
        card.pending, error = 0, card.pending
        if error:
            raise RuntimeError(f"CUDA error {error}")
        return real(*size)

    monkeypatch.setattr(torch, "ones", launch)
    return card


def test_a_copy_does_not_hold_its_target_back_from_the_allocator(card, monkeypatch):
    """As record_stream does, until the device has come so far: up to 1 GiB beyond what was planned."""
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: pytest.fail("it holds memory back"))
    transfers, source, target = CudaTransfers(torch.device("cuda")), torch.arange(8), torch.zeros(8, dtype=torch.int64)
    mark = transfers.copy(source, target, "before")
    assert torch.equal(target, source) and transfers._copying.after == ["before"] and mark is not None
    transfers.order(mark, card.computes)
    assert card.computes.after == [mark]


class Noting(Transfers):
    """Notes which queue comes after which mark."""

    def __init__(self):
        self.ordered: list[tuple[object, object]] = []

    def stream(self) -> str:
        return "computes"

    def order(self, mark, stream) -> None:
        if mark is not None:
            self.ordered.append((mark, stream))

    def finish(self, mark) -> None:
        pytest.fail("nobody has to wait for a copy")


def dropped_at_once(slots: Slots, slot: Slot) -> None:
    slots.drop()


def evicted_and_dropped(slots: Slots, slot: Slot) -> None:
    slots.evict(("generation", 0))
    assert not slots._transfers.ordered, "another copy to it is ordered by the queue of copies"
    slots.drop_free()


def forgotten(slots: Slots, slot: Slot) -> None:
    """As an engine that nobody holds any longer."""
    slots.of.clear()


@pytest.mark.parametrize("end", [dropped_at_once, evicted_and_dropped, forgotten])
def test_a_buffers_memory_is_given_back_behind_the_last_copy_into_it(end: Callable[[Slots, Slot], None]):
    transfers = Noting()
    slots = Slots(CPU, transfers)
    slots.room = 64
    slot = slots.fitting(64)
    assert slot is not None
    slots.of["generation", 0] = slot
    for mark in ("first copy", "last copy"):
        slot.ready = Future()
        slot.ready.set_running_or_notify_cancel()  # it has begun: too late to cancel
        slot.ready.set_result(mark)
        slot.copied(mark)
    end(slots, slot)
    del slot
    gc.collect()
    assert ("last copy", "computes") in transfers.ordered
    assert {mark for mark, _ in transfers.ordered} == {"last copy"}


@pytest.mark.parametrize("size", [1, 4096, 95_744, 1_000_001])
def test_page_locked_buffers_have_their_pages_to_themselves(card, size):
    transfers, page = CudaTransfers(torch.device("cuda")), mmap.PAGESIZE
    buffers = [PageLockedBuffer(size, transfers, pin=True) for _ in range(20)]
    pages = [set(range(start // page, (start + length - 1) // page + 1)) for start, length in card.locked]
    assert all(start % page == 0 and length % page == 0 for start, length in card.locked)
    assert len(set.union(*pages)) == sum(map(len, pages)), "two share a page"
    for buffer, (start, length) in zip(buffers, card.locked, strict=True):
        assert buffer.bytes.nbytes == size and start <= buffer.bytes.data_ptr() < start + length - size + 1
        buffer.bytes.fill_(1)
        buffer.release()
    assert sorted(card.unlocked) == sorted(start for start, _ in card.locked)


def test_page_locking_that_is_refused_leaves_no_error_behind(card):
    """CUDA tells the next launch of the same thread of it, which then seems to have failed."""
    transfers, card.refused = CudaTransfers(torch.device("cuda")), 712
    assert not PageLockedBuffer(64, transfers, pin=True).pinned
    assert card.pending == 0
    transfers.unpin(torch.empty(64, dtype=torch.uint8))
    assert card.pending == 0
