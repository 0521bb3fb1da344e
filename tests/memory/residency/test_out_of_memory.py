"""Device memory that runs out: the run goes on with fewer buffers to the same end, or stops with advice."""

import pytest
import torch

import sensenova_core
from sensenova_core import DecodingSettings, DocumentSettings, SamplingSettings
from sensenova_core.errors import SenseNovaError
from sensenova_core.model import UNDERSTANDING
from sensenova_core.settings import Guidance
from sensenova_core.writing.document import Drawing
from tests.support.each import each
from tests.support.geometries import short
from tests.support.streaming import (
    SIZE,
    TALE,
    Failing,
    draw_short,
    out_of_memory,
    phase,
    told_by,
    watch_attention,
)
from tests.support.watch import saying


@pytest.mark.parametrize(
    "settings", [{"vram_mode": "balanced"}, {"vram_mode": "low"}, {"slots": 4}, {"slots": 8}], ids=str
)
@each("at", [0, 19, 20, 53])
def test_drawing_goes_on_from_the_last_step_with_fewer_buffers(load, settings, at):
    """At an attention of the first, second or third step, of which there are 20 each."""
    engine = load("dense", **{"vram_mode": "auto", "max_memory": "64GiB"} | settings)
    said, failing = told_by(engine), Failing({at}, out_of_memory, drawing_only=True)
    watch_attention(engine, failing)
    steps = list(engine.sample(short(engine, "x"), **SIZE, steps=4))
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert torch.equal(steps[-1].pixels(), draw_short(load("dense"), steps=4))
    assert failing.count == 80 + at % 20 + 1, "steps that had been taken were taken again"
    before = {"balanced": 3, "low": 2}.get(settings.get("vram_mode")) or settings["slots"]
    fewer = int(before * 0.75)
    assert phase(engine).slots == fewer
    assert engine.memory.residency.nbytes <= engine.memory.sizes.fixed + fewer * engine.memory.sizes.slot
    assert len(said) == 1 and "memory ran out" in said[0] and "max_memory lower" in said[0]


def test_the_next_run_is_planned_anew(load):
    engine = load("dense", "auto", 8, max_memory="64GiB")
    told_by(engine)
    failing = Failing({3, 200}, out_of_memory, drawing_only=True)
    watch_attention(engine, failing)
    first = draw_short(engine)
    assert phase(engine).slots == 6
    failing.count = 100
    assert torch.equal(draw_short(engine), first)
    assert phase(engine).slots == 8 and failing.count == 140
    failing.count = 190
    assert torch.equal(draw_short(engine), first), "a later run may be mended too"
    assert phase(engine).slots == 6


@pytest.mark.parametrize("at", [0, 5, 13])
def test_reading_goes_on_with_fewer_buffers(load, at):
    engine = load("dense", "balanced")
    said = told_by(engine)
    watch_attention(engine, Failing({at}, out_of_memory))
    assert torch.equal(draw_short(engine), draw_short(load("dense")))
    assert len(said) == 1 and phase(engine, UNDERSTANDING).slots == 2


@pytest.mark.parametrize("at", [0, 11, 25, 44])
def test_writing_goes_on_with_fewer_buffers(load, at):
    few = DecodingSettings(5)
    expected = [answer.text for answer in load("dense").understand("what?", settings=few)]
    engine = load("dense", "balanced")
    said = told_by(engine)
    watch_attention(engine, Failing({at}, out_of_memory))
    assert [answer.text for answer in engine.understand("what?", settings=few)] == expected
    assert len(said) == 1


def test_memory_that_runs_out_in_a_document_is_mended(load, expected):
    engine = load("dense", "balanced")
    watch_attention(engine, Failing({60}, out_of_memory))
    settings = DocumentSettings(SamplingSettings(64, 64, 1, Guidance(4.0, 2.0)))
    said = told_by(engine)
    events = list(engine.interleave("a tale", (), settings=settings, choose=saying(engine, TALE)))
    drawn = [event for event in events if isinstance(event, Drawing)]
    assert torch.equal(drawn[-1].step.pixels(), expected("dense")["last drawn"]) and len(said) == 1


@pytest.mark.parametrize("at", [{3, 4}, {3, 30}], ids=str)
def test_memory_that_runs_out_twice_is_an_error_with_advice(load, at):
    engine = load("dense", "auto", 8, max_memory="64GiB")
    said = told_by(engine)
    watch_attention(engine, Failing(at, out_of_memory))
    with pytest.raises(SenseNovaError, match=r"memory ran out.*Tried to allocate 2.00 GiB.*max_memory.*fewer pixels"):
        draw_short(engine)
    assert len(said) == 1
    assert torch.equal(draw_short(engine), draw_short(load("dense")))


@pytest.mark.parametrize("settings", [{"vram_mode": "auto"}, {"slots": 1}], ids=["in place", "one buffer"])
def test_memory_that_nothing_can_be_given_back_of(load, settings):
    engine = load("dense", **{"vram_mode": "low"} | settings)
    watch_attention(engine, Failing({3}, out_of_memory))
    with pytest.raises(SenseNovaError, match=r"system memory ran out.*fewer pixels"):
        draw_short(engine)


def test_memory_that_runs_out_for_text_is_advised_of_text(load):
    engine = load("dense", "auto")
    watch_attention(engine, Failing({3}, out_of_memory))
    with pytest.raises(SenseNovaError, match=r"system memory ran out.*smaller images to read") as advised:
        list(engine.understand("what?"))
    assert "pixels" not in str(advised.value)


def test_memory_that_runs_out_between_reading_and_drawing_is_mended(load, monkeypatch):
    engine = load("dense", "auto", 8, max_memory="64GiB")
    expected = draw_short(engine)
    failed = []
    real = sensenova_core.drawing.sampling.DrawingAttention

    def buffers(*prefixes, **sizes):
        if not failed:
            failed.append(1)
            raise out_of_memory()
        return real(*prefixes, **sizes)

    monkeypatch.setattr(sensenova_core.drawing.sampling, "DrawingAttention", buffers)
    assert torch.equal(draw_short(engine), expected)
