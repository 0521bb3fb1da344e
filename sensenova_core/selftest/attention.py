"""Masks, and every attention backend."""

from collections.abc import Iterator
from functools import partial

import torch

from ..errors import SettingsError
from ..model.attention import sdpa
from ..model.backends import IN_FLOAT32, NO_KERNEL, PACKAGES, TORCH, limit_of, made_kernel
from ..model.devices import TORCH_DTYPES
from ..model.exactness import Use, attention_error
from ..settings import BACKENDS
from .check import Absent, Check, unequal


def checks(device: torch.device) -> Iterator[Check]:
    for name, dtype in TORCH_DTYPES.items():
        yield Check("masks", f"what is hidden, in {name}", 0, partial(_hidden, Use(device, dtype).small()))
    for backend in (each for each in BACKENDS if each != "auto"):
        for name, dtype in _types(device, backend).items():
            measure = partial(_backend, backend, Use(device, dtype).small())
            yield Check("attention", f"{backend} in {name}", limit_of(backend, dtype), measure)


def _types(device: torch.device, backend: str) -> dict[str, torch.dtype]:
    """Those that a backend has; one alone where nothing can be tried."""
    if backend == "sdpa":
        return TORCH_DTYPES
    if device.type != "cuda":
        return {"bfloat16": torch.bfloat16}
    return {name: dtype for name, dtype in TORCH_DTYPES.items() if dtype != torch.float32 or backend in IN_FLOAT32}


def _hidden(use: Use) -> float:
    """Keys and values that a mask hides change no bit of a result, whatever they are."""
    query, key, value = (part.to(use.device) for part in use.random(24, 40))
    before = sdpa(query, key, value, causal=True)
    key[:, 30:], value[:, 30:] = -key[:, 30:], 100.0  # the first 14 queries see 17 to 30 of 40
    return unequal(sdpa(query, key, value, causal=True)[:, :14], before[:, :14])


def _backend(backend: str, use: Use) -> float:
    if backend in PACKAGES and not PACKAGES[backend].is_installed:
        raise Absent(f"{PACKAGES[backend].called} is not installed")
    if backend != "sdpa" and use.device.type != "cuda":
        raise Absent("needs an NVIDIA card")
    try:
        return attention_error(made_kernel(backend, use), use)
    except SettingsError as error:
        raise Absent(error.problem) from error
    except RuntimeError as error:
        if backend in TORCH and any(words in str(error) for words in NO_KERNEL):
            raise Absent("torch has no such kernel for this card and type") from error
        raise
