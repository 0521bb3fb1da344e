"""What a check is, and what comes of it."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import SenseNovaError, first_line, out_of_memory

RIGHT, WRONG, ABSENT = "right", "wrong", "not here"
WORDS = 120  # letters of what a library says, at the most


class Absent(Exception):
    """Why something cannot be tried on this machine."""


@dataclass(frozen=True)
class Measured:
    """error: how far a result is from what is right, as a part of it. note: what else there is to say."""

    error: float
    note: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that is tried. limit: the error that is right; 0 where every bit has to be. Raises Absent where the
    machine has no such thing."""

    group: str
    name: str
    limit: float
    measure: Callable[[], "Measured | float"]


@dataclass(frozen=True)
class Outcome:
    """verdict: RIGHT, WRONG or ABSENT. error: None where nothing came of it. note: a speed, or why not."""

    group: str
    name: str
    limit: float
    verdict: str
    error: float | None = None
    note: str = ""


def outcomes(checks: Iterable[Check]) -> Iterator[Outcome]:
    """One by one, as they are tried. An error is an outcome too."""
    return map(outcome, checks)


def outcome(check: Check) -> Outcome:
    """What comes of one check; what does not run is wrong."""
    found = Outcome(check.group, check.name, check.limit, ABSENT)
    try:
        measured = check.measure()
    except Absent as error:
        return replace(found, note=str(error)[:WORDS])
    except (RuntimeError, NotImplementedError, SenseNovaError, AssertionError, TypeError, ValueError) as error:
        if out_of_memory(error):
            return replace(found, note="no memory left to try it with")
        return replace(found, verdict=WRONG, note=f"does not run: {first_line(error)[:WORDS]}")
    if not isinstance(measured, Measured):
        measured = Measured(measured)
    verdict = RIGHT if measured.error <= check.limit else WRONG  # NaN is wrong
    return replace(found, verdict=verdict, error=measured.error, note=measured.note)


def difference(ours: Tensor, right: Tensor) -> float:
    """Of a result from the right one, both of any type and device, as a part of it; infinite where it is not finite."""
    ours, right = ours.detach().cpu().double(), right.detach().cpu().double()
    if ours.shape != right.shape or not bool(ours.isfinite().all()):
        return math.inf
    return float((ours - right).norm() / right.norm())


def unequal(ours: Tensor, right: Tensor) -> float:
    """The part of all numbers that differ in any way, NaN from NaN excepted."""
    ours, right = ours.detach().cpu(), right.detach().cpu()
    if ours.shape != right.shape or ours.dtype != right.dtype:
        return math.inf
    if torch.equal(ours, right):
        return 0.0
    same = ours == right
    if ours.is_floating_point():
        same |= ours.isnan() & right.isnan()
    return 1 - float(same.double().mean())


def randoms(*shape: int, seed: int = 0) -> Tensor:
    """float32 on the CPU, the same ones every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
