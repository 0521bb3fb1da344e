"""All checks of a device."""

from collections.abc import Iterator

import torch

from . import arithmetic, attention, copies, products
from .check import Check


def all_checks(device: torch.device) -> Iterator[Check]:
    """In the order of the report; what a step needs first."""
    for part in (arithmetic, attention, products, copies):
        yield from part.checks(device)
