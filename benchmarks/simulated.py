"""The real Residency and Store on simulated clocks: what streaming would take on a card of given rates.

Nothing is computed or copied. The layers' buffers lie on the meta device, and copies, reads and layers only advance the
clocks of those who do them: the thread that asks for work, the thread that brings weights, the copy engine, and the
compute engine. Which units are fetched when, into whose buffer, is decided by the code that runs on a card.

What is left out: the time to launch work, which a card hides; that a fetch not yet begun can be called off; that copies
take memory bandwidth from computing.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sensenova_core.checkpoint import StoredWeights, TensorHeader, checkpoint_name
from sensenova_core.memory import Plan, Sizes
from sensenova_core.memory.clock import Clock
from sensenova_core.memory.fixed import Fixed
from sensenova_core.memory.residency import Residency
from sensenova_core.memory.transfers import Transfers
from sensenova_core.memory.units import units_of
from sensenova_core.model import GENERATION, UNDERSTANDING, SenseNovaU1
from sensenova_core.model.config import ModelConfig

Seconds = float  # since the clocks began; also what a mark is here


@dataclass
class Clocks:
    """When each part of the machine is done with what it was asked for so far, in seconds; and what it did.

    asking: the thread that runs the model. bringing: the thread that reads and sends weights. busy: how long the copy
    engine copied. copied: bytes.
    """

    asking: Seconds = 0.0
    bringing: Seconds = 0.0
    copying: Seconds = 0.0
    computing: Seconds = 0.0
    busy: float = 0.0
    copied: int = 0
    thread: str = "asking"

    def reach(self, moment: Seconds) -> None:
        """The thread at work is held up until then."""
        setattr(self, self.thread, max(getattr(self, self.thread), moment))

    @property
    def now(self) -> Seconds:
        """For the thread at work."""
        return getattr(self, self.thread)

    @contextmanager
    def another_thread(self) -> Iterator[None]:
        """The thread that brings weights is at work; it cannot begin before it was asked to."""
        self.bringing, self.thread = max(self.bringing, self.asking), "bringing"
        try:
            yield
        finally:
            self.thread = "asking"


class Worker:
    """In place of the thread that brings weights: does at once what it is given, on that thread's clock."""

    def __init__(self, clocks: Clocks):
        self.clocks = clocks

    def submit(self, work: Callable, *arguments) -> Future:
        done = Future()
        with self.clocks.another_thread():
            done.set_result(work(*arguments))
        done.moment = self.clocks.bringing
        return done


class SimulatedTransfers(Transfers):
    """A card's copy engine and compute engine, each a queue. rate: bytes a second from page-locked memory."""

    def __init__(self, clocks: Clocks, rate: float):
        self.clocks, self.rate = clocks, rate

    def copy(self, source: torch.Tensor, target: torch.Tensor, after: Seconds | None) -> Seconds:
        clocks, seconds = self.clocks, source.nbytes / self.rate
        clocks.copying = max(clocks.copying, clocks.now, after or 0.0) + seconds
        clocks.busy += seconds
        clocks.copied += source.nbytes
        return clocks.copying

    def mark(self) -> Seconds:
        return self.clocks.computing

    def wait(self, copy: Future) -> None:
        self.clocks.reach(copy.moment)
        self.clocks.computing = max(self.clocks.computing, copy.result())

    def compute(self, seconds: float) -> None:
        self.clocks.computing = self.stamp() + seconds

    def finish(self, mark: Seconds | None) -> None:
        self.clocks.reach(mark or 0.0)

    def stamp(self) -> Seconds:
        return max(self.clocks.computing, self.clocks.asking)


class UnreadWeights(StoredWeights):
    """The tensors of a checkpoint that does not exist, stored in one type. rate: bytes a second files are read at."""

    def __init__(self, model: SenseNovaU1, clocks: Clocks, rate: float, stored: str):
        shapes = {checkpoint_name(name): tuple(value.shape) for name, value in model.named_parameters()}
        super().__init__(
            model, {name: TensorHeader(Path("nowhere"), stored, shape, 0) for name, shape in shapes.items()}, None
        )
        self.clocks, self.rate = clocks, rate

    def read(self, name: str, into: torch.Tensor, first_row: int = 0) -> list:
        self.clocks.reach(self.clocks.now + into.nbytes / self.rate)
        return []


class SimulatedResidency(Residency):
    """A model's residency on a card that copies `copy_rate` bytes a second and reads files at `read_rate`.

    stored: the type of its weights. Unpacking takes no time here.
    """

    def __init__(self, config: ModelConfig, copy_rate: float, read_rate: float, stored: str = "BF16"):
        model, self.clocks = SenseNovaU1.on_meta(config), Clocks()
        weights = UnreadWeights(model, self.clocks, read_rate, stored)
        units, fixed = units_of(model, weights), Fixed(model, weights)
        sizes = Sizes.of(units, layers=config.decoder.num_layers, fixed=fixed.nbytes, stored_bytes=weights.nbytes)
        transfers = SimulatedTransfers(self.clocks, copy_rate)
        device = torch.device("meta")
        super().__init__(weights, units, sizes, fixed=fixed, device=device, transfers=transfers, clock=Clock(transfers))
        self.model = model
        self._worker = Worker(self.clocks)

    def place(self) -> None:
        self.placed = True  # the small tensors' bytes count; their copies take no time worth counting


@dataclass(frozen=True)
class Pass:
    """One pass over an expert's layers: seconds it took, of which `waited` for copies; seconds of copying, and bytes,
    that were asked for meanwhile."""

    seconds: float
    waited: float
    busy: float
    copied: int

    @property
    def hidden(self) -> float:
        """Share of the copying that hid behind computing; 1 without any."""
        return 1.0 if not self.busy else max(0.0, 1 - self.waited / self.busy)


@dataclass(frozen=True)
class Prediction:
    """One picture. seconds, copied: of reading and drawing; the latter in bytes. device_bytes: the most at one time."""

    seconds: float
    copied: int
    device_bytes: int
    steps: tuple[Pass, ...] = field(repr=False)

    @property
    def step(self) -> Pass:
        """The one of median time between the first, which brings weights, and the last, which fetches none."""
        between = sorted(self.steps[1:-1] or self.steps, key=lambda step: step.seconds)
        return between[len(between) // 2]


def draw(residency: SimulatedResidency, plan: Plan, reading: Sequence[float], drawing: float, steps: int) -> Prediction:
    """Carry out a plan, from where the one before left off. reading: seconds that computing a layer takes, for each
    prefix that is read; drawing: the same for a step."""
    clocks, most, passes = residency.clocks, 0, []
    clocks.asking = begun = max(clocks.asking, clocks.computing)  # a picture is fetched before the next is asked for
    residency.place()
    residency.begin(plan)
    for expert, seconds in [(UNDERSTANDING, seconds) for seconds in reading] + [(GENERATION, drawing)] * steps:
        start, busy, copied = max(clocks.computing, begun), clocks.busy, clocks.copied
        for _ in residency.layers(expert):
            residency.transfers.compute(seconds)
            most = max(most, residency.nbytes + plan.phases[expert].activation_bytes)
        waited = residency.clock.drain().get("waiting", 0.0)
        passes.append(Pass(clocks.computing - start, waited, clocks.busy - busy, clocks.copied - copied))
    copied = sum(taken.copied for taken in passes)
    return Prediction(clocks.computing - begun, copied, most, tuple(passes[len(reading) :]))
