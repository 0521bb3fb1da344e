"""Whose turn it is to use an engine: one thread's at a time, one run after the other, and a forked process's anew."""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

Result = TypeVar("Result")
IDLE = 1.0  # seconds after which a run that nobody goes on with holds up no other


class Turn:
    """Enter it to use an engine; a thread that has it may enter again. Others wait, in the order in which they came.

    A run has the turn while it makes a result, and not between two. A run of another thread begins only when the last
    one has ended, or was left alone for a while: one at a time takes the memory of one, but a run that is never gone
    on with must not hold up anybody.
    """

    def __init__(self, forked: Callable[[], None]):
        """forked: makes anew, in a forked process, what does not come along."""
        self._forked, self._is_forked = forked, False
        self._make()
        _turns.add(self)

    def _make(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[object] = deque()
        self._holder, self._depth = None, 0  # a thread, and how often it has entered
        self._run: Callable[[], object | None] = lambda: None  # the last that began, unless it is gone
        self._run_by, self._run_left = None, 0.0  # the thread that went on with it last, and when that had its result

    def after_fork(self) -> None:
        """A thread that had the turn, or waited for it, does not exist here."""
        self._make()
        self._is_forked = True

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            if self._holder != me:
                self._waiting.append(place := object())
                try:
                    self._changed.wait_for(lambda: self._holder is None and self._waiting[0] is place)
                finally:
                    self._waiting.remove(place)
                    self._changed.notify_all()
                self._holder = me
            self._depth += 1
        if self._is_forked:
            try:
                self._forked()
            except BaseException:
                self.__exit__()
                raise
            self._is_forked = False

    def __exit__(self, *_: object) -> None:
        with self._changed:
            if self._holder != threading.get_ident():
                return  # it was entered before a fork
            self._depth -= 1
            if self._depth == 0:
                self._holder = None
                self._changed.notify_all()

    def begin(self, run: object) -> None:
        """Wait until another run may begin."""
        with self._changed:
            while self._others_run():
                self._changed.wait(IDLE / 20)
            self._run = weakref.ref(run)
            self._run_by, self._run_left = threading.get_ident(), time.monotonic()

    def _others_run(self) -> bool:
        """Whether another thread goes on with a run. A thread that has the turn waits for none."""
        if self._run() is None or threading.get_ident() in (self._run_by, self._holder):
            return False
        return self._holder is not None or time.monotonic() - self._run_left < IDLE

    def left(self, run: object, *, ended: bool) -> None:
        """Note that a run has a result, or has ended."""
        if self._run() is run:
            self._run_by, self._run_left = threading.get_ident(), time.monotonic()
            if ended:
                self._run = lambda: None


class Results(Generic[Result], Iterator[Result]):
    """The results of one run, each made when it is asked for, by whatever thread. Drop or `close` it to cancel."""

    def __init__(
        self, turn: Turn, results: Generator[Result, None, None], around: Callable[[], AbstractContextManager]
    ):
        """around: what each result is made within."""
        self._turn, self._results, self._around, self._begun = turn, results, around, False

    def __next__(self) -> Result:
        if not self._begun:
            self._turn.begin(self)
            self._begun = True
        with self._turn:
            ended = True
            try:
                with self._around():
                    result = next(self._results)
                ended = False
            finally:
                self._turn.left(self, ended=ended)
        return result

    def close(self) -> None:
        with self._turn:
            self._results.close()
            self._turn.left(self, ended=True)


def _after_fork() -> None:
    for turn in list(_turns):
        turn.after_fork()


_turns: weakref.WeakSet[Turn] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
