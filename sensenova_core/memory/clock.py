"""How long a device takes for each kind of work."""

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .transfers import Transfers


class Clock:
    """Seconds of device time by kind of work. Taking the time does not hold the device up; only reading it does."""

    MANY = 1024  # stamps, from which on those that have passed are added up

    def __init__(self, transfers: Transfers):
        self._transfers = transfers
        self._stamps: deque[tuple[str, Any, Any]] = deque()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        before = self._transfers.stamp()
        try:
            yield
        finally:
            self._stamps.append((kind, before, self._transfers.stamp()))
            if len(self._stamps) > self.MANY:
                self._add_up()

    def drain(self) -> dict[str, float]:
        """What was counted since the last call. Waits for the device."""
        self._transfers.settle()
        self._add_up()
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds

    def _add_up(self) -> None:
        while self._stamps and self._transfers.passed(self._stamps[0][2]):
            kind, before, after = self._stamps.popleft()
            self._seconds[kind] += self._transfers.seconds(before, after)
