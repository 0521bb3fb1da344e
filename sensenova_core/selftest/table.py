"""What came of all checks, in words."""

import platform
from collections.abc import Sequence

import torch

from .check import ABSENT, WRONG, Outcome

WIDTHS = (10, 32, 10, 10, 8)  # of columns; what is said last has what is left
TITLES = ("", "", "off by", "at most", "", "")


def report(found: Sequence[Outcome], device: torch.device) -> str:
    """A table, with the machine above and a summary below."""
    before = (None, *found)
    rows = [line(each, last) for each, last in zip(found, before, strict=False)]
    return "\n".join([machine(device), "", titles(), *rows, "", summary(found)])


def titles() -> str:
    return _aligned(TITLES)


def line(each: Outcome, last: Outcome | None) -> str:
    """A row of the table, below the one of `last`, whose group is not said again."""
    group, *others = row(each)
    return _aligned(("" if last is not None and last.group == group else group, *others))


def row(each: Outcome) -> tuple[str, ...]:
    """group, name, error, limit, verdict, note."""
    limit = "" if each.verdict == ABSENT else _number(each.limit)
    error = "" if each.error is None else _number(each.error)
    verdict = each.verdict.upper() if each.verdict == WRONG else each.verdict
    return each.group, each.name, error, limit, verdict, each.note


def summary(found: Sequence[Outcome]) -> str:
    """In a line: what is wrong, by name."""
    wrong = [f"{each.group}, {each.name}" for each in found if each.verdict == WRONG]
    tried = sum(each.verdict != ABSENT for each in found)
    if wrong:
        return f"{len(wrong)} of {tried} wrong: {'; '.join(wrong)}"
    return f"all {tried} right; {len(found) - tried} not here"


def machine(device: torch.device) -> str:
    """What was tried."""
    where = f"{platform.machine()} CPU"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        where = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    return f"{device}: {where}, torch {torch.__version__}, Python {platform.python_version()}"


def _aligned(columns: tuple[str, ...]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(columns, WIDTHS, strict=False)]
    return " ".join([*cells, columns[-1]]).rstrip()


def _number(number: float) -> str:
    return "0" if number == 0 else f"{number:.1e}"
