"""Everything that an engine does, on a pretended card: the bits that the CPU computes, wherever weights lie."""

import pytest
import torch

from sensenova_core.model import GENERATION
from tests.support.streaming import allow

from .conftest import DOCUMENT, LAYERS, everything


def same(told: dict, expected: dict) -> bool:
    return told.keys() == expected.keys() and all(
        torch.equal(told[name], value) if isinstance(value, torch.Tensor) else told[name] == value
        for name, value in expected.items()
    )


@pytest.mark.parametrize("mode", ["auto", "full", "balanced", "low"])
def test_in_every_mode(rehearsed, on_the_cpu, mode):
    with rehearsed(vram_mode=mode) as engine:
        assert same(everything(engine), on_the_cpu("float32"))


@pytest.mark.parametrize("slots", [1, 4])
def test_with_few_buffers(rehearsed, on_the_cpu, slots):
    with rehearsed(vram_mode="full", max_memory="64GiB") as engine:
        allow(engine, slots)
        assert same(everything(engine), on_the_cpu("float32"))
        assert len(engine.memory.last_plan.phases[GENERATION].streamed) == LAYERS - max(0, slots - 3)


def test_in_the_smallest_budget(rehearsed, on_the_cpu):
    with rehearsed(place=False) as engine:
        task = engine.document_task(DOCUMENT, 0)
        least, _ = engine.memory.sizes.smallest(task, engine.plan(task).limits.libraries)
    with rehearsed(max_memory=f"{least / 1024 + 1:.0f}KiB") as engine:
        assert same(everything(engine), on_the_cpu("float32"))


def test_with_nothing_kept_page_locked(rehearsed, on_the_cpu):
    with rehearsed(vram_mode="balanced", max_memory="0=64GiB,cpu=1KiB") as engine:
        assert same(everything(engine), on_the_cpu("float32"))


@pytest.mark.parametrize("name", ["bfloat16", "experts", "packed"])
def test_of_other_checkpoints(rehearsed, on_the_cpu, name):
    with rehearsed(name, vram_mode="balanced") as engine:
        assert same(everything(engine), on_the_cpu(name))


def test_with_a_lora(rehearsed, on_the_cpu, lora):
    settings = {"vram_mode": "balanced", "loras": ((lora, 0.8),)}
    with rehearsed(**settings) as engine:
        assert same(everything(engine), on_the_cpu("float32", **settings))
