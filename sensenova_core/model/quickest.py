"""attention "auto": the quickest backend for what is computed, measured once on each card and remembered on disk."""

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingsError, out_of_memory
from ..system.cache import remember, remembered
from .attention import CPU, Kernel, sdpa
from .backends import PACKAGES, TORCH, checked_kernel
from .exactness import Use

FILE = "attention"
# Size class -> (new tokens, tokens seen, causal) that stand for it: a token, a prompt, a picture of 2048 x 2048.
CLASSES = {"token": (1, 2048, True), "text": (512, 512, True), "picture": (4096, 4496, False)}
LARGE = 1024  # new tokens that make a picture's class
# Without "sage", which is less exact.
CANDIDATES = ("sdpa", *TORCH, "flash", "flash3")
MARGIN = 0.95  # of torch's own time, which another one must keep to
ROUNDS, CALLS = 3, 4
ENOUGH = 0.2  # seconds, after which a kernel is not timed again
log = logging.getLogger(__name__)


def attention_kernel(
    backend: str, device: torch.device = CPU, dtype: torch.dtype = torch.float32, *, use: Use | None = None
) -> Kernel:
    """The kernel of a backend, one of settings.BACKENDS, for a device and a type. use: what else is known of what it
    will be used for, in place of these.

    Raises SettingsError for an unknown name, one that cannot run here, or one whose results are wrong.
    """
    use = use or Use(device, dtype)
    if backend != "auto":
        return checked_kernel(backend, use)
    return Quickest(use) if use.device.type == "cuda" else sdpa


class Quickest:
    """The quickest kernel for each size class. Found when it is first asked for, or by `prepare`."""

    def __init__(self, use: Use):
        self.use = use
        self.names: dict[str, str] = {}  # size class -> backend
        self._kernels: dict[str, Kernel] = {}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        if not self._kernels:
            if torch.cuda.is_current_stream_capturing():  # a graph: nothing can be timed
                return sdpa(query, key, value, causal=causal)
            self.prepare()
        return self._kernels[size_class(query.shape[1])](query, key, value, causal=causal)

    def prepare(self) -> None:
        """Find them, which takes a second once on each card, and a few hundred MB of it."""
        if not self._kernels:
            usable = usable_kernels(self.use)
            self.names = quickest(self.use, usable)
            self._kernels = {kind: usable[name] for kind, name in self.names.items()}
            log.info("attention: %s", self)

    def __str__(self) -> str:
        if len(names := set(self.names.values())) == 1:
            return names.pop()
        return ", ".join(f"{kind} {name}" for kind, name in self.names.items()) or "not measured yet"


def prepare(kernel: Kernel) -> None:
    """Have a kernel find out what it has to, before memory is planned and filled."""
    if isinstance(kernel, Quickest):
        kernel.prepare()


def name_of(kernel: Kernel, backend: str) -> str:
    """The backend that computes, where this one was asked for."""
    if isinstance(kernel, Quickest):
        return str(kernel)
    return "sdpa" if backend == "auto" else backend


def size_class(new: int) -> str:
    """Of attention for so many new tokens."""
    return "token" if new == 1 else "picture" if new >= LARGE else "text"


def usable_kernels(use: Use) -> dict[str, Kernel]:
    """Those that run here and are right, torch's own first. What is installed and wrong is told, for nobody asked for
    it by name. Raises SettingsError where none is right."""
    kernels: dict[str, Kernel] = {}
    refused: list[SettingsError] = []
    for name in ("sdpa",) if use.dtype == torch.float32 else CANDIDATES:  # of which torch has one kernel
        if name in PACKAGES and not PACKAGES[name].is_installed:
            continue
        try:
            kernels[name] = checked_kernel(name, use)
        except SettingsError as error:
            log.log(logging.DEBUG if name in TORCH else logging.WARNING, "not used: %s", error.problem)
            refused.append(error)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
    if refused and not kernels:
        raise refused[0]
    return kernels or {"sdpa": sdpa}  # where there was no memory to try anything


def quickest(use: Use, kernels: dict[str, Kernel]) -> dict[str, str]:
    """Size class -> backend, as remembered, or else measured and remembered. Where memory runs out on the way, the
    first of them, and it is measured another time."""
    first = next(iter(kernels))
    if len(kernels) == 1:
        return dict.fromkeys(CLASSES, first)
    if known := _known(remembered(FILE).get(key_of(use)), kernels):
        return known
    try:
        found = {kind: _measured(use, kind, kernels) for kind in CLASSES}
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        log.info("no memory to measure attention with: %s is used", first)
        return dict.fromkeys(CLASSES, first)
    finally:
        torch.cuda.empty_cache()  # what was measured with is not there in the plan that follows
    remember(FILE, key_of(use), found)
    return {kind: found[kind]["backend"] for kind in CLASSES}


def _known(found: Any, kernels: dict[str, Kernel]) -> dict[str, str]:
    """Size class -> backend, of what is remembered; empty unless that names one which can be used for every class."""
    try:
        names = {kind: found[kind]["backend"] for kind in CLASSES}
        return names if all(name in kernels for name in names.values()) else {}
    except (TypeError, KeyError):
        return {}


def key_of(use: Use) -> str:
    """What a measurement is true for: card, type, heads, and the versions of all that computes."""
    major, minor = torch.cuda.get_device_capability(use.device)
    versions = [f"{name} {PACKAGES[name].version}" for name in CANDIDATES if name in PACKAGES]
    parts = (
        f"{torch.cuda.get_device_name(use.device)} {major}.{minor}",
        str(use.dtype).removeprefix("torch."),
        f"{use.heads} heads of {use.head_dim} over {use.kv_heads}",
        f"torch {torch.__version__} cuda {torch.version.cuda or torch.version.hip} "
        f"cudnn {torch.backends.cudnn.version()}",
        *versions,
    )
    return ", ".join(parts)


def _measured(use: Use, kind: str, kernels: dict[str, Kernel]) -> dict[str, Any]:
    """The quickest for a class, and the milliseconds of each."""
    new, seen, causal = CLASSES[kind]
    parts = [part.to(use.device) for part in use.random(new, seen)]
    times = {}
    for name, kernel in kernels.items():
        if new == 1 and name in TORCH:
            continue  # see TorchKernel
        times[name] = 1000 * _seconds(partial(kernel, *parts, causal=causal), use.device)
    return {"backend": choice(times), "ms": {name: round(ms, 4) for name, ms in times.items()}}


def choice(times: dict[str, float]) -> str:
    """The quickest, if it is quicker than torch's own choice by more than what timings differ by."""
    best = min(times, key=lambda name: times[name])
    return best if times[best] < MARGIN * times.get("sdpa", math.inf) else "sdpa"


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    """The least of a few rounds, of a call each; the time that the host takes counts where it is the longer one."""
    began, best = time.perf_counter(), math.inf
    call()  # loads or compiles the kernel
    for _ in range(ROUNDS):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - start) / CALLS)
        if time.perf_counter() - began > ENOUGH:
            break
    return best
