"""Attention backends: torch's kernels by name, those of packages; each is held against float32 before it is used."""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingsError, check_choice, first_line, out_of_memory
from ..settings import BACKENDS
from .attention import Kernel, sdpa
from .exactness import LIMITS, Use, attention_error

# torch's kernels, by the names of torch.nn.attention.SDPBackend.
TORCH = {"sdpa_cudnn": "CUDNN_ATTENTION", "sdpa_flash": "FLASH_ATTENTION", "sdpa_efficient": "EFFICIENT_ATTENTION"}
NO_KERNEL = ("No available kernel", "No viable backend")  # as torch says that it has none for a card or a type
IN_FLOAT32 = ("sdpa", "sdpa_efficient")
SAGE_LIMIT = 0.1  # it computes with numbers of a byte: rows differ by 0.03 to 0.06
REMEDY = "choose 'auto' or 'sdpa'"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """Where a backend comes from. called: how people call it. distributions: what it is installed as, by version."""

    called: str
    module: str
    distributions: tuple[str, ...]
    kernel: Callable[[Any], Kernel]

    @property
    def is_installed(self) -> bool:
        return self.module in sys.modules or find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """As far as the package tells."""
        for name in self.distributions:
            with suppress(metadata.PackageNotFoundError):
                return metadata.version(name)
        return "unknown" if self.is_installed else "not installed"


class TorchKernel:
    """One of torch's kernels, for many tokens at once without a mask; what else there is, torch computes as it likes.

    grouped: whether it takes fewer heads of keys and values than of queries.
    """

    def __init__(self, name: str, *, grouped: bool):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self.only = partial(sdpa_kernel, getattr(SDPBackend, TORCH[name]))
        self.grouped = grouped

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        if not _is_plain(query, key, causal=causal):
            return sdpa(query, key, value, causal=causal)
        with self.only():
            return sdpa(query, key, value, causal=causal, grouped=self.grouped)


def _is_plain(query: Tensor, key: Tensor, *, causal: bool) -> bool:
    """Whether there are many new tokens, and no mask is needed but one that starts with the first token."""
    return query.shape[1] > 1 and (not causal or query.shape[1] == key.shape[1])


def _flash(module: Any) -> Kernel:
    def kernel(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        out = module.flash_attn_func(query, key, value, causal=causal)
        return out[0] if isinstance(out, tuple) else out  # early versions of flash-attn 3 return more

    return kernel


def _sage(module: Any) -> Kernel:
    def kernel(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        if not _is_plain(query, key, causal=causal):
            return sdpa(query, key, value, causal=causal)
        return module.sageattn(query, key, value, tensor_layout="NHD", is_causal=causal)

    return kernel


PACKAGES = {
    "flash": Package("flash-attn", "flash_attn", ("flash-attn",), _flash),
    "flash3": Package("flash-attn 3", "flash_attn_interface", ("flash-attn-3", "flashattn-hopper"), _flash),
    "sage": Package("sageattention", "sageattention", ("sageattention",), _sage),
}


def limit_of(backend: str, dtype: torch.dtype) -> float:
    """What rows of a backend's results may differ by from float32, as a part of each."""
    return SAGE_LIMIT if backend == "sage" else LIMITS[dtype]


def checked_kernel(backend: str, use: Use) -> Kernel:
    """The kernel of any backend but "auto", once it was held against float32 here.

    Raises SettingsError for an unknown name, one that cannot run here, or one that is wrong.
    """
    check_choice("attention", backend, BACKENDS)
    return _checked(backend, use.small())


@cache
def _checked(backend: str, use: Use) -> Kernel:
    kernel = made_kernel(backend, use)
    error, limit = _tried(backend, kernel, use), limit_of(backend, use.dtype)
    log.debug("attention %s in %s on %s: off by %.2g, %g is right", backend, use.dtype, use.device, error, limit)
    if error > limit:
        problem = f"'{backend}' is wrong on {use.device} in {use.dtype}: a row of its results is off by {error:.2g} "
        remedy = f"{_otherwise(backend)}; sensenova selftest, or the node Self-Test, tries them all"
        raise _refused(backend, f"{problem}of itself against float32, where {limit:g} is right", remedy)
    return kernel


def made_kernel(backend: str, use: Use) -> Kernel:
    """The kernel of a backend, not held against anything yet. Raises SettingsError where it cannot run."""
    if backend == "sdpa":
        return sdpa
    module = _module(backend) if backend in PACKAGES else None
    needed = "on CUDA" if backend in IN_FLOAT32 else "on CUDA in float16 or bfloat16"
    if use.device.type != "cuda" or (use.dtype == torch.float32 and backend not in IN_FLOAT32):
        raise _refused(backend, f"'{backend}' runs {needed}, not on {use.device} in {use.dtype}", REMEDY)
    if backend in PACKAGES:
        return PACKAGES[backend].kernel(module)
    return _torch_kernel(backend, use.small())


def _torch_kernel(backend: str, use: Use) -> Kernel:
    """With grouped heads where it has them, which depends on torch's version; else they are repeated."""
    grouped = TorchKernel(backend, grouped=True)
    try:
        attention_error(grouped, use)
        return grouped
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        return TorchKernel(backend, grouped=False)


def _tried(backend: str, kernel: Kernel, use: Use) -> float:
    """How far it is from float32."""
    try:
        return attention_error(kernel, use)
    except Exception as error:  # of whatever kind a package's compilers raise
        if out_of_memory(error):
            raise
        raise _refused(
            backend, f"'{backend}' does not run on {use.device}: {first_line(error)[:200]}", _otherwise(backend)
        ) from error


def _module(backend: str) -> Any:
    package = PACKAGES[backend]
    try:
        return import_module(package.module)
    except (ImportError, OSError, RuntimeError) as error:  # missing, of another torch, or for another card
        problem = f"'{backend}' needs the {package.called} package, which does not import here ({first_line(error)})"
        raise _refused(backend, problem, f"install {package.called}, or {REMEDY}") from error


def _otherwise(backend: str) -> str:
    """What to do where a backend is there, and not right."""
    if backend == "sdpa":
        return "choose 'sdpa_efficient' or dtype float32, or update torch and the driver"
    return f"{REMEDY}, or install another version of {PACKAGES[backend].called if backend in PACKAGES else 'torch'}"


def _refused(backend: str, problem: str, remedy: str) -> SettingsError:
    return SettingsError(problem, remedy, setting="attention", value=backend)
