"""Runs that end early, files that change, engines that are dropped: the next run is right, and nothing stays behind."""

import gc
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
import torch

import sensenova_core
from sensenova_core import CheckpointError, DecodingSettings, Engine
from sensenova_core.errors import SenseNovaError
from sensenova_core.memory.residency import Residency
from tests.support.geometries import geometry, short, write_checkpoint
from tests.support.streaming import (
    SIZE,
    Failing,
    draw_short,
    gone,
    out_of_memory,
    watch_attention,
)

# Runs that end early.


@pytest.mark.parametrize("slots", [None, 6])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_is_closed_leaves_the_next_one_right(load, slots, stop):
    engine = load("dense", "auto" if slots else "balanced", slots, max_memory="64GiB")
    expected = draw_short(engine, steps=3)
    held = engine.memory.residency.nbytes
    with closing(engine.sample(short(engine, "x"), **SIZE, steps=3)) as run:
        for _ in range(stop):
            next(run)
    assert torch.equal(draw_short(engine, steps=3), expected)
    assert engine.memory.residency.nbytes == held


@pytest.mark.parametrize("slots", [None, 6])
@pytest.mark.parametrize("at", [0, 9, 14, 27, 41])
def test_a_pass_that_is_broken_off_leaves_the_next_one_right(load, slots, at):
    """Attentions are: 10 for each of two prompts, then 20 a step."""
    engine = load("dense", "auto" if slots else "balanced", slots, max_memory="64GiB")
    failing = Failing({at}, KeyboardInterrupt)
    watch_attention(engine, failing)
    with pytest.raises(KeyboardInterrupt):
        draw_short(engine)
    assert torch.equal(draw_short(engine), draw_short(load("dense")))
    engine.release()
    assert engine.memory.residency.nbytes == 0


def test_memory_given_back_in_the_middle_of_a_run_ends_it(load):
    engine = load("dense", "auto", 6, max_memory="64GiB")
    run = engine.sample(short(engine, "x"), **SIZE, steps=3)
    next(run)
    engine.release()
    with pytest.raises(SenseNovaError, match="given back during this run"):
        next(run)
    assert engine.memory.residency.nbytes == 0


# Files that change.


@pytest.fixture
def own(tmp_path) -> Engine:
    """An engine that streams from files that may be spoilt."""
    return sensenova_core.load(write_checkpoint(tmp_path, geometry(0), shards=2), vram_mode="balanced")


def remove(file: Path) -> Callable[[], None]:
    away = file.with_suffix(".away")
    file.rename(away)
    return lambda: away.rename(file)


def truncate(file: Path) -> Callable[[], None]:
    content, times = file.read_bytes(), file.stat()
    os.truncate(file, len(content) - 1)  # no page less, for the small tensors are mapped

    def back() -> None:
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    return back


def replace_file(file: Path) -> Callable[[], None]:
    """With one of the same size, as another version of the same model has."""
    back = remove(file)
    file.write_bytes(bytes(file.with_suffix(".away").stat().st_size))
    return back


@pytest.mark.parametrize("spoil", [remove, truncate, replace_file])
def test_a_file_that_changes_during_a_run_is_named(own, spoil):
    file = own.path / "model-00002-of-00002.safetensors"
    run = own.sample(short(own, "x"), **SIZE, steps=3)
    next(run)
    spoil(file)
    with pytest.raises(CheckpointError, match=file.name):
        list(run)


@pytest.mark.parametrize("spoil", [remove, truncate, replace_file])
def test_once_the_file_is_back_the_engine_goes_on(own, spoil):
    expected = draw_short(sensenova_core.load(own.path))
    back = spoil(own.path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors"):
        draw_short(own)
    own.memory.residency._worker.submit(int).result()  # copies that were begun have failed too
    back()
    assert torch.equal(draw_short(own), expected)


@pytest.mark.parametrize("spoil", [remove, truncate, replace_file])
def test_a_file_that_comes_back_after_half_a_picture(own, spoil):
    expected = draw_short(own)
    run = own.sample(short(own, "x"), **SIZE, steps=3)
    next(run)
    back = spoil(own.path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError):
        list(run)
    back()
    own.release()
    assert torch.equal(draw_short(own), expected)


def test_a_run_whose_units_system_memory_holds_goes_on_without_their_file(tmp_path):
    engine = sensenova_core.load(
        write_checkpoint(tmp_path, geometry(0)), vram_mode="balanced", max_memory="0=64GiB,cpu=1GiB"
    )
    expected = draw_short(engine, steps=3)
    run = engine.sample(short(engine, "x"), **SIZE, steps=3)
    next(run)
    (tmp_path / "model.safetensors").unlink()
    *_, step = run
    assert torch.equal(step.pixels(), expected)
    with pytest.raises(CheckpointError, match=r"model\.safetensors was changed or removed"):
        draw_short(engine)


# What is no longer wanted is gone at once.


def run_whole(engine: Engine) -> None:
    draw_short(engine)


def run_cancelled(engine: Engine) -> None:
    with closing(engine.sample(short(engine, "x"), **SIZE, steps=3)) as run:
        next(run)


def run_dropped(engine: Engine) -> None:
    next(engine.sample(short(engine, "x"), **SIZE, steps=3))


def run_asked(engine: Engine) -> None:
    list(engine.understand("what?", settings=DecodingSettings(2)))


def run_broken(engine: Engine) -> None:
    failing = Failing({25}, ValueError)
    watch_attention(engine, failing)
    try:
        draw_short(engine)
    except ValueError:
        return
    raise AssertionError("it was to fail")


def run_mended(engine: Engine) -> None:
    engine.memory.tell = lambda said: None
    watch_attention(engine, Failing({25}, out_of_memory))
    draw_short(engine)


def run_released(engine: Engine) -> None:
    draw_short(engine)
    engine.release()


RUNS = [run_whole, run_cancelled, run_dropped, run_asked, run_broken, run_released]
PLACES = [{"vram_mode": "auto"}, {}, {"max_memory": "0=64GiB,cpu=1GiB"}]


@pytest.mark.parametrize(
    "run, settings",
    [*product(RUNS, PLACES), *product([run_mended], PLACES[1:])],
    ids=lambda it: getattr(it, "__name__", None),
)
def test_an_engine_that_nobody_holds_is_freed_without_the_collector(load, run, settings):
    engine = load("dense", **settings)
    gc.collect()  # the first use of some of torch's functions leaves a traceback behind
    gc.disable()
    try:
        run(engine)
        parts = (engine, engine.model, engine.memory, engine.memory.residency, engine.reader, engine.stored)
        watched = [weakref.ref(part) for part in parts]
        watched += [weakref.ref(layer) for layer in engine.model.modules()]
        if isinstance(engine.memory.residency, Residency):
            watched += [weakref.ref(slot.buffer) for slot in engine.memory.residency.slots.of.values()]
        del engine, parts
        assert gone(*watched), [each() for each in watched if each() is not None][:3]
    finally:
        gc.enable()


def test_threads_end_with_their_engine(load):
    engine = load("dense", "balanced")
    draw_short(engine)
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("sensenova")]
    assert any("copy" in thread.name for thread in mine)
    watched = [weakref.ref(engine.memory.residency._worker), weakref.ref(engine.stored._readers)]
    own = [*engine.memory.residency._worker._threads, *engine.stored._readers._threads]
    del engine
    assert gone(*watched)
    for thread in own:
        thread.join(2)
        assert not thread.is_alive()
