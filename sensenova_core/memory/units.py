"""What moves between files, system memory and the card in one piece: a layer, or a piece of the output head."""

import copy
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..checkpoint import Packed, StoredWeights, TensorHeader, assign, checkpoint_name
from ..checkpoint.formats import PIECE, piece_on
from ..checkpoint.int8 import SCALE, scale_of
from ..lora import Lora, merge
from ..lora.merging import factor, merge_scratch
from ..model import UNDERSTANDING, MixtureOfExperts, SenseNovaU1
from ..model.int8 import Int8Linear, quantised
from ..model.unified import EXPERTS

Key = tuple[str, int]  # a unit: its expert, and its index in a pass
_ALIGN = 256  # bytes, as CUDA's own allocations are
_QUANTISING = 16  # bytes a number that making a piece INT8 takes, once it is unpacked


@dataclass(frozen=True)
class Part:
    """One tensor of a unit, of this type and shape when it runs.

    leaf: its name in the unit's module. name: its published name; first_row: of that one. lies_at: its first byte in a
    unit's buffer; runs_at: in the working buffer, which is the same in units of plain tensors. packed: what it is while
    it lies and moves packed, or in another type than it runs in. scales: of a weight that becomes INT8 when it is made
    ready, where its scales run; they lie nowhere.
    """

    leaf: str
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    lies_at: int = 0
    runs_at: int = 0
    first_row: int = 0
    packed: TensorHeader | None = None
    scales: "Part | None" = None

    @property
    def nbytes(self) -> int:
        """In a unit's buffer."""
        return self.running_bytes if self.packed is None else self.packed.packed_bytes(self.shape)

    @property
    def running_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def running(self) -> "tuple[Part, ...]":
        """It, and its scales if it has any of its own."""
        return (self,) if self.scales is None else (self, self.scales)

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

    It is added to the weight, or, beside a weight of INT8, to what the layer makes of its input.

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
        return max(_aligned(each.runs_at + each.running_bytes) for part in self.parts for each in part.running)

    @cached_property
    def apart(self) -> bool:
        """Whether it runs in the working buffer, and not where it lies."""
        return any(part.packed is not None for part in self.parts) or bool(self.changed)

    @cached_property
    def changed(self) -> dict[str, tuple[Change, ...]]:
        """By leaf, the changes of weights that are in use."""
        return self._used({part.leaf for part in self.parts} - self.int8)

    @cached_property
    def beside(self) -> dict[str, tuple[Change, ...]]:
        """By leaf, the changes beside weights of INT8 that are in use."""
        return self._used(self.int8)

    @cached_property
    def int8(self) -> frozenset[str]:
        """Leaves of the weights that are multiplied as INT8."""
        return frozenset(part.leaf for part in self.parts if part.dtype == torch.int8)

    def _used(self, leaves: Collection[str]) -> dict[str, tuple[Change, ...]]:
        used = [change for change in self.changes if change.amount and change.leaf in leaves]
        return {leaf: tuple(each for each in used if each.leaf == leaf) for leaf in {each.leaf for each in used}}

    @cached_property
    def scratch(self) -> int:
        """Most bytes that filling the working buffer takes beside it."""
        copied = sum(each.up.nbytes + each.down.nbytes for used in self.beside.values() for each in used)
        return max(map(self._scratch_of, self.parts)) + copied

    def _scratch_of(self, part: Part) -> int:
        unpacking = 0 if part.packed is None else part.packed.scratch
        if changes := self.changed.get(part.leaf):
            return merge_scratch(part.shape, [change.down.shape[0] for change in changes], unpacking=unpacking)
        quantising = 0 if part.scales is None else _QUANTISING
        return (unpacking + quantising) * min(PIECE, torch.Size(part.shape).numel())

    @cached_property
    def kind(self) -> str:
        """Equal for units whose tensors run alike, so that one module on a buffer can compute any of them.

        A string, for it is looked up at every layer, and a mixture's has hundreds of tensors.
        """
        running = [each for part in self.parts for each in part.running]
        lie = [(each.leaf, each.dtype, each.shape, each.runs_at) for each in running]
        groups = [each.group for each in self.template.modules() if isinstance(each, Int8Linear)]
        return sys.intern(f"{type(self.template)} {lie} {groups}")

    def module_on(self, buffer: Tensor) -> nn.Module:
        """A module that computes with whatever unit of this kind runs in `buffer`."""
        module = copy.deepcopy(self.template)
        for part in self.parts:
            for each in part.running:
                assign(module, each.leaf, each.on(buffer))
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
        if part.scales is not None:
            _quantise(value, running, part.scales.on(working))
        elif changes := unit.changed.get(part.leaf):
            terms = [(each.amount, factor(lying(each.up)), factor(lying(each.down))) for each in changes]
            merge(value, terms, running)
        elif isinstance(value, Packed):
            value.unpack(running)
        else:
            running.copy_(value)


def _quantise(value: Tensor | Packed, into: Tensor, scales: Tensor) -> None:
    """Write a weight (rows, width) as whole numbers and a scale for each row, some rows at a time."""
    height = max(1, piece_on(into.device) // into.shape[1])
    for first in range(0, len(into), height):
        count = min(height, len(into) - first)
        if isinstance(value, Packed):
            part = value.rows(first, count).unpacked(torch.float32)
        else:
            part = value[first : first + count].float()
        into[first : first + count], scales[first : first + count] = quantised(part)


def plant(unit: Unit, module: nn.Module, lying: Callable[[Part], Tensor | Packed]) -> None:
    """Have a module that computes with a unit add what LoRAs add beside weights of INT8. lying: see `fill`.

    Where a unit is made ready apart, what it lies in may be filled anew while it runs: so they are copied.
    """
    for leaf in unit.int8:
        linear = module.get_submodule(leaf.rpartition(".")[0])
        assert isinstance(linear, Int8Linear)
        linear.terms = ()  # those of the unit before, before there are others
        used = unit.beside.get(leaf, ())
        terms = [(each.amount, factor(lying(each.up)), factor(lying(each.down))) for each in used]
        linear.terms = [(amount, up.clone(), down.clone()) for amount, up, down in terms] if unit.apart else terms


def uproot(module: nn.Module) -> None:
    """Have a module hold nothing that `plant` gave it."""
    for inner in module.modules():
        if isinstance(inner, Int8Linear):
            inner.terms = ()


def with_changes(units: Units, loras: Sequence[tuple[Lora, float]]) -> Units:
    """The units with what these LoRAs add at these strengths, in place of what was added before."""
    return {expert: tuple(_with_changes(unit, loras) for unit in found) for expert, found in units.items()}


def _with_changes(unit: Unit, loras: Sequence[tuple[Lora, float]]) -> Unit:
    lies_at = replace(unit, changes=()).nbytes
    changes: list[Change] = []
    for lora, strength in loras:
        for part in unit.parts:
            if (factors := lora.factors.get(part.name)) is None:
                continue
            (up_name, down_name), (up_dtype, down_dtype) = lora.names(part.name), factors.dtypes
            shape = (part.shape[0], factors.down.shape[0])
            up = replace(part, name=up_name, dtype=up_dtype, shape=shape, lies_at=lies_at, packed=None)
            behind = _aligned(lies_at + up.nbytes)
            down = replace(up, name=down_name, dtype=down_dtype, shape=factors.down.shape, lies_at=behind, first_row=0)
            lies_at = _aligned(down.lies_at + down.nbytes)
            changes.append(Change(leaf=part.leaf, up=up, down=down, amount=strength * factors.factor))
    return replace(unit, changes=tuple(changes))


def units_of(model: SenseNovaU1, stored: StoredWeights) -> Units:
    """Each expert's units in the order of a pass: its layers; for the understanding expert, the head's pieces too."""
    units = {
        expert: [
            _layer(layer, stored, expert=expert, index=index)
            for index, layer in enumerate(getattr(model, expert).decoder.layers)
        ]
        for expert in EXPERTS
    }
    units[UNDERSTANDING] += _head_pieces(model, units[UNDERSTANDING], stored)
    return {expert: tuple(found) for expert, found in units.items()}


def _layer(layer: nn.Module, stored: StoredWeights, *, expert: str, index: int) -> Unit:
    parts: list[Part] = []
    lies_at = runs_at = 0
    for leaf, value in layer.named_parameters():
        name = checkpoint_name(f"{expert}.decoder.layers.{index}.{leaf}")
        if name not in stored.headers:
            continue  # scales that are made with their weight
        part = replace(_part(leaf, name, stored, shape=tuple(value.shape)), lies_at=lies_at, runs_at=runs_at)
        lies_at, runs_at = _aligned(lies_at + part.nbytes), _aligned(runs_at + part.running_bytes)
        if name in stored.made_int8:
            part = replace(part, scales=_scales(part, runs_at))
            runs_at = _aligned(runs_at + part.running[-1].running_bytes)
        parts.append(part)
    return Unit(expert=expert, index=index, parts=tuple(parts), template=layer)


def _head_pieces(model: SenseNovaU1, layers: Sequence[Unit], stored: StoredWeights) -> list[Unit]:
    """No larger than a layer as they lie, for all of an expert's units have buffers of one size. None of a model that
    only draws."""
    if not model.config.writes:
        return []
    head, name = model.understanding.lm_head, checkpoint_name("understanding.lm_head.weight")
    whole = _part("weight", name, stored, shape=(head.out_features, head.in_features)).nbytes
    pieces = max(
        -(-head.out_features // model.understanding.head_rows), -(-whole // max(unit.nbytes for unit in layers))
    )
    return [*_pieces(head, name, stored, first=len(layers), rows=-(-head.out_features // pieces))]


def _pieces(head: nn.Linear, name: str, stored: StoredWeights, *, first: int, rows: int) -> Iterator[Unit]:
    """Of so many rows each. first: the index of the first one in a pass."""
    for index, start in enumerate(range(0, head.out_features, rows)):
        height = min(rows, head.out_features - start)
        with torch.device("meta"):
            piece = nn.Linear(head.in_features, height, bias=False).requires_grad_(requires_grad=False)
        part = replace(_part("weight", name, stored, shape=(height, head.in_features)), first_row=start)
        yield Unit(expert=UNDERSTANDING, index=first + index, parts=(part,), template=piece)


def _part(leaf: str, name: str, stored: StoredWeights, *, shape: tuple[int, ...]) -> Part:
    """At the beginning of a unit."""
    packed = stored.headers[name] if stored.headers[name].packed or name in stored.made_int8 else None
    return Part(leaf=leaf, name=name, dtype=stored.dtype(name), shape=shape, packed=packed)


def _scales(weight: Part, runs_at: int) -> Part:
    leaf = f"{weight.leaf.rpartition('.')[0]}.{SCALE}"
    shape = (weight.shape[0], 1)
    return Part(leaf=leaf, name=scale_of(weight.name), dtype=torch.float32, shape=shape, runs_at=runs_at)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
