"""A long text in portions, which bound what reading it takes."""

from collections.abc import Sequence

from ..model.attention import PORTION
from .prefix import Run


def portions(runs: Sequence[Run], most: int = PORTION) -> list[tuple[int, tuple[Run, ...]]]:
    """Where each portion of new tokens begins, and its runs, which count from there. runs: of all new tokens.

    Text is cut anywhere. An image sees all of itself and stays whole, also where it is larger than a portion.
    """
    found: list[tuple[int, list[Run]]] = [(0, [])]
    start = 0
    for stop, is_image in runs:
        while start < stop:
            began, parts = found[-1]
            room = began + most - start
            if parts and (room <= 0 or (is_image and stop - start > room)):
                found.append((start, []))
                continue
            end = stop if is_image else min(stop, start + room)
            parts.append((end - began, is_image))
            start = end
    return [(began, tuple(parts)) for began, parts in found]
