"""Layers that stream: the same numbers as in place, bit for bit, however they are streamed."""

from dataclasses import replace

import pytest
import torch

from sensenova_core import DecodingSettings
from tests.support.each import each
from tests.support.geometries import short
from tests.support.streaming import (
    DEEP,
    SIZE,
    TINY,
    WAYS,
    check_same,
    phase,
    story,
)
from tests.support.watch import last_of

SOME = ("low, one kept", "some stay")


@pytest.mark.parametrize(
    "name, way", [(name, way) for name in [*TINY, *DEEP] for way in (WAYS if name == "dense" else SOME)]
)
def test_results_are_the_same_bit_for_bit(load, expected, name, way):
    settings = dict(WAYS[way])
    locked = settings.pop("locked", None)  # system memory for so many units, those that files pass through included
    engine = load(name, **settings)
    if locked is not None:
        engine.memory.limits = replace(engine.memory.limits, page_locked=locked * engine.memory.sizes.slot)
    assert not engine.memory.in_place
    check_same(story(engine), expected(name))
    assert sum(engine.memory.residency.copies.values()) > 0


@each("slots", range(1, 12))
def test_any_number_of_buffers_draws_the_same(load, expected, slots):
    engine = load("dense", "auto", slots, max_memory="64GiB")
    check_same(
        {"picture": last_of(engine.sample(engine.encode("a red circle"), **SIZE, steps=2))},
        {"picture": expected("dense")["picture"]},
    )
    layers = engine.config.decoder.num_layers
    assert len(phase(engine).resident) == (layers if slots >= layers else max(0, slots - 3))


def test_two_pictures_at_once(load):
    engine = load(slots=None)
    first, second = short(engine, "one"), short(engine, "another, longer")
    alone = [last_of(engine.sample(each, **SIZE, steps=3)) for each in (first, second)]
    *_, last = zip(*(engine.sample(each, **SIZE, steps=3) for each in (first, second)), strict=True)
    assert all(torch.equal(step.pixels(), image) for step, image in zip(last, alone, strict=True))


def test_a_question_while_a_picture_is_drawn(load):
    engine = load()
    conditioning = short(engine, "x")
    alone = last_of(engine.sample(conditioning, **SIZE, steps=2))
    drawing = engine.sample(conditioning, **SIZE, steps=2)
    next(drawing)
    list(engine.understand("what?", settings=DecodingSettings(2)))
    assert torch.equal(last_of(drawing), alone)
