"""What moves between files, system memory and the card in one piece: a layer, or a piece of the output head."""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..checkpoint import Packed, TensorHeader, Weights, assign, checkpoint_name
from ..checkpoint.formats import PIECE, SCRATCH
from ..model import SenseNovaU1

READING, DRAWING = EXPERTS = ("understanding", "generation")
_ALIGN = 256  # bytes, as CUDA's own allocations are


@dataclass(frozen=True)
class Part:
    """One tensor of a unit, of this type and shape when it runs.

    leaf: its name in the unit's module. stored: its published name; first_row: of that one. packed: what it is while it
    lies and moves packed. start: where it lies in a unit's buffer; place: in the working buffer. They are the same in
    units of plain tensors.
    """

    leaf: str
    stored: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    place: int
    first_row: int = 0
    packed: TensorHeader | None = None

    @property
    def nbytes(self) -> int:
        """In a unit's buffer."""
        return self.running_bytes if self.packed is None else self.packed.held_bytes(self.shape)

    @property
    def running_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, buffer: Tensor) -> Tensor | Packed:
        """This tensor in a unit's flat uint8 buffer."""
        own = buffer[self.start : self.start + self.nbytes]
        if self.packed is not None:
            return self.packed.held_in(own, self.shape, self.first_row)
        return own.view(self.dtype).view(self.shape)

    def on(self, working: Tensor) -> Tensor:
        """This tensor where it runs: in the working buffer, which is the unit's own buffer if all parts are plain."""
        return working[self.place : self.place + self.running_bytes].view(self.dtype).view(self.shape)


# (part, the tensor as it is about to run): adds to it in place, as a low-rank change of the weights does.
Merge = Callable[[Part, Tensor], None]


@dataclass(frozen=True, eq=False)
class Unit:
    """expert, index: its place in a pass. template: a module on the meta device that computes with such tensors."""

    expert: str
    index: int
    parts: tuple[Part, ...]
    template: nn.Module

    @cached_property
    def nbytes(self) -> int:
        """As it lies and moves."""
        return _aligned(self.parts[-1].start + self.parts[-1].nbytes)

    @cached_property
    def running_bytes(self) -> int:
        return _aligned(self.parts[-1].place + self.parts[-1].running_bytes)

    @cached_property
    def packed(self) -> bool:
        """Whether it runs in the working buffer, and not where it lies."""
        return any(part.packed is not None for part in self.parts)

    @cached_property
    def scratch(self) -> int:
        """Most bytes that unpacking takes beside the working buffer."""
        numbers = [torch.Size(part.shape).numel() for part in self.parts if part.packed is not None]
        return SCRATCH * min(PIECE, max(numbers, default=0))

    @cached_property
    def kind(self) -> str:
        """Equal for units whose tensors run alike, so that one module on a buffer can compute any of them.

        A string, for it is looked up at every layer, and a mixture's has hundreds of tensors.
        """
        lie = [(part.leaf, part.dtype, part.shape, part.place) for part in self.parts]
        return sys.intern(f"{type(self.template)} {lie}")

    def module_on(self, buffer: Tensor) -> nn.Module:
        """A module that computes with whatever unit of this kind runs in `buffer`."""
        module = copy.deepcopy(self.template)
        for part in self.parts:
            assign(module, part.leaf, part.on(buffer))
        return module

    def stored_in(self, buffer: Tensor) -> list[Tensor | Packed]:
        """Its parts in the buffer that it moves in."""
        return [part.of(buffer) for part in self.parts]


def fill(unit: Unit, stored: Sequence[Tensor | Packed], working: Tensor, merge: Merge | None = None) -> None:
    """Unpack a unit's parts, as they lie, to the working buffer, where it can then run."""
    for part, value in zip(unit.parts, stored, strict=True):
        running = part.on(working)
        if isinstance(value, Packed):
            value.unpack(running)
        else:
            running.copy_(value)
        if merge is not None:
            merge(part, running)


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
        self._packed_table: Packed | None = None
        if any(weights.headers[name].packed for name in self._table):
            model.understanding.embed_source = partial(self._embed, weights.compute_dtype)

    def place(self, weights: Weights, device: torch.device) -> None:
        for name, value in weights.mapped([*self._small]):
            if isinstance(value, Packed):
                value = value.unpacked(weights.dtype(name))
            assign(*self._small[name], value.to(device, weights.dtype(name)))
        for name, value in weights.mapped([*self._table]):
            if isinstance(value, Packed):
                self._packed_table = value
            else:
                assign(*self._table[name], value)

    def drop(self) -> None:
        self._packed_table = None
        for module, leaf in (*self._small.values(), *self._table.values()):
            assign(module, leaf, getattr(module, leaf).to("meta"))

    def _embed(self, dtype: torch.dtype, ids: Tensor) -> Tensor:
        """Rows of a packed table, on the CPU: no others are unpacked."""
        return self._packed_table.at(ids.cpu()).unpacked(dtype)


def _layer(expert: str, index: int, prefix: str, layer: nn.Module, weights: Weights) -> Unit:
    parts, start, place = [], 0, 0
    for leaf, value in layer.named_parameters():
        parts.append(_part(leaf, checkpoint_name(prefix + leaf), tuple(value.shape), start, place, weights))
        start, place = _aligned(start + parts[-1].nbytes), _aligned(place + parts[-1].running_bytes)
    return Unit(expert, index, tuple(parts), layer)


def _head_pieces(model: SenseNovaU1, first: int, weights: Weights) -> Iterator[Unit]:
    head, rows = model.understanding.lm_head, model.understanding.head_rows
    stored = checkpoint_name("understanding.lm_head.weight")
    for index, start in enumerate(range(0, head.out_features, rows)):
        height = min(rows, head.out_features - start)
        with torch.device("meta"):
            piece = nn.Linear(head.in_features, height, bias=False).requires_grad_(False)
        part = _part("weight", stored, (height, head.in_features), 0, 0, weights, start)
        yield Unit(READING, first + index, (part,), piece)


def _part(
    leaf: str, stored: str, shape: tuple[int, ...], start: int, place: int, weights: Weights, first_row: int = 0
) -> Part:
    header = weights.headers[stored]
    return Part(leaf, stored, weights.dtype(stored), shape, start, place, first_row, header if header.packed else None)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
