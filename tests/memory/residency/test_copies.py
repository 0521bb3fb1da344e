"""Layers that stream: exactly the copies that the plan says, and none of what is there already."""

from dataclasses import replace
from itertools import pairwise

import pytest

from sensenova_core import DecodingSettings
from sensenova_core.memory.plan_text import explained
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.support.each import each
from tests.support.geometries import short
from tests.support.streaming import SIZE, copied, draw_short, phase, watch_attention
from tests.support.watch import last_of


@each("mode, slots", [("balanced", None), ("low", None), ("auto", 4), ("auto", 6), ("full", 20)])
@each("locked", [None, 5])
@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_step_copies_what_streams_of_one_expert_and_nothing_else(load, name, mode, slots, locked):
    engine = load(name, mode, slots, max_memory="64GiB")
    if locked is not None:
        engine.memory.limits = replace(engine.memory.limits, page_locked=locked * engine.memory.sizes.slot)
    steps, drawn, read = 4, [], []
    for _ in engine.sample(short(engine, "x"), **SIZE, steps=steps):
        drawn.append(copied(engine, GENERATION))
        read.append(copied(engine, UNDERSTANDING))
    plan, layers = engine.memory.last_plan, engine.config.decoder.num_layers
    streamed, resident, ring = len(phase(engine).streamed), len(phase(engine).resident), phase(engine).ring
    assert read == [layers] * steps, "one pass for all branches, and none while drawing"
    assert drawn[-1] == resident + steps * streamed, "something was copied that nobody used"
    for step, count in enumerate(drawn[:-1], 1):  # copies run ahead of the step's end, as far as there are buffers
        assert 0 <= count - resident - step * streamed <= ring, (drawn, explained(plan))
    per_unit = [engine.memory.residency.copies[GENERATION, index] for index in range(layers)]
    assert per_unit == [steps if index in phase(engine).streamed else 1 for index in range(layers)]


def test_the_next_step_is_begun_before_this_one_ends(load):
    engine = load("dense", "balanced")
    (*_,) = (counts := [copied(engine, GENERATION) for _ in engine.sample(short(engine, "x"), **SIZE, steps=3)])
    layers = engine.config.decoder.num_layers
    assert counts[0] > layers and counts[1] > 2 * layers


def test_the_first_layers_that_draw_are_brought_while_the_last_are_read(load):
    engine = load("dense", "auto", 6, max_memory="64GiB")
    seen = []
    watch_attention(engine, lambda causal: seen.append((causal, copied(engine, GENERATION))))
    last_of(engine.sample(short(engine, "x"), **SIZE, steps=1))
    assert max(count for causal, count in seen if causal) > 0


def test_what_stays_is_copied_once_however_many_pictures(load):
    engine = load("dense", "full", 20, max_memory="64GiB")
    for seed in range(3):
        draw_short(engine, seed=seed)
    assert set(engine.memory.residency.copies.values()) == {1}


def test_both_experts_stay_for_another_prompt(load):
    engine = load("dense", "auto", max_memory="64GiB")
    draw_short(engine, "one")
    before = sum(engine.memory.residency.copies.values())
    draw_short(engine, "two")
    assert sum(engine.memory.residency.copies.values()) == before == 2 * engine.config.decoder.num_layers


@pytest.mark.parametrize("slots", [7, 8, 9])
def test_another_prompt_takes_no_more_layers_away_than_it_has_buffers(load, slots):
    """The ten layers do not fit; a second prompt is read through three buffers beside those that stay."""
    engine = load("dense", "auto", slots, max_memory="64GiB")
    draw_short(engine, "one")
    stays, streams, before = len(phase(engine).resident), len(phase(engine).streamed), copied(engine, GENERATION)
    draw_short(engine, "two")
    assert phase(engine, UNDERSTANDING).other_expert_units == stays
    assert copied(engine, GENERATION) - before == 2 * streams


def test_a_token_copies_the_layers_and_the_head(load):
    engine = load("dense", "balanced")
    counts = [copied(engine, UNDERSTANDING) for _ in engine.understand("what?", settings=DecodingSettings(5))]
    units = len(engine.memory.residency.units[UNDERSTANDING])
    assert [after - before for before, after in pairwise(counts[:-1])] == [units] * (
        len(counts) - 2
    )  # the last is whole
    assert copied(engine, GENERATION) == 0
