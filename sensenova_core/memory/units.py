"""What moves between files, system memory and the card in one piece: a layer, or a piece of the output head."""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..checkpoint import Packed, StoredWeights, TensorHeader, assign, checkpoint_name
from ..checkpoint.formats import PIECE, SCRATCH
from ..lora import Lora, merge
from ..lora.merging import merge_scratch
from ..model import UNDERSTANDING, MixtureOfExperts, SenseNovaU1
from ..model.unified import EXPERTS

Key = tuple[str, int]  # a unit: its expert, and its index in a pass
_ALIGN = 256  # bytes, as CUDA's own allocations are


@dataclass(frozen=True)
class Part:
    """One tensor of a unit, of this type and shape when it runs.

    leaf: its name in the unit's module. name: its published name; first_row: of that one. lies_at: its first byte in a
    unit's buffer; runs_at: in the working buffer, which is the same in units of plain tensors. packed: what it is while
    it lies and moves packed.
    """

    leaf: str
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    lies_at: int
    runs_at: int
    first_row: int = 0
    packed: TensorHeader | None = None

    @property
    def nbytes(self) -> int:
        """In a unit's buffer."""
        return self.running_bytes if self.packed is None else self.packed.packed_bytes(self.shape)

    @property
    def running_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, buffer: Tensor) -> Tensor | Packed:
        """This tensor in a unit's flat uint8 buffer."""
        own = buffer[self.lies_at : self.lies_at + self.nbytes]
        if self.packed is not None:
            return self.packed.packed_in(own, self.shape, self.first_row)
        return own.view(self.dtype).view(self.shape)

    def on(self, working: Tensor) -> Tensor:
        """This tensor where it runs: in the working buffer, which is the unit's own buffer if all parts are plain."""
        return working[self.runs_at : self.runs_at + self.running_bytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Change:
    """What a LoRA adds to a part when it runs: amount * up @ down, which lie and move with the part's unit.

    leaf: the part's. amount: 0 for a LoRA that is not in use just now.
    """

    leaf: str
    up: Part
    down: Part
    amount: float


@dataclass(frozen=True, eq=False)
class Unit:
    """expert, index: whose pass it is in, and where. template: a module on the meta device that computes with such.

    changes: what LoRAs add to its parts, in the order in which they are added.
    """

    expert: str
    index: int
    parts: tuple[Part, ...]
    template: nn.Module
    changes: tuple[Change, ...] = ()

    @cached_property
    def all_parts(self) -> tuple[Part, ...]:
        """All that lies and moves."""
        return (*self.parts, *(part for change in self.changes for part in (change.up, change.down)))

    @cached_property
    def nbytes(self) -> int:
        """As it lies and moves."""
        return _aligned(self.all_parts[-1].lies_at + self.all_parts[-1].nbytes)

    @cached_property
    def running_bytes(self) -> int:
        return _aligned(self.parts[-1].runs_at + self.parts[-1].running_bytes)

    @cached_property
    def apart(self) -> bool:
        """Whether it runs in the working buffer, and not where it lies."""
        return any(part.packed is not None for part in self.parts) or bool(self.changed)

    @cached_property
    def changed(self) -> dict[str, tuple[Change, ...]]:
        """By leaf, the changes that are in use."""
        used = [change for change in self.changes if change.amount]
        return {leaf: tuple(each for each in used if each.leaf == leaf) for leaf in {each.leaf for each in used}}

    @cached_property
    def scratch(self) -> int:
        """Most bytes that filling the working buffer takes beside it."""
        return max(map(self._scratch_of, self.parts))

    def _scratch_of(self, part: Part) -> int:
        packed = part.packed is not None
        if changes := self.changed.get(part.leaf):
            return merge_scratch(part.shape, [change.down.shape[0] for change in changes], packed=packed)
        return SCRATCH * min(PIECE, torch.Size(part.shape).numel()) if packed else 0

    @cached_property
    def kind(self) -> str:
        """Equal for units whose tensors run alike, so that one module on a buffer can compute any of them.

        A string, for it is looked up at every layer, and a mixture's has hundreds of tensors.
        """
        lie = [(part.leaf, part.dtype, part.shape, part.runs_at) for part in self.parts]
        return sys.intern(f"{type(self.template)} {lie}")

    def module_on(self, buffer: Tensor) -> nn.Module:
        """A module that computes with whatever unit of this kind runs in `buffer`."""
        module = copy.deepcopy(self.template)
        for part in self.parts:
            assign(module, part.leaf, part.on(buffer))
        for inner in module.modules():
            if isinstance(inner, MixtureOfExperts):
                inner.stack_up()
        return module


Units = dict[str, tuple[Unit, ...]]  # by expert


def fill(unit: Unit, lying: Callable[[Part], Tensor | Packed], working: Tensor) -> None:
    """Unpack a unit's parts to the working buffer, what LoRAs add to them added, where it can then run.

    lying: gives a part as it lies.
    """
    for part in unit.parts:
        value, running = lying(part), part.on(working)
        if changes := unit.changed.get(part.leaf):
            merge(value, [(each.amount, lying(each.up), lying(each.down)) for each in changes], running)
        elif isinstance(value, Packed):
            value.unpack(running)
        else:
            running.copy_(value)


def with_changes(
    units: dict[str, tuple[Unit, ...]], loras: Sequence[tuple[Lora, float]]
) -> dict[str, tuple[Unit, ...]]:
    """The units with what these LoRAs add at these strengths, in place of what was added before."""
    return {expert: tuple(_with_changes(unit, loras) for unit in found) for expert, found in units.items()}


def _with_changes(unit: Unit, loras: Sequence[tuple[Lora, float]]) -> Unit:
    changes, lies_at = [], replace(unit, changes=()).nbytes
    for lora, strength in loras:
        for part in unit.parts:
            if (factors := lora.factors.get(part.name)) is None:
                continue
            names, rank = lora.names(part.name), factors.down.shape[0]
            dtypes = factors.dtypes
            up = Part(part.leaf, names[0], dtypes[0], (part.shape[0], rank), lies_at, 0, part.first_row)
            down = Part(part.leaf, names[1], dtypes[1], factors.down.shape, _aligned(lies_at + up.nbytes), 0)
            lies_at = _aligned(down.lies_at + down.nbytes)
            changes.append(Change(part.leaf, up, down, strength * factors.factor))
    return replace(unit, changes=tuple(changes))


def units_of(model: SenseNovaU1, stored: StoredWeights) -> Units:
    """Each expert's units in the order of a pass: its layers; for the understanding expert, the head's pieces too."""
    units = {
        expert: [
            _layer(expert, index, f"{expert}.decoder.layers.{index}.", layer, stored)
            for index, layer in enumerate(getattr(model, expert).decoder.layers)
        ]
        for expert in EXPERTS
    }
    units[UNDERSTANDING] += _head_pieces(model, len(units[UNDERSTANDING]), stored)
    return {expert: tuple(found) for expert, found in units.items()}


def _layer(expert: str, index: int, prefix: str, layer: nn.Module, stored: StoredWeights) -> Unit:
    parts, lies_at, runs_at = [], 0, 0
    for leaf, value in layer.named_parameters():
        parts.append(_part(leaf, checkpoint_name(prefix + leaf), tuple(value.shape), lies_at, runs_at, stored))
        lies_at, runs_at = _aligned(lies_at + parts[-1].nbytes), _aligned(runs_at + parts[-1].running_bytes)
    return Unit(expert, index, tuple(parts), layer)


def _head_pieces(model: SenseNovaU1, first: int, stored: StoredWeights) -> Iterator[Unit]:
    head, rows = model.understanding.lm_head, model.understanding.head_rows
    name = checkpoint_name("understanding.lm_head.weight")
    for index, start in enumerate(range(0, head.out_features, rows)):
        height = min(rows, head.out_features - start)
        with torch.device("meta"):
            piece = nn.Linear(head.in_features, height, bias=False).requires_grad_(False)
        part = _part("weight", name, (height, head.in_features), 0, 0, stored, start)
        yield Unit(UNDERSTANDING, first + index, (part,), piece)


def _part(
    leaf: str, name: str, shape: tuple[int, ...], lies_at: int, runs_at: int, stored: StoredWeights, first_row: int = 0
) -> Part:
    packed = stored.headers[name] if stored.headers[name].packed else None
    return Part(leaf, name, stored.dtype(name), shape, lies_at, runs_at, first_row, packed)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
