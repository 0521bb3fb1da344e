"""Where weights live: modes and budgets. For now only `full` does anything; see MODES."""

from .budget import MODES, MODES_IN_EFFECT, check_mode, parse_max_memory

__all__ = ["MODES", "MODES_IN_EFFECT", "check_mode", "parse_max_memory"]
