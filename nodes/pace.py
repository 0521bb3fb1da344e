"""How far a run is, in numbers and words: nothing of ComfyUI in here."""

import time
from collections.abc import Callable

PER_STEP = 16  # a step counts as much as so many tokens, which is about what the two take


class Whole:
    """The share of a document that is done: of all pictures and all text that there may be.

    How many will come is not known, so the most is taken: the share never goes back, and `finish` fills it.
    """

    def __init__(self, *, pictures: int, steps: int, tokens: int):
        """pictures, tokens: at the most; steps: of each picture."""
        self.steps, self.total = steps, pictures * steps * PER_STEP + tokens
        self.tokens = self.drawn = 0

    @property
    def done(self) -> int:
        return min(self.total, self.drawn * PER_STEP + self.tokens)

    def wrote(self, tokens: int) -> int:
        """So many tokens more; returns what is done now."""
        self.tokens += tokens
        return self.done

    def drew(self, picture: int, step: int) -> int:
        """The step of that number (from 1) of the picture of that index (from 0); returns what is done now."""
        self.drawn = max(self.drawn, picture * self.steps + step)
        return self.done


class Pace:
    """Seconds a step so far, and what they say of the steps left.

    The first step is left out where there are more: reading the prompt and loading weights come before it.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic):
        self.total, self.done = total, 0
        self._clock = clock
        self._first: tuple[int, float] | None = None  # which step it was, and when it was done
        self._last = 0.0

    def step(self, done: int) -> None:
        """So many steps are done."""
        self.done, self._last = done, self._clock()
        if done and self._first is None:
            self._first = done, self._last

    @property
    def seconds(self) -> float | None:
        """Of a step; None before the second one."""
        if self._first is None or self.done <= self._first[0]:
            return None
        return (self._last - self._first[1]) / (self.done - self._first[0])

    def __str__(self) -> str:
        told = f"step {self.done} of {self.total}"
        if self.seconds is None:
            return told
        left = self.seconds * (self.total - self.done)
        return f"{told}, {self.seconds:.2f} s each" + (f", about {duration(left)} left" if left else "")


def duration(seconds: float) -> str:
    """In words: 8 s, 1 min 40 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
