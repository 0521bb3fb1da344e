"""Nothing is used before it is there, and nothing is used again too early; and errors of that kind would be found."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest
import torch

import sensenova_core
from sensenova_core.memory.page_locked import PageLockedBuffer, PageLockedStore
from sensenova_core.memory.slots import Slots
from sensenova_core.memory.transfers import CudaTransfers
from tests.support.geometries import short

from . import driver
from .card import Card
from .conftest import SIZE
from .driver import pretended
from .tensor import CardTensor

CUDA = "cuda:0"


@pytest.fixture
def card() -> Iterator[Card]:
    with pretended(Card()) as card:
        yield card


def races(card: Card) -> str:
    card.settle()
    return "\n".join(card.order.races)


# Two streams, and system memory


@contextmanager
def on(stream: driver.Stream, *, after: driver.Stream | None = None) -> Iterator[None]:
    if after is not None:
        stream.wait_stream(after)
    with torch.cuda.stream(stream):
        yield


@pytest.mark.parametrize("waits", [False, True])
def test_reading_what_another_stream_writes(card, waits):
    into, other = torch.zeros(4, device=CUDA), torch.cuda.Stream()
    with on(other, after=torch.cuda.current_stream()):
        into.fill_(1)
    if waits:
        torch.cuda.current_stream().wait_stream(other)
    _ = into + 1
    assert bool(races(card)) != waits


@pytest.mark.parametrize("waits", [False, True])
def test_writing_what_another_stream_reads(card, waits):
    source, other = torch.zeros(4, device=CUDA), torch.cuda.Stream()
    kept = source + 1
    with on(other, after=torch.cuda.current_stream() if waits else None):
        source.fill_(1)
    assert bool(races(card)) != waits and kept.cpu().sum() == 4


def test_reading_on_two_streams_is_no_race(card):
    source, other = torch.zeros(4, device=CUDA), torch.cuda.Stream()
    with on(other, after=torch.cuda.current_stream()):
        _ = source + 1
    _ = source + 2
    del _
    torch.cuda.synchronize()
    del source
    assert not races(card)


@pytest.mark.parametrize("waits", [False, True])
def test_dropping_what_another_stream_uses(card, waits):
    """The allocator gives it to the next that asks on its own stream."""
    source, other = torch.zeros(4, device=CUDA), torch.cuda.Stream()
    with on(other, after=torch.cuda.current_stream()):
        source.fill_(1)
    if waits:
        other.synchronize()
    del source
    assert ("given back" in races(card)) != waits


@pytest.mark.parametrize("waits", [False, True])
def test_filling_a_page_locked_buffer_that_is_copied_from(card, waits):
    buffer, into = torch.zeros(4), torch.zeros(4, device=CUDA)
    torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 1)
    into.copy_(buffer, non_blocking=True)
    if waits:
        torch.cuda.synchronize()
    card.write_on_host(buffer[:2])
    assert bool(races(card)) != waits


def test_a_page_is_locked_once():
    with pretended(Card()) as card:
        buffer = torch.zeros(8)
        lock = torch.cuda.cudart().cudaHostRegister
        assert lock(buffer.data_ptr(), 16, 1) == 0 and lock(buffer.data_ptr() + 16, 16, 1) == 712
        assert card.faults
        with pytest.raises(RuntimeError, match="earlier call"):
            torch.zeros(1, device=CUDA)


def test_tensors_of_two_devices_are_refused(card):
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(4, device=CUDA) + torch.zeros(4)
    assert (torch.zeros(4, device=CUDA) + torch.tensor(1.0)).device == torch.device(CUDA)


# Errors planted in the engine


def _without_waiting(owner: type, name: str):
    """A method during which the host waits for nothing of the card."""
    real = getattr(owner, name)

    def method(self, *args):
        with patch.object(CudaTransfers, "finish", lambda transfers, mark: None):
            return real(self, *args)

    return owner, name, method


def _waits_for_copies(transfers, copy) -> None:
    torch.cuda.current_stream().wait_event(copy.result())


def _copy_at_once(transfers, source, target, after, real=CudaTransfers.copy):
    return real(transfers, source, target, None)


PLANTED = {
    "a missing wait: of computing for copies": [
        (CudaTransfers, "wait", lambda transfers, copy: copy.result() and None)
    ],
    "a missing wait: of copies for computing": [(CudaTransfers, "copy", _copy_at_once)],
    "a staging buffer filled early": [_without_waiting(PageLockedStore, "send")],
    "a slot dropped under a copy": [
        _without_waiting(Slots, "evict"),
        (CudaTransfers, "order", lambda transfers, mark, stream: None),  # of what comes to its memory next
        (CudaTransfers, "wait", _waits_for_copies),
        (CardTensor, "record_stream", lambda tensor, stream: None),
    ],
    "memory unlocked under a copy": [
        _without_waiting(PageLockedBuffer, "release"),
        _without_waiting(Slots, "evict"),
        (driver.Stream, "synchronize", lambda stream: None),
    ],
}
TOLD = {  # a part of what is said of each
    "a missing wait: of computing for copies": "to the card at memory/transfers.py",
    "a missing wait: of copies for computing": "to the card at memory/transfers.py",
    "a staging buffer filled early": "a file read",
    "a slot dropped under a copy": "given back",
    "memory unlocked under a copy": "unlocked",
}


def drawn_by_streaming(path, card: Card) -> None:
    """Pictures, one of them broken off, with copies ahead under way when memory is given back."""
    for settings in ({"vram_mode": "balanced", "max_memory": "0=64GiB,cpu=1KiB"}, {"vram_mode": "low"}):
        engine = sensenova_core.load(path, device=CUDA, **settings)
        steps = engine.sample(short(engine, "x"), **SIZE, steps=3)
        next(steps)
        engine.give_back(1 << 40)
        next(engine.sample(short(engine, "y"), **SIZE, steps=2))
        engine.release()


@pytest.mark.parametrize("planted", [None, *PLANTED])
def test_an_error_in_the_engine_is_found(folder, card, planted):
    with ExitStack() as stack:
        for owner, name, value in PLANTED.get(planted, []):
            stack.enter_context(patch.object(owner, name, value, create=True))
        drawn_by_streaming(folder("float32"), card)
    assert TOLD[planted] in races(card) if planted else not races(card)
