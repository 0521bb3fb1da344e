"""Work on the device that can be done over, because nothing it changes counts before it has ended."""

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# (kind of work: "reading", "writing" or "drawing"; the work) -> its result
Attempt = Callable[[str, Callable[[], Result]], Result]


def at_once(kind: str, work: Callable[[], Result]) -> Result:
    """Do the work, and let it fail."""
    return work()
