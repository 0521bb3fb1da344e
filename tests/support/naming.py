"""Many cases in one test: a failure names the case that it came from."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def naming(*case: Any) -> Iterator[None]:
    """`with naming(seed):` around what is checked of one case."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        raise AssertionError(f"case {', '.join(map(repr, case))}: {error!r}") from error
