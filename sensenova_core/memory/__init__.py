"""Where weights live: what a user allows, the plan that follows from it, and what carries it out."""

from .budget import Limits, in_words, parse_size
from .placement import Placement, limits_of
from .plan import Plan, Sizes, Task, Work, make_plan
from .plan_text import in_one_line

__all__ = [
    "Limits",
    "Placement",
    "Plan",
    "Sizes",
    "Task",
    "Work",
    "in_one_line",
    "in_words",
    "limits_of",
    "make_plan",
    "parse_size",
]
