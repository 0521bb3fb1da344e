"""Where a pass gets the weights that it runs with."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from torch import Tensor
from torch.nn import functional as F

from .decoder import Layer
from .unified import SenseNovaU1

Result = TypeVar("Result")


class Weights(Protocol):
    """The weights that move: each is ready to run when it is asked for, wherever it lies.

    at_rest: what stays equal while every weight that writing needs lies where it lies, on the device and as it runs;
    None while some move.
    """

    @property
    def at_rest(self) -> object | None: ...

    def layers(self, expert: str) -> Iterable[Layer]:
        """One pass over an expert's layers in order: each is ready until the next one is asked for."""
        ...

    def head(self) -> Iterable[Tensor]:
        """One pass over the pieces of the output head, (rows, hidden) each, in the same way."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the embedding table, where and as they lie: token ids (tokens,) -> (tokens, hidden)."""
        ...


class Runner(Protocol):
    """Runs a piece of a phase's work: "reading", "writing" or "drawing". It may be done over, for nothing that it
    changes counts before it has ended."""

    def __call__(self, phase: str, work: Callable[[Weights], Result]) -> Result: ...


class InModule:
    """The weights of a model that has them in its own parameters."""

    at_rest = ()

    def __init__(self, model: SenseNovaU1):
        self.model = model

    def layers(self, expert: str) -> Iterable[Layer]:
        return getattr(self.model, expert).decoder.layers

    def head(self) -> Iterable[Tensor]:
        return self.model.understanding.head_pieces()

    def embed(self, ids: Tensor) -> Tensor:
        table = self.model.understanding.embed_tokens.weight
        return F.embedding(ids.to(table.device), table)

    def run(self, phase: str, work: Callable[[Weights], Result]) -> Result:
        """Do it, and let it fail."""
        return work(self)
