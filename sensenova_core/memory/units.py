"""What moves between files, system memory and the card in one piece: a layer, or a piece of the output head."""

import copy
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..checkpoint import Packed, StoredWeights, TensorHeader, assign, checkpoint_name
from ..checkpoint.formats import PIECE, SCRATCH
from ..lora import Lora, merge
from ..lora.merging import Term, merge_scratch
from ..model import MixtureOfExperts, SenseNovaU1

UNDERSTANDING, GENERATION = EXPERTS = ("understanding", "generation")
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
    """expert, index: its place in a pass. template: a module on the meta device that computes with such tensors.

    changes: what LoRAs add to its parts, in the order in which they are added.
    """

    expert: str
    index: int
    parts: tuple[Part, ...]
    template: nn.Module
    changes: tuple[Change, ...] = ()

    @cached_property
    def stored(self) -> tuple[Part, ...]:
        """All that lies and moves."""
        return (*self.parts, *(part for change in self.changes for part in (change.up, change.down)))

    @cached_property
    def nbytes(self) -> int:
        """As it lies and moves."""
        return _aligned(self.stored[-1].start + self.stored[-1].nbytes)

    @cached_property
    def running_bytes(self) -> int:
        return _aligned(self.parts[-1].place + self.parts[-1].running_bytes)

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
            return merge_scratch(part.shape, packed, [change.down.shape[0] for change in changes])
        return SCRATCH * min(PIECE, torch.Size(part.shape).numel()) if packed else 0

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
        for inner in module.modules():
            if isinstance(inner, MixtureOfExperts):
                inner.stack_up()
        return module


Units = dict[str, tuple[Unit, ...]]  # by expert


def fill(unit: Unit, stored: Callable[[Part], Tensor | Packed], working: Tensor) -> None:
    """Unpack a unit's parts to the working buffer, what LoRAs add to them added, where it can then run.

    stored: a part as it lies.
    """
    for part in unit.parts:
        value, running = stored(part), part.on(working)
        if changes := unit.changed.get(part.leaf):
            merge(value, [(each.amount, stored(each.up), stored(each.down)) for each in changes], running)
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
    changes, start = [], replace(unit, changes=()).nbytes
    for lora, strength in loras:
        for part in unit.parts:
            if (factors := lora.factors.get(part.stored)) is None:
                continue
            names, rank = lora.names(part.stored), factors.down.shape[0]
            dtypes = factors.up.format.dtype, factors.down.format.dtype
            up = Part(part.leaf, names[0], dtypes[0], (part.shape[0], rank), start, 0, part.first_row)
            down = Part(part.leaf, names[1], dtypes[1], factors.down.shape, _aligned(start + up.nbytes), 0)
            start = _aligned(down.start + down.nbytes)
            changes.append(Change(part.leaf, up, down, strength * factors.factor))
    return replace(unit, changes=tuple(changes))


def units_of(model: SenseNovaU1, weights: StoredWeights) -> Units:
    """Each expert's units in the order of a pass: its layers; for the understanding expert, the head's pieces too."""
    units = {
        expert: [
            _layer(expert, index, f"{expert}.decoder.layers.{index}.", layer, weights)
            for index, layer in enumerate(getattr(model, expert).decoder.layers)
        ]
        for expert in EXPERTS
    }
    units[UNDERSTANDING] += _head_pieces(model, len(units[UNDERSTANDING]), weights)
    return {expert: tuple(found) for expert, found in units.items()}


class Fixed:
    """The tensors outside the units: small ones that stay on the device, and the embedding table, of which a run needs
    a few rows, and which therefore stays in its file, mapped to memory. What LoRAs add to the small ones is added when
    they are placed; to the table, to the rows that are wanted."""

    def __init__(self, model: SenseNovaU1, weights: StoredWeights):
        names = [name for name, _ in model.named_parameters() if ".decoder.layers." not in name]
        owners = {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}
        self._table = {checkpoint_name(name): owner for name, owner in owners.items() if ".embed_tokens." in name}
        self._small = {
            checkpoint_name(name): owner
            for name, owner in owners.items()
            if ".embed_tokens." not in name and ".lm_head." not in name
        }
        self.nbytes = sum(weights.headers[name].numel * weights.dtype(name).itemsize for name in self._small)
        self._dtype, self._understanding = weights.compute_dtype, weakref.ref(model.understanding)  # no circle
        self._apart = any(weights.headers[name].packed for name in self._table)
        self._rows: Tensor | Packed | None = None  # of a table that is not in place
        self._loras: tuple[tuple[Lora, float], ...] = ()
        self._added: list[Term] = []  # to the table
        self._take_rows()

    def use(self, loras: Sequence[tuple[Lora, float]]) -> bool:
        """Add what these LoRAs do at these strengths, when next placed; whether that makes any difference."""
        before = self._changes()
        self._loras = tuple(loras)
        self._take_rows()
        return self._changes() != before

    def place(self, weights: StoredWeights, device: torch.device) -> None:
        for name, value in weights.mapped([*self._small]):
            dtype = weights.dtype(name)
            if terms := self._terms(weights, name):
                merged = torch.empty(value.shape, dtype=dtype, device="cpu")
                merge(value, terms, merged)
                value = merged
            elif isinstance(value, Packed):
                value = value.unpacked(dtype)
            assign(*self._small[name], value.to(device, dtype))
        for name, value in weights.mapped([*self._table]):
            self._rows, self._added = value, self._terms(weights, name)
            if not isinstance(value, Packed):
                assign(*self._table[name], value)

    def drop(self) -> None:
        self._rows, self._added = None, []
        for module, leaf in (*self._small.values(), *self._table.values()):
            assign(module, leaf, getattr(module, leaf).to("meta"))

    def _changes(self) -> list[tuple[str, str, float]]:
        """What is added outside the layers."""
        return [
            (lora.key, name, strength)
            for lora, strength in self._loras
            for name in (*self._small, *self._table)
            if strength and name in lora.factors
        ]

    def _terms(self, weights: StoredWeights, name: str) -> list[Term]:
        used = [(lora, strength) for lora, strength in self._loras if strength and name in lora.factors]
        terms = []
        for lora, strength in used:
            (_, up), (_, down) = weights.mapped(lora.names(name))
            terms.append((strength * lora.factors[name].factor, up, down))
        return terms

    def _take_rows(self) -> None:
        """Have the table's rows come from here, if they do not run as they lie."""
        added = any(strength and name in lora.factors for lora, strength in self._loras for name in self._table)
        self._understanding().embed_source = self._embed if self._apart or added else None

    def _embed(self, ids: Tensor) -> Tensor:
        """Rows of the table, on the CPU: no others are unpacked or changed."""
        ids = ids.cpu()
        rows = self._rows.at(ids) if isinstance(self._rows, Packed) else self._rows[ids]
        into = torch.empty(rows.shape, dtype=self._dtype, device="cpu")
        merge(rows, [(amount, up[ids], down) for amount, up, down in self._added], into)
        return into


def _layer(expert: str, index: int, prefix: str, layer: nn.Module, weights: StoredWeights) -> Unit:
    parts, start, place = [], 0, 0
    for leaf, value in layer.named_parameters():
        parts.append(_part(leaf, checkpoint_name(prefix + leaf), tuple(value.shape), start, place, weights))
        start, place = _aligned(start + parts[-1].nbytes), _aligned(place + parts[-1].running_bytes)
    return Unit(expert, index, tuple(parts), layer)


def _head_pieces(model: SenseNovaU1, first: int, weights: StoredWeights) -> Iterator[Unit]:
    head, rows = model.understanding.lm_head, model.understanding.head_rows
    stored = checkpoint_name("understanding.lm_head.weight")
    for index, start in enumerate(range(0, head.out_features, rows)):
        height = min(rows, head.out_features - start)
        with torch.device("meta"):
            piece = nn.Linear(head.in_features, height, bias=False).requires_grad_(False)
        part = _part("weight", stored, (height, head.in_features), 0, 0, weights, start)
        yield Unit(UNDERSTANDING, first + index, (part,), piece)


def _part(
    leaf: str, stored: str, shape: tuple[int, ...], start: int, place: int, weights: StoredWeights, first_row: int = 0
) -> Part:
    header = weights.headers[stored]
    return Part(leaf, stored, weights.dtype(stored), shape, start, place, first_row, header if header.packed else None)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
