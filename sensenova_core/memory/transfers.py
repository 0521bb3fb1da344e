"""Copies from system memory to the device: on a stream of their own with CUDA, at once elsewhere."""

import logging
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from .budget import in_words

log = logging.getLogger(__name__)

Mark = Any  # a point in a queue of device work; None where work is done when the call returns


class Transfers:
    """How bytes get to one device, and what time it is there: here of a device without queues of its own, the CPU above
    all, where a copy is done when the call returns.

    Page-locking does nothing and succeeds, so that a plan for a card can be carried out, and counted, without one.
    """

    def copy(self, source: Tensor, target: Tensor, after: Mark) -> Mark:
        """Begin to copy once the device has passed `after`; returns the mark of the copy's end."""
        target.copy_(source)

    def mark(self) -> Mark:
        """The end of all computing asked for so far."""

    def stream(self) -> Any:
        """The queue of device work that computing asked for now goes to, and that memory taken now belongs to."""

    def wait(self, copy: "Future[Mark]") -> None:
        """Let whatever is computed from now on wait for a copy, once another thread has begun it."""
        copy.result()

    def order(self, mark: Mark, stream: Any) -> None:
        """Let whatever is asked of a queue from now on come after a mark; blocks nobody. What belonged to that queue
        may be given back then, for only what comes later can be given it."""

    def finish(self, mark: Mark) -> None:
        """Block this thread until the device has passed a mark."""

    def pin(self, buffer: Tensor) -> bool:
        """Page-lock system memory, for copies that do not hold anything up. False where that is refused."""
        return True

    def unpin(self, buffer: Tensor) -> None: ...

    def stamp(self) -> Any:
        """The time when the device has done all computing asked for so far, for `seconds`; waits for nothing."""
        return time.perf_counter()

    def passed(self, stamp: Any) -> bool:
        """Whether the device has come to a stamp; waits for nothing."""
        return True

    def seconds(self, before: Any, after: Any) -> float:
        """Between two stamps that have passed."""
        return after - before

    def settle(self) -> None:
        """Wait until the device has done all that was asked of it."""

    def trim(self) -> None:
        """Give back memory of the device that the allocator holds and no tensor uses."""


class CudaTransfers(Transfers):
    """Copies on a second stream, ordered by events against the stream that computes."""

    def __init__(self, device: torch.device):
        self.device = device
        self._copying = torch.cuda.Stream(device)
        cudart = torch.cuda.cudart()
        assert cudart is not None  # a stream of its is there
        self._cudart = cudart

    def copy(self, source: Tensor, target: Tensor, after: Mark) -> Mark:
        done = torch.cuda.Event()
        with torch.cuda.stream(self._copying):
            if after is not None:
                self._copying.wait_event(after)
            target.copy_(source, non_blocking=True)
            done.record(self._copying)
        return done

    def mark(self) -> Mark:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)

    def wait(self, copy: "Future[Mark]") -> None:
        self.order(copy.result(), self.stream())

    def order(self, mark: Mark, stream: torch.cuda.Stream) -> None:
        if mark is not None:
            stream.wait_event(mark)

    def finish(self, mark: Mark) -> None:
        if mark is not None:
            mark.synchronize()

    def pin(self, buffer: Tensor) -> bool:
        """Registers the buffer itself: torch's own page-locked memory is rounded up to a power of two, and kept."""
        with torch.cuda.device(self.device):
            error = int(self._cudart.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 1))
        if error:
            self._pick_up_error()
            log.warning("page-locking %s of system memory failed (CUDA error %d)", in_words(buffer.nbytes), error)
        return not error

    def unpin(self, buffer: Tensor) -> None:
        self._copying.synchronize()  # a copy out of it may be under way
        with torch.cuda.device(self.device):
            error = int(self._cudart.cudaHostUnregister(buffer.data_ptr()))
        if error:
            self._pick_up_error()

    def _pick_up_error(self) -> None:
        """CUDA keeps the error of a call that failed for whoever launches something next from this thread, as if that
        had failed: so something is launched for it."""
        with suppress(RuntimeError):
            torch.ones(1, device=self.device)

    def stamp(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def passed(self, stamp: torch.cuda.Event) -> bool:
        return stamp.query()

    def seconds(self, before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        return before.elapsed_time(after) / 1000

    def settle(self) -> None:
        torch.cuda.synchronize(self.device)

    def trim(self) -> None:
        torch.cuda.empty_cache()


def transfers_to(device: torch.device) -> Transfers:
    return CudaTransfers(device) if device.type == "cuda" else Transfers()
