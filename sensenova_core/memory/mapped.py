"""Weights on the CPU as they lie in their files, mapped to memory: nothing moves, and nothing is read twice."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import Packed, StoredWeights, assign
from ..checkpoint.mapped_file import MappedFile
from ..model import UNDERSTANDING, SenseNovaU1
from ..model.unified import EXPERTS
from .fixed import Fixed
from .plan import Plan, Sizes
from .slots import Slots
from .transfers import Transfers
from .units import Part, Unit, Units, plant, uproot

CPU = torch.device("cpu")


class Mapped:
    """All weights of one model, or none. In their stored type they *are* the page cache; cast, they are copies.

    A file that is changed meanwhile ends the run that reads it, see `check`. Units with packed tensors stay packed, and
    those that LoRAs change stay as they are; they are made ready one at a time in a buffer that all of them run in.
    """

    buffer_bytes = 0  # that could be fewer: none are
    page_locked_bytes = 0

    def __init__(self, model: SenseNovaU1, stored: StoredWeights, units: Units, *, fixed: Fixed, sizes: Sizes):
        self.stored, self.fixed = stored, fixed
        self.embed = fixed.embed
        self.placed, self.times_dropped = False, 0
        self.slots = Slots(CPU, Transfers())  # of which only the working buffer is used
        self._model = model
        self._files: dict[Path, MappedFile] = {}  # in which any of them lie
        self._arrange(units, sizes)

    def _arrange(self, units: Units, sizes: Sizes) -> None:
        """Say of every tensor whether it runs where it lies. Nothing is placed."""
        self.units, self.sizes = units, sizes
        self._owners: dict[str, tuple[nn.Module, str]] = {}  # of tensors that run where they lie
        self._apart: list[str] = []  # names of those that do not
        self._others: dict[str, Tensor | Packed] = {}  # these, once they are mapped
        for expert in EXPERTS:
            for unit in units[expert]:
                module = unit.template if unit.index < sizes.layers else self._model.understanding.lm_head
                if unit.apart:
                    self._apart += [part.name for part in unit.all_parts]
                else:
                    self._owners |= {part.name: (module, part.leaf) for part in unit.parts}
                    if unit.int8:
                        self._apart += [part.name for part in unit.all_parts[len(unit.parts) :]]

    @property
    def nbytes(self) -> int:
        """In use now."""
        return (self.stored.nbytes if self.placed else 0) + self.slots.nbytes

    @property
    def at_rest(self) -> object | None:
        """See model.Weights."""
        if not self.placed or any(unit.apart for unit in self.units[UNDERSTANDING]):
            return None
        return self.fixed.times_placed, self.times_dropped

    @property
    def copied_bytes(self) -> int:
        """Of weights that are copies, in another type than they are stored in."""
        stored = self.stored
        return sum(
            stored.headers[name].numel * stored.dtype(name).itemsize
            for name in self._owners
            if stored.headers[name].format.numbers != stored.dtype(name)
        )

    def place(self) -> None:
        """Map every weight, unless they are. Whatever goes wrong, nothing stays behind."""
        if self.placed and any(file.changed for file in self._files.values()):
            self.drop()  # what was missing may be there again
        if self.placed:
            return
        try:
            self.fixed.place(CPU)
            files: dict[Path, MappedFile] = {}
            copied = True
            for name, value in self.stored.mapped(self._owners, files):
                assert isinstance(value, Tensor)  # packed ones are made ready apart
                own = value.to(self.stored.dtype(name))
                copied &= own is not value
                assign(*self._owners[name], own)
            self._others = dict(self.stored.mapped(self._apart, files))
            for file in files.values():
                file.check()
            self._files = {} if copied and not self._others else files
        except BaseException:
            self.drop()
            raise
        self.placed = True

    def check(self) -> None:
        """Raise CheckpointError, and give all up, if weights are others than when they were mapped."""
        try:
            for file in self._files.values():
                file.check()
        except BaseException:
            self.drop()
            raise

    def forked(self) -> None:
        """Begin anew in a forked process."""
        self.drop()

    def use(self, units: Units, sizes: Sizes) -> None:
        """Go on with other units. What runs where it lies stays there, unless it begins or ends to."""
        apart = [[unit.apart for unit in found[expert]] for found in (self.units, units) for expert in EXPERTS]
        if self.placed and apart[:2] != apart[2:]:
            self.drop()
        if not self.placed:
            self._arrange(units, sizes)
        self.units, self.sizes = units, sizes

    def begin(self, plan: Plan) -> None:
        """Nothing to do: all stays where it is."""

    def enter(self, expert: str) -> None:
        """Nothing to do: both experts are there."""

    def drop(self) -> None:
        """Put every parameter back on the meta device, giving up the memory it held."""
        self.placed = False
        self.times_dropped += 1
        self.fixed.drop()
        for module, leaf in self._owners.values():
            assign(module, leaf, module.get_parameter(leaf).to("meta"))
        for unit in (unit for expert in EXPERTS for unit in self.units[expert] if unit.int8):
            uproot(unit.template)
        self._others.clear()
        self._files = {}
        self.slots.drop()

    def shrink(self, size: int) -> int:
        """Give back all there is; returns how many bytes that were."""
        before = self.nbytes
        self.drop()
        return before

    def layers(self, expert: str) -> Iterator[nn.Module]:
        """One pass over an expert's layers: each is ready to run until the next one is asked for."""
        for unit in self.units[expert][: self.sizes.layers]:
            if not unit.apart and unit.int8:
                plant(unit, unit.template, self._as_it_lies)
            yield self._made_ready(unit) if unit.apart else unit.template

    def head(self) -> Iterable[Tensor]:
        """One pass over the output head's pieces: the same."""
        pieces = self.units[UNDERSTANDING][self.sizes.layers :]
        if pieces[0].apart:  # then all are, for they are one tensor
            return (self._made_ready(unit).get_parameter("weight") for unit in pieces)
        return self._model.understanding.lm_head.weight.split([unit.parts[0].shape[0] for unit in pieces])

    def _made_ready(self, unit: Unit) -> nn.Module:
        return self.slots.made_ready(unit, self._as_it_lies, max(self.sizes.working.values()))

    def _as_it_lies(self, part: Part) -> Tensor | Packed:
        whole = self._others[part.name]
        if whole.shape == part.shape:
            return whole
        if isinstance(whole, Packed):
            return whole.rows(part.first_row, part.shape[0])
        return whole[part.first_row : part.first_row + part.shape[0]]
