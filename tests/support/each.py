"""Many cases in one test: for seeds and products of settings, of which nobody would run one alone."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def each(names: str, cases: Iterable[Any]) -> Callable[[Callable], Callable]:
    """As `pytest.mark.parametrize`, but all in one test. A failure names the case that it came from.

    Fixtures are made once for all cases.
    """
    parameters, cases = names.replace(" ", "").split(","), list(cases)
    assert cases, f"no {names} to try"

    def in_one(test: Callable) -> Callable:
        def tried(**fixtures: Any) -> None:
            for case in cases:
                values = dict(zip(parameters, case if len(parameters) > 1 else [case], strict=True))
                try:
                    test(**fixtures, **values)
                except (Exception, pytest.fail.Exception) as error:
                    raise AssertionError(f"with {values}: {error}") from error

        signature = inspect.signature(test)
        others = [parameter for name, parameter in signature.parameters.items() if name not in parameters]
        functools.update_wrapper(tried, test)
        del tried.__wrapped__  # by which pytest would find the names that are no fixtures
        tried.__signature__ = signature.replace(parameters=others)
        return tried

    return in_one
