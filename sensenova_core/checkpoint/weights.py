"""Stored tensors -> parameters of a model built on the meta device, straight from the memory map."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError, SenseNovaError
from .headers import STORED_DTYPES, TensorHeader, opened
from .names import checkpoint_name

_SHOWN = 8  # names listed of each kind of mismatch


def check_names_and_shapes(model: nn.Module, headers: Mapping[str, TensorHeader]) -> None:
    """Raise one CheckpointError naming every missing, extra, misshapen or unreadable tensor. Reads no weight."""
    expected = {checkpoint_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    missing = [name for name in expected if name not in headers]
    extra = [name for name in headers if name not in expected]
    misshapen = [
        f"{name} is {list(headers[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in expected.items()
        if name in headers and headers[name].shape != shape
    ]
    foreign = [
        f"{name} is {header.dtype}, readable are {', '.join(STORED_DTYPES)}"
        for name, header in headers.items()
        if header.dtype not in STORED_DTYPES
    ]
    kinds = {
        "missing": missing,
        "not part of the model": extra,
        "of another shape": misshapen,
        "of another type": foreign,
    }
    problems = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise CheckpointError(
            "the tensors do not fit config.json (are both from the same checkpoint, and is the download complete?): "
            + "; ".join(problems)
        )


class Weights:
    """The tensors of one model: on disk, or placed where they run. Never anything in between."""

    def __init__(
        self, model: nn.Module, headers: Mapping[str, TensorHeader], device: torch.device, dtype: torch.dtype | None
    ):
        """dtype None keeps the prevailing stored type, and norms as they are stored.

        Raises CheckpointError unless the stored tensors are exactly the model's. Reads no weight.
        """
        check_names_and_shapes(model, headers)
        self.model, self.headers, self.device = model, headers, device
        self.compute_dtype = dtype or _prevailing_dtype(headers)
        self.keep_norms = dtype is None
        self.placed = False
        self.times_dropped = 0

    @property
    def nbytes(self) -> int:
        """What they take on the device."""
        return sum(header.numel * self._dtype(name, header).itemsize for name, header in self.headers.items())

    def place(self) -> None:
        """Read every parameter from its memory-mapped file to the device, unless they are there.

        On the CPU, in the stored dtype, a parameter *is* the map: nothing is copied and the page cache is shared with
        other processes. Whatever goes wrong, nothing stays behind. Raises SenseNovaError where they cannot fit.
        """
        if self.placed:
            return
        self._check_room()
        try:
            self._read()
        except BaseException:
            self.drop()
            raise
        self.placed = True

    def drop(self) -> None:
        """Put every parameter back on the meta device, giving up the memory it held."""
        self.placed = False
        self.times_dropped += 1
        for name, value in list(self.model.named_parameters()):
            _assign(self.model, name, value.to("meta"))

    def _read(self) -> None:
        parameters = {checkpoint_name(name): name for name, _ in self.model.named_parameters()}
        by_file: dict[Path, list[str]] = {}
        for name in parameters:
            by_file.setdefault(self.headers[name].file, []).append(name)
        for file, names in by_file.items():
            with opened(file) as stored:
                for name in names:
                    value = stored.get_tensor(name).to(self.device).to(self._dtype(name, self.headers[name]))
                    _assign(self.model, parameters[name], value)

    def _dtype(self, name: str, header: TensorHeader) -> torch.dtype:
        return STORED_DTYPES[header.dtype] if self.keep_norms and "norm" in name else self.compute_dtype

    def _check_room(self) -> None:
        if self.device.type != "cuda":
            return
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + unused
        if free < self.nbytes:
            raise SenseNovaError(
                f"the weights take {self.nbytes / 2**30:.1f} GiB and {self.device} has {free / 2**30:.1f} GiB free; "
                "use a card with more memory, or run on the CPU (streaming from system memory is not built yet)"
            )


def _prevailing_dtype(headers: Mapping[str, TensorHeader]) -> torch.dtype:
    """The type that most bytes are stored in."""
    totals = Counter()
    for header in headers.values():
        totals[header.dtype] += header.numel * header.itemsize
    return STORED_DTYPES[totals.most_common(1)[0][0]]


def _assign(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
