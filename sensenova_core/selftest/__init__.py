"""Whether this machine computes what it should: everything that the engine builds on, held against float32."""

from .check import ABSENT, RIGHT, WRONG, Check, Outcome, outcomes
from .everything import all_checks
from .table import line, machine, report, row, summary, titles

__all__ = [
    "ABSENT",
    "RIGHT",
    "WRONG",
    "Check",
    "Outcome",
    "all_checks",
    "line",
    "machine",
    "outcomes",
    "report",
    "row",
    "summary",
    "titles",
]
