"""Copies between system memory and the device, as weights take them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from ..memory.transfers import transfers_to
from .check import Absent, Check, Measured, unequal

SIZE = 32 * 2**20  # bytes
ODD = 3  # a copy that begins on no boundary
PAGE = 4096


def checks(device: torch.device) -> Iterator[Check]:
    for locked, name in ((False, "pageable"), (True, "page-locked")):
        yield Check("copies", f"{name} memory to the device", 0, partial(_there, device, locked=locked))
        yield Check("copies", f"the device to {name} memory", 0, partial(_back, device, locked=locked))


def _there(device: torch.device, *, locked: bool) -> Measured:
    """As units stream: on the stream of copies, which computing waits for."""
    transfers, given = transfers_to(device), _bytes()
    with _buffer(device, locked=locked) as source:
        source.copy_(given)
        target = torch.zeros(SIZE, dtype=torch.uint8, device=device)

        def copy() -> None:
            transfers.finish(transfers.copy(source[ODD:], target[ODD:], transfers.mark()))

        copy()
        error = unequal(target[ODD:], given[ODD:])
        return Measured(error, _speed(copy, device))


def _back(device: torch.device, *, locked: bool) -> Measured:
    given = _bytes()
    source = given.to(device)
    with _buffer(device, locked=locked) as target:

        def copy() -> None:
            target[ODD:].copy_(source[ODD:], non_blocking=locked)
            transfers_to(device).settle()

        copy()
        error = unequal(target[ODD:], given[ODD:])
        return Measured(error, _speed(copy, device))


@contextmanager
def _buffer(device: torch.device, *, locked: bool) -> Iterator[Tensor]:
    """System memory; page-locked as weights' buffers are, on pages of its own."""
    room = torch.zeros(SIZE + PAGE, dtype=torch.uint8)
    start = -room.data_ptr() % PAGE
    buffer = room[start : start + SIZE]
    if not locked:
        yield buffer
        return
    if device.type != "cuda":
        raise Absent("only copies to a card need it")
    transfers = transfers_to(device)
    if not transfers.pin(buffer):
        raise Absent("the system refuses page-locked memory; weights are copied without, and slower")
    try:
        yield buffer
    finally:
        transfers.settle()
        transfers.unpin(buffer)


def _bytes() -> Tensor:
    """Random ones, which begin anew at no round number."""
    some = torch.randint(256, (999_983,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return some.repeat(-(-SIZE // len(some)))[:SIZE].clone()


def _speed(copy: Callable[[], None], device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    start = time.perf_counter()
    copy()
    return f"{SIZE / (time.perf_counter() - start) / 1e9:.1f} GB/s"
