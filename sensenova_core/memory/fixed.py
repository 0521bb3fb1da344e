"""The tensors that do not move in units: small ones, and the embedding table."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checkpoint import Packed, StoredWeights, assign, checkpoint_name
from ..lora import Lora, merge
from ..lora.merging import Term
from ..model import SenseNovaU1

_NO_ROWS = torch.empty(0, device="cpu")  # before any are mapped


class Fixed:
    """The tensors outside the units: small ones that stay on the device, and the embedding table, of which a run needs
    a few rows, and which therefore stays in its file, mapped to memory. What LoRAs add to the small ones is added when
    they are placed; to the table, to the rows that are wanted."""

    def __init__(self, model: SenseNovaU1, stored: StoredWeights):
        names = [name for name, _ in model.named_parameters() if ".decoder.layers." not in name]
        owners = {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}
        self._table = {checkpoint_name(name): owner for name, owner in owners.items() if ".embed_tokens." in name}
        self._small = {
            checkpoint_name(name): owner
            for name, owner in owners.items()
            if ".embed_tokens." not in name and ".lm_head." not in name
        }
        self.nbytes = sum(stored.headers[name].numel * stored.dtype(name).itemsize for name in self._small)
        self._dtype = stored.compute_dtype
        self._rows: Tensor | Packed = _NO_ROWS  # of the table
        self._loras: tuple[tuple[Lora, float], ...] = ()
        self._added: list[Term] = []  # to the table

    def use(self, loras: Sequence[tuple[Lora, float]]) -> bool:
        """Add what these LoRAs do at these strengths, when next placed; whether that makes any difference."""
        before = self._changes()
        self._loras = tuple(loras)
        return self._changes() != before

    def place(self, stored: StoredWeights, device: torch.device) -> None:
        for name, value in stored.mapped([*self._small]):
            dtype = stored.dtype(name)
            if terms := self._terms(stored, name):
                merged = torch.empty(value.shape, dtype=dtype, device="cpu")
                merge(value, terms, merged)
                value = merged
            elif isinstance(value, Packed):
                value = value.unpacked(dtype)
            assign(*self._small[name], value.to(device, dtype))
        for name, value in stored.mapped([*self._table]):
            self._rows, self._added = value, self._terms(stored, name)
            if not isinstance(value, Packed):
                assign(*self._table[name], value)

    def drop(self) -> None:
        self._rows, self._added = _NO_ROWS, []
        for module, leaf in (*self._small.values(), *self._table.values()):
            assign(module, leaf, getattr(module, leaf).to("meta"))

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the table, on the CPU: no others are unpacked or changed."""
        ids = ids.cpu()
        rows = self._rows.at(ids) if isinstance(self._rows, Packed) else self._rows[ids]
        if isinstance(rows, Tensor) and not self._added:
            return rows
        into = torch.empty(rows.shape, dtype=self._dtype, device="cpu")
        merge(rows, [(amount, up[ids], down) for amount, up, down in self._added], into)
        return into

    def _changes(self) -> list[tuple[str, str, float]]:
        """What is added outside the layers."""
        return [
            (lora.key, name, strength)
            for lora, strength in self._loras
            for name in (*self._small, *self._table)
            if strength and name in lora.factors
        ]

    def _terms(self, stored: StoredWeights, name: str) -> list[Term]:
        terms: list[Term] = []
        for lora, strength in self._loras:
            if strength and name in lora.factors:
                (_, up), (_, down) = stored.mapped(lora.names(name))
                assert isinstance(up, Tensor) and isinstance(down, Tensor)  # factors of LoRAs are never packed
                terms.append((strength * lora.factors[name].factor, up, down))
        return terms
