"""Weights on the CPU as they lie in their files, mapped to memory: nothing moves, and nothing is read twice."""

from collections.abc import Mapping

from ..checkpoint import Weights, assign, checkpoint_name
from ..model import SenseNovaU1
from .plan import Plan


class Mapped:
    """All weights of one model, or none. In their stored type they *are* the page cache; cast, they are copies."""

    def __init__(self, model: SenseNovaU1, weights: Weights):
        self.weights = weights
        self._names: Mapping[str, str] = {checkpoint_name(name): name for name, _ in model.named_parameters()}
        self._model = model
        self.placed, self.times_dropped = False, 0

    @property
    def nbytes(self) -> int:
        """In use now."""
        return self.weights.nbytes if self.placed else 0

    @property
    def host_bytes(self) -> int:
        """Page-locked: nothing is."""
        return 0

    def place(self) -> None:
        """Map every weight, unless they are. Whatever goes wrong, nothing stays behind."""
        if self.placed:
            return
        try:
            for name, value in self.weights.mapped([*self._names]):
                table = ".embed_tokens." in self._names[name]  # cast row by row
                assign(self._model, self._names[name], value if table else value.to(self.weights.dtype(name)))
        except BaseException:
            self.drop()
            raise
        self.placed = True

    def begin(self, plan: Plan) -> None:
        """Nothing to do: all stays where it is."""

    def enter(self, expert: str) -> None:
        """Nothing to do: both experts are there."""

    def drop(self) -> None:
        """Put every parameter back on the meta device, giving up the memory it held."""
        self.placed = False
        self.times_dropped += 1
        for name, value in list(self._model.named_parameters()):
            assign(self._model, name, value.to("meta"))

    def shrink(self, size: int) -> int:
        """Give back all there is; returns how many bytes that were."""
        before = self.nbytes
        self.drop()
        return before
