"""Steps that another solver takes: Euler's are ours, and errors and cancelling pass through."""

import threading

import pytest
import torch

from sensenova_core import SamplingSettings
from sensenova_core.drawing.canvas import Canvas
from sensenova_core.drawing.solving import Guess, Look, calls_of
from tests.drawing.test_canvas import given, hole
from tests.support.each import each
from tests.support.golden_set import relative_error
from tests.support.pictures import picture
from tests.support.watch import SMALL


def euler(ask, z, course):
    """As other programs write it: in sigmas, by what is left to the guess."""
    times = course.times
    sigmas = 1 - times
    for index in range(len(times) - 1):
        guess = ask(Guess(z, float(times[index])))
        ask(Look(index, z, guess, float(times[index])))
        z = z + (z - guess) / sigmas[index] * (sigmas[index + 1] - sigmas[index])
    return z


def results(engine, images=(), canvas=None, solver=None, **settings):
    conditioning = engine.encode("a red circle", images, max_pixels=16_384)
    return list(engine.denoise(conditioning, SamplingSettings.of(**SMALL | settings), canvas=canvas, solver=solver))


@each("images", [(), (picture(),)])
@each("settings", [{}, {"img_cfg": 2.0, "cfg_interval": (0.2, 0.9)}, {"batch_size": 2}, {"t_eps": 0.3}])
def test_euler_of_others_is_ours(engine, images, settings):
    ours, theirs = (results(engine, images, solver=solver, **settings) for solver in (None, euler))
    assert [(step.index, step.total) for step in theirs] == [(step.index, step.total) for step in ours]
    for one, other in zip(ours, theirs, strict=True):
        assert relative_error(other.pixels(), one.pixels()) < 1e-5
    assert torch.equal(theirs[-1].z, theirs[-1].guess)


@each("settings", [{}, {"denoise": 0.5, "feather": 3}, {"cfg_norm": "cfg_zero_star"}])
def test_euler_of_others_paints_as_ours(engine, settings):
    canvas = Canvas(given(), hole())
    ours, theirs = (results(engine, canvas=canvas, solver=solver, **settings)[-1] for solver in (None, euler))
    assert relative_error(theirs.pixels(), ours.pixels()) < 1e-5
    kept = torch.nn.functional.max_pool2d(hole(), 7, stride=1, padding=3) == 0
    assert torch.equal(theirs.image()[kept], given()[kept])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_solver_that_looks_too_often_never_goes_beyond_the_end(engine, steps):
    def restless(ask, z, course):
        for index in range(6):
            ask(Look(index, z, ask(Guess(z, 0.5)), 0.5))
        return z

    indexes = [step.index for step in results(engine, solver=restless, steps=steps)]
    assert (
        indexes == sorted(indexes) and indexes[-1] == steps - 1 and indexes.count(steps - 1) == (6 if steps == 1 else 1)
    )


def test_an_error_of_the_solver_is_the_run_s(engine):
    def wrong(ask, z, course):
        ask(Guess(z, 0.0))
        raise ValueError("no such order")

    with pytest.raises(ValueError, match="no such order"):
        results(engine, solver=wrong)


def test_who_stops_asking_has_cancelled(engine):
    before = threading.active_count()
    ended = []

    def patient(ask, z, course):
        try:
            return euler(ask, z, course)
        finally:
            ended.append(True)

    steps = engine.denoise(engine.encode("a"), SamplingSettings.of(**SMALL), solver=patient)
    next(steps)
    assert not ended
    steps.close()
    assert ended and threading.active_count() == before


def test_calls_come_in_the_caller_s_own_thread_and_order():
    def asks(ask):
        return [ask(number) for number in range(3)], threading.get_ident()

    calls, answer, seen = calls_of(asks), None, []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(calls.send(answer))
            answer = seen[-1] * 10
    answers, thread = end.value.value
    assert seen == [0, 1, 2] and answers == [0, 10, 20] and thread != threading.get_ident()


def test_a_schedule_is_planned_for_its_own_steps(engines):
    engine, settings = engines("tiny-u15"), SamplingSettings(64, 64, steps=50)
    task = engine.drawing_task(engine.encode("x"), settings, times=torch.linspace(0, 1, 4))
    assert task.drawing is not None and task.drawing.passes == 3 and "3 steps" in task.name
