"""The tensors that do not move in units: small ones, and the embedding table."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checkpoint import Packed, StoredWeights, assign, checkpoint_name
from ..lora import Lora, merge
from ..lora.merging import factor
from ..model import SenseNovaU1


class Fixed:
    """The tensors outside the units: small ones that stay on the device, and the embedding table, of which a run needs
    a few rows, and which therefore stays in its file. What LoRAs add to the small ones is added when they are placed;
    to the table, to the rows that are wanted."""

    def __init__(self, model: SenseNovaU1, stored: StoredWeights):
        names = [name for name, _ in model.named_parameters() if ".decoder.layers." not in name]
        owners = {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}
        [self._table] = (checkpoint_name(name) for name in owners if ".embed_tokens." in name)
        self._small = {
            checkpoint_name(name): owner
            for name, owner in owners.items()
            if ".embed_tokens." not in name and ".lm_head." not in name
        }
        self.times_placed = 0
        self.nbytes = sum(stored.headers[name].numel * stored.dtype(name).itemsize for name in self._small)
        self._stored = stored
        self._loras: tuple[tuple[Lora, float], ...] = ()
        self._added: list[tuple[float, str, Tensor]] = []  # to the table: amount, the name of up, and down

    def use(self, loras: Sequence[tuple[Lora, float]]) -> bool:
        """Add what these LoRAs do at these strengths, when next placed; whether that makes any difference."""
        before = self._changes()
        self._loras = tuple(loras)
        return self._changes() != before

    def place(self, device: torch.device) -> None:
        stored, self.times_placed = self._stored, self.times_placed + 1
        for name, owner in self._small.items():
            value, dtype = stored.whole(name), stored.dtype(name)
            if changes := self._terms(name):
                terms = [(amount, factor(stored.whole(up)), factor(stored.whole(down))) for amount, up, down in changes]
                merged = torch.empty(value.shape, dtype=dtype, device="cpu")
                merge(value, terms, merged)
                value = merged
            elif isinstance(value, Packed):
                value = value.unpacked(dtype)
            assign(*owner, value.to(device, dtype))
        self._added = [(amount, up, factor(stored.whole(down))) for amount, up, down in self._terms(self._table)]

    def drop(self) -> None:
        self._added = []
        for module, leaf in self._small.values():
            assign(module, leaf, getattr(module, leaf).to("meta"))

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the table, on the CPU: no others are read, unpacked or changed."""
        ids = ids.cpu()
        rows = self._stored.rows(self._table, ids)
        if not isinstance(rows, Packed) and not self._added:
            return rows
        into = torch.empty(rows.shape, dtype=self._stored.compute_dtype, device="cpu")
        terms = [(amount, factor(self._stored.rows(up, ids)), down) for amount, up, down in self._added]
        merge(rows, terms, into)
        return into

    def _changes(self) -> list[tuple[str, str, float]]:
        """What is added outside the layers."""
        return [
            (lora.key, name, strength)
            for lora, strength in self._loras
            for name in (*self._small, self._table)
            if strength and name in lora.factors
        ]

    def _terms(self, name: str) -> list[tuple[float, str, str]]:
        """What is added to a tensor: amount, and the names of the factors up and down."""
        used = [(lora, strength) for lora, strength in self._loras if strength and name in lora.factors]
        return [(strength * lora.factors[name].factor, *lora.names(name)) for lora, strength in used]
