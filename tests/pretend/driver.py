"""What torch.cuda is while a card is pretended; and thread pools, in which who waits for whom is noted too."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from sensenova_core.checkpoint import StoredWeights
from sensenova_core.model import quickest
from sensenova_core.model.attention import sdpa

from .card import COMPUTE, Card
from .tensor import CUDA, Seeing, take_guard


class Stream:
    def __init__(self, card: Card, name: str):
        self.card, self.name, self.device = card, name, CUDA

    def wait_event(self, event: "Event") -> None:
        with self.card.lock:
            self.card.order.learn(self.name, event.seen)

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event(self.card)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.card.wait_for_stream("cudaStreamSynchronize", self.name)


class Event:
    """seen: what is done when the card has come to it. There is no time here: all things take none."""

    def __init__(self, card: Card, **_: Any):
        self.card, self.seen = card, {}

    def record(self, stream: Stream | None = None) -> None:
        card = self.card
        name = stream.name if stream else card.here.stream
        with card.lock:
            card.order.learn(name, card.seen())
            card.order.tick(name)
            self.seen = dict(card.order.clock(name))

    def wait(self, stream: Stream | None = None) -> None:
        Stream(self.card, stream.name if stream else self.card.here.stream).wait_event(self)

    def synchronize(self) -> None:
        self.card.wait(self.seen, "cudaEventSynchronize")

    def query(self) -> bool:
        """Whether the card has come so far: only once somebody waited for it."""
        known = self.card.order.clock(self.card.here.actor)
        return all(tick <= known.get(actor, 0) for actor, tick in self.seen.items())

    def elapsed_time(self, end: "Event") -> float:
        return 0.0


class Surface:
    """Every method of it takes the place of what torch.cuda has by that name."""

    def __init__(self, card: Card):
        self._card = card
        self.Stream = lambda device=None, **_: self._new_stream()
        self.Event = lambda **_: Event(card)

    def _new_stream(self) -> Stream:
        self._card.streams.append(f"copies {len(self._card.streams)}")
        return Stream(self._card, self._card.streams[-1])

    def _lazy_init(self) -> None: ...

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        here = self._card.here
        before, here.stream = here.stream, stream.name
        try:
            yield
        finally:
            here.stream = before

    def current_stream(self, device: Any = None) -> Stream:
        return Stream(self._card, self._card.here.stream)

    def default_stream(self, device: Any = None) -> Stream:
        return Stream(self._card, COMPUTE)

    def synchronize(self, device: Any = None) -> None:
        for stream in self._card.streams:
            self._card.wait_for_stream("cudaDeviceSynchronize", stream)

    def empty_cache(self) -> None:
        self.synchronize()
        self._card.settle()
        self._card.allocator.empty_cache()

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        self._card.settle()
        allocator = self._card.allocator
        return allocator.capacity - allocator.reserved, self._card.model.memory

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        allocated, reserved = self.memory_allocated(), self.memory_reserved()
        return {"active_bytes.all.current": allocated, "reserved_bytes.all.current": reserved}

    def get_allocator_backend(self) -> str:
        return "native"

    def is_bf16_supported(self, *_: Any) -> bool:
        return self._card.model.capability >= (8, 0)

    def set_device(self, device: Any) -> None: ...

    def ipc_collect(self) -> None: ...

    def memory_allocated(self, device: Any = None) -> int:
        self._card.settle()
        return self._card.allocator.allocated

    def memory_reserved(self, device: Any = None) -> int:
        self._card.settle()
        return self._card.allocator.reserved

    def max_memory_allocated(self, device: Any = None) -> int:
        return self._card.allocator.most["allocated"]

    def max_memory_reserved(self, device: Any = None) -> int:
        return self._card.allocator.most["reserved"]

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._card.allocator.reset_most()

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        self._card.allocator.capacity = int(fraction * self._card.model.memory)

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return self._card.model.capability

    def get_device_name(self, device: Any = None) -> str:
        return self._card.model.name

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        model = self._card.model
        major, minor = model.capability
        return SimpleNamespace(name=model.name, total_memory=model.memory, major=major, minor=minor)

    def cudart(self) -> SimpleNamespace:
        here = self._card.here

        def last_error() -> int:
            error, here.error = here.error, ""
            return int(bool(error))

        return SimpleNamespace(
            cudaHostRegister=lambda start, size, flags: self._card.register(start, size),
            cudaHostUnregister=self._card.unregister,
            cudaGetLastError=last_error,
        )


@contextmanager
def pretended(card: Card, weights: type = StoredWeights) -> Iterator[Card]:
    """While it lasts, "cuda:0" is the card, in this thread and in those of thread pools. weights: who reads files."""
    take_guard()
    surface = Surface(card)
    with ExitStack() as stack:
        for name in ("Stream", "Event", *(name for name in vars(Surface) if hasattr(torch.cuda, name))):
            if not name.startswith("__"):
                stack.enter_context(patch.object(torch.cuda, name, getattr(surface, name)))
        # A module that is moved has new parameters: those that it had are no CardTensors, whatever is put into them.
        stack.enter_context(patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True))
        stack.enter_context(_threads_of(card))
        stack.enter_context(_files_read_for(card, weights))
        stack.enter_context(_numbers_of_python())
        stack.enter_context(patch.object(quickest, "usable_kernels", lambda use: {"sdpa": sdpa}))  # nothing has a time
        stack.enter_context(Seeing(card))
        yield card
        card.settle()


@contextmanager
def _numbers_of_python() -> Iterator[None]:
    """What `torch.tensor` makes, no mode sees."""

    def first_on_the_cpu(make):
        def made(data, *, device=None, **options):
            return make(data, **options) if device is None else make(data, device="cpu", **options).to(device)

        return made

    with (
        patch.object(torch, "tensor", first_on_the_cpu(torch.tensor)),
        patch.object(torch, "as_tensor", first_on_the_cpu(torch.as_tensor)),
    ):
        yield


@contextmanager
def _threads_of(card: Card) -> Iterator[None]:
    """A task of a pool comes after what was done before it was submitted; whoever has its result comes after it."""
    submit = ThreadPoolExecutor.submit

    def submitted(pool, function, /, *args, **kwargs):
        before, end = card.seen(), {}

        def task():
            card.learn(before)
            try:
                with Seeing(card):
                    return function(*args, **kwargs)
            finally:
                end.update(card.seen())

        future = submit(pool, task)
        future.end = end
        return future

    def learning(method):
        def wait(future, timeout=None):
            try:
                return method(future, timeout)
            finally:
                card.learn(getattr(future, "end", {}))

        return wait

    with (
        patch.object(ThreadPoolExecutor, "submit", submitted),
        patch.object(Future, "result", learning(Future.result)),
        patch.object(Future, "exception", learning(Future.exception)),
    ):
        yield


@contextmanager
def _files_read_for(card: Card, weights: type) -> Iterator[None]:
    """Files are read as ever, and not at all where only sizes matter."""
    read = weights._read

    def noted(stored, header, start, holder):
        card.write_on_host(holder[0])
        if card.meta:
            holder.pop()
        else:
            read(stored, header, start, holder)

    with patch.object(weights, "_read", noted):
        yield
