"""Solvers of other people's that take all steps in one call: turned inside out, so that steps still come one by one."""

import contextvars
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Guess:
    """What a solver asks: the clean image that the model sees in z (batch, 3, height, width) at time t."""

    z: Tensor
    t: float


@dataclass(frozen=True, eq=False)
class Look:
    """What a solver tells: the step of that index has this guess, at time t. Nothing is answered."""

    index: int
    z: Tensor
    guess: Tensor
    t: float


@dataclass(frozen=True, eq=False)
class Course:
    """What a solver is given to go through. times: of the steps, float32. noise_scale: standard deviation of noise."""

    times: Tensor
    noise_scale: float


Ask = Callable[[Guess | Look], Any]
Solver = Callable[[Ask, Tensor, Course], Tensor]  # (ask, z as it begins, course) -> the finished picture


class _Abandoned(BaseException):
    """Ends a function whose calls nobody answers any more; not an Exception, which it might catch."""


def calls_of(function: Callable[[Ask], Result]) -> Generator[Any, Any, Result]:
    """A function that is given a callback, as a generator: it yields what the callback is called with, and what is sent
    is what the callback returns. Returns or raises as the function does.

    The function runs in a thread of its own, but only while this generator waits for it: never at the same time as what
    it calls back. So a caller that stops asking has cancelled, and all calls are answered in the caller's own thread.
    """
    calls: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def ask(call: Any) -> Any:
        calls.put(("call", call))
        wanted, answer = answers.get()
        if not wanted:
            raise _Abandoned
        return answer

    def work() -> None:
        try:
            with torch.inference_mode():
                calls.put(("result", function(ask)))
        except _Abandoned:
            calls.put(("gone", None))
        except BaseException as error:
            calls.put(("error", error))

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="solver", daemon=True)
    thread.start()
    kind = "call"
    try:
        while True:
            kind, value = calls.get()
            if kind == "result":
                return value
            if kind == "error":
                raise value
            answers.put((True, (yield value)))
    finally:
        if kind == "call":
            answers.put((False, None))
        thread.join()
