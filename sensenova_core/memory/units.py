"""What moves between files, system memory and the card in one piece: a layer, or a piece of the output head."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..checkpoint import Weights, assign, checkpoint_name
from ..model import MixtureOfExperts, SenseNovaU1

READING, DRAWING = EXPERTS = ("understanding", "generation")
_ALIGN = 256  # bytes, as CUDA's own allocations are


@dataclass(frozen=True)
class Part:
    """One tensor of a unit. leaf: its name in the unit's module. stored: its published name; first_row: of that one."""

    leaf: str
    stored: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    first_row: int = 0

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, buffer: Tensor) -> Tensor:
        """This tensor in a unit's flat uint8 buffer."""
        return buffer[self.start : self.start + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True, eq=False)
class Unit:
    """expert, index: its place in a pass. template: a module on the meta device that computes with such tensors."""

    expert: str
    index: int
    parts: tuple[Part, ...]
    template: nn.Module

    @cached_property
    def nbytes(self) -> int:
        return _aligned(self.parts[-1].start + self.parts[-1].nbytes)

    @cached_property
    def kind(self) -> str:
        """Equal for units whose tensors lie alike, so that one module on a buffer can compute any of them.

        A string, for it is looked up at every layer, and a mixture's has hundreds of tensors.
        """
        lie = [(part.leaf, part.dtype, part.shape, part.start) for part in self.parts]
        return sys.intern(f"{type(self.template)} {lie}")

    def module_on(self, buffer: Tensor) -> nn.Module:
        """A module that computes with whatever unit of this kind lies in `buffer`."""
        module = copy.deepcopy(self.template)
        for part in self.parts:
            assign(module, part.leaf, part.of(buffer))
        for part in module.modules():
            if isinstance(part, MixtureOfExperts):
                part.stack_up()
        return module


def units_of(model: SenseNovaU1, weights: Weights) -> dict[str, tuple[Unit, ...]]:
    """Each expert's units in the order of a pass: its layers; for the understanding expert, the head's pieces too."""
    units = {
        expert: [
            _layer(expert, index, f"{expert}.decoder.layers.{index}.", layer, weights)
            for index, layer in enumerate(getattr(model, expert).decoder.layers)
        ]
        for expert in EXPERTS
    }
    units[READING] += _head_pieces(model, len(units[READING]), weights)
    return {expert: tuple(found) for expert, found in units.items()}


class Fixed:
    """The tensors outside the units: small ones that stay on the device, and the embedding table, of which a run needs
    a few rows, and which therefore stays in its file, mapped to memory."""

    def __init__(self, model: SenseNovaU1, weights: Weights):
        names = [name for name, _ in model.named_parameters() if ".decoder.layers." not in name]
        owners = {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}
        self._table = {checkpoint_name(name): owner for name, owner in owners.items() if ".embed_tokens." in name}
        self._small = {
            checkpoint_name(name): owner
            for name, owner in owners.items()
            if ".embed_tokens." not in name and ".lm_head." not in name
        }
        self.nbytes = sum(weights.headers[name].numel * weights.dtype(name).itemsize for name in self._small)

    def place(self, weights: Weights, device: torch.device) -> None:
        for name, value in weights.mapped([*self._small]):
            assign(*self._small[name], value.to(device, weights.dtype(name)))
        for name, value in weights.mapped([*self._table]):
            assign(*self._table[name], value)

    def drop(self) -> None:
        for module, leaf in (*self._small.values(), *self._table.values()):
            assign(module, leaf, getattr(module, leaf).to("meta"))


def _layer(expert: str, index: int, prefix: str, layer: nn.Module, weights: Weights) -> Unit:
    parts, start = [], 0
    for leaf, value in layer.named_parameters():
        stored = checkpoint_name(prefix + leaf)
        parts.append(Part(leaf, stored, weights.dtype(stored), tuple(value.shape), start))
        start = _aligned(start + parts[-1].nbytes)
    return Unit(expert, index, tuple(parts), layer)


def _head_pieces(model: SenseNovaU1, first: int, weights: Weights) -> Iterator[Unit]:
    head, rows = model.understanding.lm_head, model.understanding.head_rows
    stored = checkpoint_name("understanding.lm_head.weight")
    for index, start in enumerate(range(0, head.out_features, rows)):
        height = min(rows, head.out_features - start)
        with torch.device("meta"):
            piece = nn.Linear(head.in_features, height, bias=False).requires_grad_(False)
        part = Part("weight", stored, weights.dtype(stored), (height, head.in_features), 0, start)
        yield Unit(READING, first + index, (part,), piece)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
