"""What LoRAs move and take: factors lie with their layers, in no more memory than planned, and are given back."""

import gc
import random
import weakref
from itertools import pairwise

import pytest
import torch

import sensenova_core
from sensenova_core.lora import merge
from sensenova_core.lora.merging import merge_scratch
from sensenova_core.memory import Sizes
from sensenova_core.memory import plan as plans
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.lora.telling import drawing, tell
from tests.support.each import each
from tests.support.geometries import scaled_down, write_checkpoint
from tests.support.loras import matrices, write_lora
from tests.support.peak import PeakBytes
from tests.support.streaming import check_same, copied, draw_short, gone, peaks_of_two_runs

HEAD = "language_model.lm_head.weight"


def test_another_strength_moves_nothing(lora, load):
    first, second = lora("plain", 1, drawing)[0], lora("plain", 2, drawing)[0]
    engine = load(vram_mode="full", max_memory="64GiB", loras=[(first, 1.0)])
    draw_short(engine)
    dropped, count = engine.memory.residency.times_dropped, copied(engine, GENERATION)
    for loras in ([(first, 0.3)], [], [(first, -2)]):
        engine.use_loras(loras)
        draw_short(engine)
    assert copied(engine, GENERATION) == count and engine.memory.residency.times_dropped == dropped
    engine.use_loras([(second, 1.0)])  # and what was used until now goes along
    draw_short(engine)
    count = copied(engine, GENERATION)
    for loras in ([(first, 1.0)], [(second, 1.0)], [(second, 1.0), (first, 0.1)]):
        engine.use_loras(loras)
        draw_short(engine)
    assert copied(engine, GENERATION) == count and engine.memory.residency.times_dropped == dropped + 1


@pytest.mark.parametrize("kind", ["plain", "gguf", "experts"])
def test_factors_lie_and_move_with_their_layer(lora, load, kind):
    engine = load(kind)
    before, units = engine.memory.sizes, engine.memory.residency.units
    engine.use_loras([(lora(kind, 1, drawing)[0], 1.0)])
    sizes = engine.memory.sizes
    assert sizes.units[UNDERSTANDING] == before.units[UNDERSTANDING] and sizes.unpacking(
        UNDERSTANDING
    ) == before.unpacking(UNDERSTANDING)
    for unit, was in zip(engine.memory.residency.units[GENERATION], units[GENERATION], strict=True):
        stored = sum(-(-part.nbytes // 256) * 256 for change in unit.changes for part in (change.up, change.down))
        assert unit.nbytes == was.nbytes + stored and unit.running_bytes == was.running_bytes
        assert (stored > 0) == (unit.index != 2) and unit.apart == (was.apart or stored > 0)
        starts = [(part.lies_at, part.lies_at + part.nbytes) for part in unit.all_parts]
        assert all(stop <= start for (_, stop), (start, _) in pairwise(starts))
    assert sizes.working[GENERATION] == max(unit.running_bytes for unit in units[GENERATION] if unit.index != 2)
    assert sizes.slot_of(GENERATION) > before.slot_of(GENERATION)


def test_pieces_of_the_head_have_their_rows(lora, load):
    engine = load(loras=[(lora("plain", 3, lambda name: name == HEAD)[0], 1.0)])
    pieces = engine.memory.residency.units[UNDERSTANDING][engine.config.decoder.num_layers :]
    changes = [unit.changes[0] for unit in pieces]
    assert len(pieces) > 1 and [each.up.first_row for each in changes] == [unit.parts[0].first_row for unit in pieces]
    assert sum(each.up.shape[0] for each in changes) == sum(unit.parts[0].shape[0] for unit in pieces)
    assert not any(unit.apart for unit in engine.memory.residency.units[GENERATION])


def test_in_place_nothing_is_copied_but_a_layer(folders, lora, load):
    engine = load(vram_mode="auto", loras=[(lora("plain", 1, drawing)[0], 1.0)])
    draw_short(engine)
    weights = engine.memory.residency
    mapped = [value for value in weights._others.values()]
    changed = weights.units[GENERATION]
    assert not any(part.name in weights._owners for unit in changed if unit.apart for part in unit.parts)
    with PeakBytes("cpu") as peak, torch.inference_mode():
        peak.leave_out([*mapped, *engine.model.parameters(), weights.slots.working.buffer])
        for _ in weights.layers(GENERATION):
            pass
    assert peak.most <= engine.memory.sizes.scratch < weights.slots.working.buffer.nbytes
    assert weights.nbytes == engine.stored.nbytes + weights.slots.working.buffer.nbytes


def test_device_memory_stays_within_the_budget(tmp_path, monkeypatch):
    """As without LoRAs, with the working buffer and what adding takes for a moment. 40 runs."""
    monkeypatch.setattr(plans, "FRAGMENTATION", 1.0)
    over, runs = [], 0
    for seed in range(4):
        draw = random.Random(seed)
        folder = write_checkpoint(tmp_path / str(seed), scaled_down(seed))
        rank = draw.choice([1, 4, 32])
        write_lora(tmp_path / f"{seed}.safetensors", matrices(folder, lambda name: ".layers." in name), seed, rank)
        loras = [(tmp_path / f"{seed}.safetensors", 1.0)]
        engine = sensenova_core.load(folder, max_memory="1GiB", place=False, loras=loras)
        for _ in range(5):
            for run, (plan, most) in enumerate(peaks_of_two_runs(engine, draw)):
                runs += 1
                assert plan.device_bytes <= plan.limits.device and plan.phases[GENERATION].unpacking_bytes
                if most > plan.limits.device:
                    over.append((seed, run, most / plan.limits.device))
        engine.release()
    assert runs == 40 and not over, over


@each("shape", [(300, 200), (64, 16, 3, 3), (1, 7)])
@each("piece", [1, 5000, 2**20])
def test_rows_are_added_piece_by_piece(monkeypatch, shape, piece):
    for module in ("checkpoint.formats.PIECE_CPU", "lora.merging.PIECE"):
        monkeypatch.setattr(f"sensenova_core.{module}", piece)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(shape, generator=generator).bfloat16()
    width = value[0].numel()
    terms = [
        (0.5, torch.randn(shape[0], 3, generator=generator), torch.randn(3, width, generator=generator)),
        (-2.0, torch.randn(shape[0], 9, generator=generator).half(), torch.randn(9, width).bfloat16()),
    ]
    expected = value.double().flatten(1) + sum(amount * up.double() @ down.double() for amount, up, down in terms)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8)):
        into = torch.empty(shape, dtype=dtype)
        with PeakBytes("cpu") as peak:
            peak.leave_out([value, into, *(part for _, *parts in terms for part in parts)])
            merge(value, terms, into)
        assert (into.double().flatten(1) - expected).abs().max() <= bound * expected.abs().max()
        assert peak.most <= merge_scratch(shape, [3, 9], unpacking=0)


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_a_plan_says_so(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode)
    told = engine.forecast(sensenova_core.SamplingSettings(64, 64))
    assert "make one layer ready" not in told
    engine.use_loras([(lora()[0], 1.0)])
    assert "make one layer ready" in engine.forecast(sensenova_core.SamplingSettings(64, 64))
    assert isinstance(engine.memory.sizes, Sizes)


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_given_back_and_taken_up_again(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode, loras=[(lora()[0], 1.0)])
    expected = tell(engine)
    engine.release()
    assert engine.memory.residency.nbytes == 0
    assert {value.device.type for value in engine.model.parameters()} == {"meta"}
    check_same(tell(engine), expected)


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_an_engine_that_nobody_holds_is_freed_without_the_collector(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode, loras=[(lora()[0], 1.0)])
    gc.collect()
    gc.disable()
    try:
        draw_short(engine)
        watched = [weakref.ref(part) for part in (engine, engine.model, engine.memory, engine.memory.residency)]
        del engine
        assert gone(*watched), [each() for each in watched if each() is not None][:3]
    finally:
        gc.enable()
