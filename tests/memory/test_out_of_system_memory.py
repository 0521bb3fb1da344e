"""A machine whose memory runs out: told as such, wherever it happens, and before a run that cannot fit."""

import errno

import pytest
import torch

import sensenova_core
from sensenova_core import SenseNovaError, SettingsError
from sensenova_core.memory import system_memory
from tests.support.golden_set import checkpoint
from tests.support.watch import SMALL, last_of

ERRORS = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: 8 bytes."),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
PLACES = [
    "sensenova_core.drawing.flow.starting_noise",
    "sensenova_core.drawing.sampling.DrawingAttention",
    "sensenova_core.drawing.flow.combine",
    "sensenova_core.reading.reader.Context",
]


def failing(error: BaseException):
    def fail(*arguments, **settings):
        raise error

    return fail


@pytest.mark.parametrize("mode", ["auto", "low"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:20] or "MemoryError")
def test_memory_that_runs_out_on_a_cpu(monkeypatch, place, error, mode):
    engine = sensenova_core.load(checkpoint("tiny-u15"), vram_mode=mode)
    expected = last_of(engine.sample(engine.encode("x"), **SMALL))
    with monkeypatch.context() as patch:
        patch.setattr(place, failing(error))
        with pytest.raises(SenseNovaError, match=r"^system memory ran out \(.+\); close other programs.* fewer pixels"):
            last_of(engine.sample(engine.encode("y"), **SMALL))
    assert torch.equal(last_of(engine.sample(engine.encode("x"), **SMALL)), expected)


def test_memory_that_runs_out_while_weights_are_placed(monkeypatch):
    engine = sensenova_core.load(checkpoint("tiny-u15"), dtype="bfloat16", place=False)
    monkeypatch.setattr("sensenova_core.memory.fixed.assign", failing(MemoryError()))
    with pytest.raises(SenseNovaError, match=r"system memory ran out \(MemoryError\); .*vram_mode low"):
        engine.place()


def test_memory_that_runs_out_for_a_finished_picture(engine, monkeypatch):
    *_, step = engine.sample(engine.encode("x"), **SMALL)
    monkeypatch.setattr("sensenova_core.drawing.sampling.Step.pixels", failing(MemoryError()))
    with pytest.raises(SenseNovaError, match=r"memory ran out.*fewer pixels"):
        step.image()


def test_another_error_is_not_called_so(engine, monkeypatch):
    for error in (RuntimeError("shapes differ"), OSError(errno.EIO, "Input/output error")):
        monkeypatch.setattr("sensenova_core.drawing.flow.starting_noise", failing(error))
        with pytest.raises(type(error)):
            next(engine.sample(engine.encode("x"), **SMALL))


@pytest.mark.parametrize("mode", ["auto", "balanced"])
@pytest.mark.parametrize("size", [512, 1024])
def test_a_task_that_cannot_fit_is_refused_before_it_begins(monkeypatch, mode, size):
    engine = sensenova_core.load(checkpoint("tiny-u15"), vram_mode=mode)
    monkeypatch.setattr(system_memory, "available_bytes", lambda: 2**20)
    monkeypatch.setattr(system_memory, "swap_bytes", lambda: 2**20)
    run = engine.sample(engine.encode("x"), width=size, height=size, steps=1)
    with pytest.raises(SettingsError, match=rf"{size} x {size}.* takes .* of system memory, of which .* free; .*pixel"):
        next(run)
    said = engine.forecast(sensenova_core.SamplingSettings(size, size))
    assert (
        "free     : only 1.00 MiB" not in said and "free     : only " in said and "it will swap, or be refused" in said
    )
    monkeypatch.setattr(system_memory, "swap_bytes", lambda: 2**34)
    assert last_of(engine.sample(engine.encode("x"), width=64, height=64, steps=1)).isfinite().all()


@pytest.mark.parametrize("mode", ["auto", "low"])
def test_a_forecast_says_what_is_free(mode):
    engine = sensenova_core.load(checkpoint("tiny-u15"), vram_mode=mode)
    settings = sensenova_core.SamplingSettings(64, 64)
    assert "of system memory, of which it takes up to" in engine.forecast(settings)
    assert "free     : only 1.00 MiB" in engine.forecast(settings, ram="1MiB")
    assert "of system memory" not in engine.forecast(settings, card="11GiB")
