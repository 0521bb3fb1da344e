"""An engine on a real card: the same bits wherever weights lie, within its plan, beside another, when it is full."""

import pytest
import torch

from sensenova_core import DecodingSettings
from tests.support.pictures import picture
from tests.support.streaming import allow, told_by
from tests.support.watch import draw, last_of

SIZE = {"width": 512, "height": 512, "seed": 5}
WAYS = {  # settings, and buffers for layers
    "both experts stay": ({"vram_mode": "auto"}, None),
    "balanced": ({"vram_mode": "balanced"}, None),
    "nothing kept page-locked": ({"vram_mode": "balanced", "max_memory": "0=64GiB,cpu=1KiB"}, None),
    "low": ({"vram_mode": "low"}, None),
    "one buffer": ({"vram_mode": "full"}, 1),
    "some stay": ({"vram_mode": "full"}, 4),
}


def told_of(engine) -> dict:
    conditioning = engine.encode("a red circle")
    answers = engine.understand("what?", [picture(256, 256)], settings=DecodingSettings(8))
    return {
        "picture": last_of(engine.sample(conditioning, **SIZE, steps=3)),
        "edit": draw(engine, "bluer", [picture(256, 256)], **SIZE, steps=2, img_cfg=2.0),
        "answer": [answer.text for answer in answers],
    }


@pytest.fixture
def expected(load) -> dict:
    engine = load(vram_mode="full")
    told = told_of(engine)
    engine.release()
    return told


@pytest.mark.parametrize("way", WAYS)
def test_streamed_is_resident_to_the_last_bit(load, expected, way):
    settings, slots = WAYS[way]
    engine = load(**settings)
    if slots is not None:
        allow(engine, slots)
    told = told_of(engine)
    assert torch.equal(told["picture"], expected["picture"])
    assert torch.equal(told["edit"], expected["edit"])
    assert told["answer"] == expected["answer"]


@pytest.mark.parametrize("mode", ["full", "balanced", "low"])
def test_the_plan_is_no_less_than_what_is_reserved(load, mode):
    engine = load(vram_mode=mode)
    plans = []
    engine.memory.planned = plans.append
    last_of(engine.sample(engine.encode("a red circle"), **SIZE, steps=2))
    assert torch.cuda.max_memory_reserved() <= max(plan.device_bytes for plan in plans)


def test_goes_on_when_memory_runs_out(load):
    """The card has a layer less than the plan believes."""
    engine = load(vram_mode="full")
    conditioning = engine.encode("a red circle")
    expected = last_of(engine.sample(conditioning, **SIZE, steps=3))
    most = torch.cuda.max_memory_reserved()
    engine.release()
    torch.cuda.empty_cache()
    said, engine.memory.free = told_by(engine), lambda: 1 << 40
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((most - engine.memory.sizes.slot) / total)
    assert torch.equal(last_of(engine.sample(conditioning, **SIZE, steps=3)), expected)
    assert len(said) == 1 and "memory ran out" in said[0]


def test_two_engines_take_turns_on_one_card(load):
    first, second = load(vram_mode="balanced"), load(vram_mode="low")
    alone = last_of(first.sample(first.encode("a red circle"), **SIZE, steps=3))
    first.release()
    steps = [engine.sample(engine.encode("a red circle"), **SIZE, steps=3) for engine in (first, second)]
    *_, last = zip(*steps, strict=True)
    assert all(torch.equal(step.pixels(), alone) for step in last)
