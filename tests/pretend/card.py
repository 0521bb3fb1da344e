"""A card that is pretended: its memory, its streams, and notes of every kernel, copy and wait."""

import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from mmap import PAGESIZE

from torch import Tensor

from .allocator import MIB, Allocator
from .order import Order, Seen, Uses

COMPUTE = "compute"  # the stream that there always is
ENGINE = "sensenova_core/"


@dataclass(frozen=True)
class Model:
    """memory: bytes. workspace: of cuBLAS, for each stream. Rates a second: bandwidth, bytes of its memory; bus, bytes
    from page-locked memory; products and attention, operations in bfloat16."""

    name: str
    capability: tuple[int, int]
    memory: int
    workspace: int
    bandwidth: float
    bus: float
    products: float
    attention: float


H200 = Model("H200", (9, 0), 141 * 10**9, 32 * MIB, 4.3e12, 50e9, 788e12, 400e12)
RTX_4090 = Model("RTX 4090", (8, 9), 24 * 2**30, 8 * MIB + 2**17, 1.0e12, 25e9, 165e12, 150e12)
RTX_2080 = Model("RTX 2080 Ti", (7, 5), 11 * 2**30, 8 * MIB + 2**17, 0.55e12, 12e9, 27e12, 20e12)


@dataclass
class Row:
    """Of all launches of one operation from one line. kernels: what they came to. read, written: bytes."""

    kind: str
    kernels: int = 0
    read: int = 0
    written: int = 0
    flops: float = 0.0

    def seconds(self, model: Model) -> float:
        """On the card, each kernel as fast as memory or arithmetic allows."""
        rate = model.attention if self.kind == "attention" else model.products
        return max((self.read + self.written) / model.bandwidth, self.flops / rate)


@dataclass
class Notes:
    """Of a part of a run. rows: by stream, operation and line of the engine. waits: of the host for the card.
    most: bytes that were allocated and reserved."""

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    waits: Counter[str] = field(default_factory=Counter)
    most: dict[str, int] = field(default_factory=dict)

    def computing(self) -> Iterable[Row]:
        return (row for (stream, *_), row in self.rows.items() if stream == COMPUTE)

    @property
    def launches(self) -> int:
        return sum(row.kernels for row in self.computing())

    def moved(self, *kinds: str) -> int:
        """Bytes that kernels of these kinds read and write."""
        return sum(row.read + row.written for row in self.computing() if row.kind in kinds)

    @property
    def copied(self) -> int:
        """Bytes to the card, by a stream of their own."""
        return sum(row.written for (stream, *_), row in self.rows.items() if stream != COMPUTE)


class Memory:
    """Of the card, for one storage: given back when the last tensor on it is gone."""

    def __init__(self, card: "Card", nbytes: int, what: str):
        self.card, self.owner, self.uses = card, card.here.stream, Uses(what, nbytes)
        self.recorded: set[str] = set()  # streams that `record_stream` named
        self.block = None
        if nbytes:
            self.block = card.allocator.take(nbytes, self.owner)

    def __del__(self):  # at any moment, also while this thread has the lock
        if self.block is not None:
            self.card.dead.append((self, dict(self.card.order.clock(self.card.here.actor))))


class Here(threading.local):
    """Who the present thread is, the stream that it is on, and the error that a call of its left behind."""

    numbers = count()

    def __init__(self):
        self.actor, self.stream, self.error = f"{threading.current_thread().name} #{next(self.numbers)}", COMPUTE, ""


class Card:
    """meta: its tensors have sizes and no numbers. capacity: bytes that there are, where not all of the model's.
    allocator: torch's own, or the driver's. faults: what CUDA would refuse, or take too much memory for."""

    def __init__(
        self,
        model: Model = H200,
        *,
        meta: bool = False,
        capacity: int | None = None,
        allocator: type[Allocator] = Allocator,
    ):
        self.model, self.meta = model, meta
        self.allocator = allocator(capacity or model.memory)
        self.order, self.here, self.lock = Order(), Here(), threading.RLock()
        self.streams = [COMPUTE]
        self.page_locked: dict[int, tuple[int, Uses]] = {}  # first byte -> the one after the last, who used it
        self.dead: deque[tuple[Memory, Seen]] = deque()
        self.faults: Counter[str] = Counter()
        self.noted: dict[str, Notes] = defaultdict(Notes)
        self._held: list[tuple[Memory, Seen]] = []  # dead, and what must be done before it is free
        self._workspaces: dict[str, object] = {}
        self.begin("loading")

    def begin(self, part: str) -> Notes:
        """Note what follows under this name."""
        self.notes = self.noted[part]
        return self.notes

    # Who knows what

    def seen(self) -> Seen:
        """What this thread knows to be done, as of now."""
        with self.lock:
            self.order.tick(self.here.actor)
            return dict(self.order.clock(self.here.actor))

    def learn(self, seen: Seen) -> None:
        with self.lock:
            self.order.learn(self.here.actor, seen)

    def wait(self, seen: Seen, why: str) -> None:
        """The host waits until the card has come so far."""
        with self.lock:
            self.learn(seen)
            self.notes.waits[f"{why} at {line()}"] += 1

    def wait_for_stream(self, why: str, stream: str | None = None) -> None:
        self.wait(self.order.clock(stream or self.here.stream), why)

    # Work

    def launch(
        self,
        name: str,
        kind: str,
        *,
        reads: Iterable[tuple[Memory, int]] = (),
        writes: Iterable[tuple[Memory, int]] = (),
        host: Uses | None = None,
        flops: float = 0.0,
        kernels: int = 1,
    ) -> None:
        """Work on the present stream. reads, writes: (memory, bytes). host: page-locked memory that it reads."""
        with self.lock:
            if self.here.error:
                error, self.here.error = self.here.error, ""
                raise RuntimeError(f"CUDA error: {error} (left behind by an earlier call)")
            at = line()
            stream, what = self.here.stream, (name, at)
            self.order.learn(stream, self.seen())
            self.order.tick(stream)
            row = self.notes.rows.setdefault((stream, name, at), Row(kind))
            row.kernels += kernels
            row.flops += flops
            for memory, nbytes in reads:
                self.order.use(memory.uses, stream, what, writes=False)
                row.read += nbytes
            for memory, nbytes in writes:
                self.order.use(memory.uses, stream, what, writes=True)
                row.written += nbytes
            if host is not None:
                self.order.use(host, stream, what, writes=False)
            if kind == "products" and stream not in self._workspaces:
                self._workspaces[stream] = self._taken(self.model.workspace)

    def write_on_host(self, tensor: Tensor) -> None:
        """This thread writes to system memory."""
        with self.lock:
            if (uses := self.locked(tensor)) is not None:
                self.seen()
                part = (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
                self.order.use(uses, self.here.actor, ("a file read", "disk"), writes=True, part=part)

    # Memory

    def new(self, nbytes: int, name: str) -> Memory:
        with self.lock:
            self._bury()
            return self._noting(Memory(self, nbytes, name))

    def scratch(self, nbytes: int) -> None:
        """Memory that a kernel has while it runs."""
        with self.lock:
            self._bury()
            self.allocator.give(self._taken(nbytes))

    def settle(self) -> None:
        """Give back what is dead."""
        with self.lock:
            self._bury()

    def _taken(self, nbytes: int):
        return self._noting(self.allocator.take(nbytes, self.here.stream))

    def _noting(self, taken):
        for name in self.allocator.most:
            self.notes.most[name] = max(self.notes.most.get(name, 0), getattr(self.allocator, name))
        return taken

    def _bury(self) -> None:
        while self.dead:
            memory, seen = self.dead.popleft()
            known = dict(self.order.clock(memory.owner))
            for actor, tick in seen.items():
                known[actor] = max(tick, known.get(actor, 0))
            recorded = {stream: self.order.clock(stream)[stream] for stream in memory.recorded - {memory.owner}}
            self.order.end(memory.uses, known | recorded, f"given back by {self.here.actor}")
            self._held.append((memory, recorded))
        known = self.order.clock(self.here.actor)
        for memory, recorded in self._held[:]:
            if all(tick <= known.get(stream, 0) for stream, tick in recorded.items()):
                self._held.remove((memory, recorded))
                self.allocator.give(memory.block)

    # Page-locked memory

    def locked(self, tensor: Tensor) -> Uses | None:
        """Who used the page-locked memory that a tensor on the CPU lies in; None where it is pageable."""
        if tensor.is_meta or not tensor.nbytes:
            return None
        start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        return next((uses for begin, (end, uses) in self.page_locked.items() if begin <= start and stop <= end), None)

    def register(self, start: int, nbytes: int) -> int:
        """As cudaHostRegister, which locks pages: 712 where one of them is locked."""
        with self.lock:
            first, last = start // PAGESIZE, (start + nbytes - 1) // PAGESIZE
            ranges = ((begin // PAGESIZE, (end - 1) // PAGESIZE) for begin, (end, _) in self.page_locked.items())
            if any(begin <= last and first <= end for begin, end in ranges):
                self.faults[f"a page is locked twice at {line()}"] += 1
                self.here.error = "part or all of the requested memory range is already mapped"
                return 712
            self.page_locked[start] = (start + nbytes, Uses("page-locked memory", nbytes))
            return 0

    def unregister(self, start: int) -> int:
        with self.lock:
            _, uses = self.page_locked.pop(start)
            self.order.end(uses, self.order.clock(self.here.actor), f"unlocked at {line()}")
            return 0


def line() -> str:
    """The innermost line of the engine that led here."""
    frame = sys._getframe(1)
    while frame is not None:
        _, found, path = frame.f_code.co_filename.rpartition(ENGINE)
        if found:
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return "-"
