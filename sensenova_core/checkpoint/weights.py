"""Stored tensors -> parameters of a model built on the meta device, straight from the memory map."""

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import CheckpointError
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


def load_weights(
    model: nn.Module, headers: Mapping[str, TensorHeader], device: torch.device, dtype: torch.dtype | None
) -> None:
    """Fill every parameter of `model`, each read from its memory-mapped file to `device` in one copy at most.

    On the CPU, in the stored dtype, a parameter *is* the map: nothing is copied and the page cache is shared
    with other processes. `dtype` None keeps the stored type of each tensor.
    """
    wanted = {checkpoint_name(name): name for name, _ in model.named_parameters()}
    by_file: dict[object, list[str]] = {}
    for name in wanted:
        by_file.setdefault(headers[name].file, []).append(name)
    for file, names in by_file.items():
        with opened(file) as stored:
            for name in names:
                value = stored.get_tensor(name).to(device=device, dtype=dtype)
                _assign(model, wanted[name], value)


def drop_weights(model: nn.Module) -> None:
    """Put every parameter back on the meta device, giving up the memory it held."""
    for name, value in list(model.named_parameters()):
        _assign(model, name, value.to("meta"))


def _assign(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
