"""An engine and its owners: threads take turns, a forked process begins anew, and it is not handed on by pickling."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest
import torch

import sensenova_core
from sensenova_core import DecodingSettings, Engine, SenseNovaError
from tests.conftest import REPOSITORY
from tests.support.geometries import geometry, short, write_checkpoint
from tests.support.golden_set import checkpoint

SIZE = {"width": 64, "height": 64, "steps": 2}
MODES = [
    {"vram_mode": "auto"},
    {"vram_mode": "low"},
    {"vram_mode": "balanced"},
    {"vram_mode": "balanced", "max_memory": "0=64GiB,cpu=1GiB"},
]
PROMPTS = ("a cat", "a dog, somewhat longer", "", "a blue square on a red one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("deep"), geometry(0))


def picture(engine: Engine, prompt: str, seed: int) -> torch.Tensor:
    *_, step = engine.sample(short(engine, prompt), **SIZE, seed=seed)
    return step.image()


def in_threads(*works) -> list:
    """What each returns, or the error that it raises."""
    results, gate = [None] * len(works), threading.Barrier(len(works))

    def do(index: int) -> None:
        gate.wait()
        try:
            results[index] = works[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=do, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_pictures_of_several_threads_are_right(folder, mode, threads):
    engine = sensenova_core.load(folder, **mode)
    jobs = [(prompt, seed) for seed in range(2) for prompt in PROMPTS[:threads]]
    right = {job: picture(engine, *job) for job in jobs}
    engine.release()
    parts = [jobs[index::threads] for index in range(threads)]
    drawn = in_threads(*(lambda part=part: [(job, picture(engine, *job)) for job in part] for part in parts))
    assert all(torch.equal(image, right[job]) for each in drawn for job, image in each)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_steps_of_two_runs_in_turns_are_right(folder, mode):
    """Also of runs that are of another kind, and in the middle of which others begin and end."""
    engine = sensenova_core.load(folder, **mode)
    few = DecodingSettings(4)
    right = picture(engine, "x", 1), [each.text for each in engine.understand("what?", settings=few)]
    drawing, answering = engine.sample(short(engine, "x"), **SIZE, seed=1), engine.understand("what?", settings=few)
    first, text = next(drawing), [next(answering).text]
    picture(engine, "another", 2)
    text += [each.text for each in answering]
    *_, last = drawing
    assert first.index == 0 and torch.equal(last.image(), right[0]) and text == right[1]


def test_a_run_that_is_left_in_the_middle_holds_nobody_up(folder):
    engine = sensenova_core.load(folder, vram_mode="balanced")
    right, left = picture(engine, "x", 1), engine.sample(short(engine, "y"), **SIZE, seed=3)
    next(left)
    [drawn] = in_threads(lambda: picture(engine, "x", 1))
    assert torch.equal(drawn, right) and len(list(left)) == 1


def test_a_run_within_a_run_by_another_thread_is_no_deadlock(folder):
    engine = sensenova_core.load(folder, vram_mode="low")
    right = picture(engine, "x", 1)
    for _ in engine.sample(short(engine, "y"), **SIZE, seed=3):
        assert torch.equal(in_threads(lambda: picture(engine, "x", 1))[0], right)


def test_one_run_asked_by_two_threads_gives_each_step_once(folder):
    engine = sensenova_core.load(folder, vram_mode="balanced")
    run = engine.sample(short(engine, "x"), **SIZE | {"steps": 12}, seed=1)
    taken = in_threads(*[lambda: [step.index for step in run]] * 2)
    assert sorted(taken[0] + taken[1]) == list(range(12))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "meddle",
    [Engine.release, lambda engine: engine.give_back(2**40), lambda engine: engine.allow(1), Engine.place],
    ids=["release", "give_back", "allow", "place"],
)
def test_memory_taken_by_another_thread_leaves_the_engine_sound(folder, mode, meddle):
    engine = sensenova_core.load(folder, **mode)
    right, done = picture(engine, "x", 1), threading.Event()

    def draw() -> list:
        try:
            return [outcome(lambda: picture(engine, "x", 1)) for _ in range(6)]
        finally:
            done.set()

    def disturb() -> None:
        while not done.is_set():
            meddle(engine)
            assert engine.memory.residency.nbytes >= 0 and engine.plan(engine.writing_task(9, 9)) is not None
            time.sleep(0.001)

    drawn, disturbed = in_threads(draw, disturb)
    assert disturbed is None, disturbed
    for each in drawn:
        assert "memory was given back" in each if isinstance(each, str) else torch.equal(each, right)
    assert torch.equal(picture(engine, "x", 1), right)


def outcome(work) -> torch.Tensor | str:
    try:
        return work()
    except SenseNovaError as error:
        return str(error)


def test_whoever_is_alone_is_not_disturbed(folder):
    engine, seen = sensenova_core.load(folder, vram_mode="balanced"), []

    def work(name: str) -> None:
        for _ in range(3):
            with engine.alone():
                seen.append(name)
                picture(engine, name, 1)
                seen.append(name)

    in_threads(*[lambda name=name: work(name) for name in "ab"])
    assert all(first == second for first, second in zip(seen[::2], seen[1::2], strict=True))


# Processes.

FORK = """
import os, sys, threading, torch, sensenova_core
from tests.system.test_turns import picture
mode, threads = sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
engine = sensenova_core.load(sys.argv[1], vram_mode=mode)
right = picture(engine, "x", 1)
run = engine.sample(engine.encode("y"), width=256, height=256, steps=50)
next(run)
busy = threading.Thread(target=lambda: list(run), daemon=True)
if sys.argv[4] == "busy":
    busy.start()
child = os.fork()
if not child:
    same = torch.allclose(picture(engine, "x", 1), right, atol=1e-4)
    try:
        next(run)
        ended = False
    except (sensenova_core.SenseNovaError, ValueError):
        ended = True
    os._exit(0 if same and ended else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(picture(engine, "x", 1), right)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("mode, threads, busy", [("auto", "2", "busy"), ("low", "2", "busy"), ("low", "1", "idle")])
def test_a_fork_after_use_draws_the_same(folder, mode, threads, busy):
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(folder), mode, threads, busy]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def drawn_elsewhere(path: str, given: sensenova_core.Conditioning) -> torch.Tensor:
    torch.set_num_threads(1)
    engine = sensenova_core.load(path)
    *_, step = engine.sample(given, **SIZE, seed=1)
    return step.image()


def test_a_prompt_goes_to_a_spawned_process_and_an_engine_does_not(engine):
    conditioning = engine.encode("x")
    *_, step = engine.sample(conditioning, **SIZE, seed=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        image = pool.apply(drawn_elsewhere, (str(checkpoint("tiny-u15")), conditioning))
        assert torch.equal(image, step.image())
        with pytest.raises(SenseNovaError, match=r"cannot be pickled or copied.*hand on its path"):
            pool.apply(id, (engine,))
    with pytest.raises(SenseNovaError, match="cannot be pickled"):
        pickle.dumps(engine)
