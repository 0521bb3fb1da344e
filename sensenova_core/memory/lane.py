"""Copies from system memory to the device: on a stream of their own with CUDA, at once elsewhere."""

import logging
import time
from concurrent.futures import Future
from typing import Any, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Mark = Any  # a point in a queue of device work; None where work is done when the call returns


class Lane(Protocol):
    """How bytes get to one device. timed: measure how long computing stands still for copies."""

    timed: bool

    def copy(self, source: Tensor, target: Tensor, after: Mark) -> Mark:
        """Begin to copy once the device has passed `after`; returns the mark of the copy's end."""

    def mark(self) -> Mark:
        """The end of all computing asked for so far."""

    def wait(self, copy: "Future[Mark]") -> None:
        """Let whatever is computed from now on wait for a copy, once another thread has begun it."""

    def finish(self, mark: Mark) -> None:
        """Block this thread until the device has passed a mark."""

    def pin(self, buffer: Tensor) -> bool:
        """Page-lock system memory, for copies that do not hold anything up. False where that is refused."""

    def unpin(self, buffer: Tensor) -> None: ...

    def waited(self) -> float:
        """Seconds that computing stood still for copies since the last call."""


class DirectLane:
    """A device without queues of its own, the CPU above all: a copy is done when the call returns.

    Page-locking does nothing and succeeds, so that a plan for a card can be carried out, and counted, without one.
    """

    timed = True

    def __init__(self):
        self._waited = 0.0

    def copy(self, source: Tensor, target: Tensor, after: Mark) -> Mark:
        target.copy_(source)

    def mark(self) -> Mark: ...

    def wait(self, copy: "Future[Mark]") -> None:
        start = time.perf_counter()
        copy.result()
        self._waited += time.perf_counter() - start

    def finish(self, mark: Mark) -> None: ...

    def pin(self, buffer: Tensor) -> bool:
        return True

    def unpin(self, buffer: Tensor) -> None: ...

    def waited(self) -> float:
        seconds, self._waited = self._waited, 0.0
        return seconds


class CudaLane:
    """Copies on a second stream, ordered by events against the stream that computes."""

    def __init__(self, device: torch.device):
        self.device, self.timed = device, False
        self.stream = torch.cuda.Stream(device)
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def copy(self, source: Tensor, target: Tensor, after: Mark) -> Mark:
        done = torch.cuda.Event()
        with torch.cuda.stream(self.stream):
            if after is not None:
                self.stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            done.record(self.stream)
        return done

    def mark(self) -> Mark:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, copy: "Future[Mark]") -> None:
        computing = torch.cuda.current_stream(self.device)
        if not self.timed:
            computing.wait_event(copy.result())
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record(computing)
        computing.wait_event(copy.result())
        after.record(computing)
        self._waits.append((before, after))

    def finish(self, mark: Mark) -> None:
        if mark is not None:
            mark.synchronize()

    def pin(self, buffer: Tensor) -> bool:
        """Registers the buffer itself: torch's own page-locked memory is rounded up to a power of two, and kept."""
        with torch.cuda.device(self.device):
            error = int(torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 1))
        if error:
            log.warning("page-locking %.2f GiB of system memory failed (CUDA error %d)", buffer.nbytes / 2**30, error)
        return not error

    def unpin(self, buffer: Tensor) -> None:
        with torch.cuda.device(self.device):
            torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())

    def waited(self) -> float:
        torch.cuda.synchronize(self.device)
        seconds = sum(before.elapsed_time(after) for before, after in self._waits) / 1000
        self._waits.clear()
        return seconds


def lane_to(device: torch.device) -> Lane:
    return CudaLane(device) if device.type == "cuda" else DirectLane()
