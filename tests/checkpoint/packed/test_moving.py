"""Packed weights move and lie packed, and one layer at a time is unpacked."""

import random
from contextlib import closing

import pytest
import torch
from safetensors.torch import load_file

import sensenova_core
from sensenova_core import DecodingSettings
from sensenova_core.checkpoint import Packed
from sensenova_core.memory import plan as plans
from sensenova_core.memory.slots import Slots
from sensenova_core.memory.transfers import Transfers
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.support.geometries import scaled_down, write_checkpoint
from tests.support.packing import everywhere, tensors_of, write_fp8, write_gguf
from tests.support.peak import PeakBytes
from tests.support.streaming import draw_short, peaks_of_two_runs, phase


def test_units_lie_and_move_packed(load):
    """A matrix of Q4_K takes 4.5 bits a number."""
    engine = load("Q4_K", max_memory="0=64GiB,cpu=1GiB")
    for unit in engine.memory.residency.units[GENERATION]:
        bits = [8 * part.nbytes / torch.Size(part.shape).numel() for part in unit.parts if len(part.shape) == 2]
        assert set(bits) == {4.5} and unit.nbytes < unit.running_bytes / 6
    assert engine.stored.nbytes < 0.25 * sum(4 * header.numel for header in engine.stored.headers.values())


@pytest.mark.parametrize("name", ["mixed", "scale_weight"])
@pytest.mark.parametrize("mode, slots", [("balanced", None), ("low", None), ("auto", 3)])
def test_a_step_copies_packed_bytes_alone(load, monkeypatch, name, mode, slots):
    engine = load(name, mode, slots, max_memory="0=64GiB,cpu=1GiB")
    engine.memory.residency.store.direct = False  # as with a card, where all that is read passes page-locked memory
    real, sent = Transfers.copy, []
    monkeypatch.setattr(
        Transfers, "copy", lambda transfers, source, *rest: sent.append(source.nbytes) or real(transfers, source, *rest)
    )
    draw_short(engine, steps=4)
    units, streamed = engine.memory.residency.units, phase(engine).streamed
    each = [engine.memory.residency.copies[GENERATION, index] for index in range(len(units[GENERATION]))]
    assert each == [4 if index in streamed else 1 for index in range(len(each))]
    read = sum(unit.nbytes for unit in units[UNDERSTANDING][: len(each)])
    assert sum(sent) == read + sum(unit.nbytes * count for unit, count in zip(units[GENERATION], each, strict=True))
    packed = [unit for unit in units[GENERATION] if unit.apart]
    assert len(packed) >= 3 and all(unit.nbytes < 0.3 * unit.running_bytes for unit in packed)


def test_the_only_slot_is_filled_anew_while_its_layer_runs(load):
    """Which runs in the working buffer, and is not disturbed. A plain layer would be."""
    engine = load("Q4_K", "low")
    draw_short(engine, steps=1)
    residency, layers = engine.memory.residency, engine.config.decoder.num_layers
    assert phase(engine).ring == 1 and len(residency.slots.of) == 1
    numbers = tensors_of(engine.path.parent / "plain")
    with torch.inference_mode(), closing(residency.layers(GENERATION)) as passing:
        for index in range(layers - 1):
            layer = next(passing)
            ((key, slot),) = residency.slots.of.items()
            assert key == (GENERATION, index + 1) and slot.ready.result() is None  # the copy has ended
            name = f"language_model.model.layers.{index}.mlp_mot_gen.up_proj.weight"
            assert torch.equal(layer.mlp.up_proj.weight, numbers[name])


@pytest.mark.parametrize("mode, slots", [("balanced", None), ("auto", 5), ("full", 30)])
def test_one_working_buffer_serves_all_slots(load, monkeypatch, mode, slots):
    buffers: list[int] = []
    real = Slots.new
    monkeypatch.setattr(Slots, "new", lambda self, size: buffers.append(size) or real(self, size))
    engine = load("Q4_K", mode, slots, max_memory="64GiB")
    sizes, residency = engine.memory.sizes, engine.memory.residency
    for seed in range(3):
        draw_short(engine, seed=seed)
    list(engine.understand("what?", settings=DecodingSettings(2)))
    assert sizes.working[UNDERSTANDING] == sizes.working[GENERATION] > sizes.slot
    assert buffers.count(sizes.working[GENERATION]) == 1
    assert residency.nbytes == sizes.fixed + sizes.working[UNDERSTANDING] + residency.buffer_bytes
    assert residency.most_bytes <= max(each.device_bytes - each.activation_bytes for each in residency.phases.values())
    residency.shrink(1)
    assert residency.slots.working is not None
    residency.shrink(2**60)
    assert residency.nbytes == sizes.fixed
    engine.release()
    assert residency.nbytes == 0


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_an_embedding_unpacks_the_rows_it_needs(load, made, vram_mode):
    engine = load("Q8_0", vram_mode)
    ids, width = torch.tensor([3, 0, 3000, 3]), engine.config.decoder.hidden_size
    with PeakBytes("cpu") as peak, torch.inference_mode():
        rows = engine.memory.residency.embed(ids)
    table = load_file(made("Q8_0")[1] / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert torch.equal(rows, table[ids])
    assert peak.most <= 16 * len(ids) * width


def test_in_place_no_more_than_a_layer_is_unpacked(load):
    engine = load("mixed", "auto")
    draw_short(engine)
    sizes = engine.memory.sizes
    mapped = [each.bytes if isinstance(each, Packed) else each for each in engine.memory.residency._others.values()]
    with PeakBytes("cpu") as peak, torch.inference_mode():
        peak.leave_out([*mapped, *engine.model.parameters(), engine.memory.residency.slots.working.buffer])
        for layer in engine.memory.residency.layers(GENERATION):
            assert layer.mlp.down_proj.weight.dtype == torch.float32
    assert peak.most <= sizes.scratch
    assert engine.memory.residency.nbytes == engine.stored.nbytes + max(sizes.working.values())
    engine.release()
    assert engine.memory.residency.nbytes == 0
    assert {value.device.type for value in engine.model.parameters()} == {"meta"}


def test_device_memory_stays_within_the_budget(tmp_path, monkeypatch):
    """As for plain weights, with the working buffer and what unpacking takes for a moment. 80 runs."""
    monkeypatch.setattr(plans, "FRAGMENTATION", 1.0)
    over, runs = [], 0
    for seed in range(8):
        draw = random.Random(seed)
        plain = write_checkpoint(tmp_path / str(seed), scaled_down(seed))
        target = tmp_path / f"{seed}-packed"
        packed, _ = write_fp8(plain, target, "rows") if seed % 4 == 3 else write_gguf(plain, target, everywhere("Q5_1"))
        engine = sensenova_core.load(packed, dtype="float32", max_memory="1GiB", place=False)
        assert engine.memory.sizes.unpacking(GENERATION) > engine.memory.sizes.slot_of(GENERATION)
        for _ in range(5):
            for run, (plan, most) in enumerate(peaks_of_two_runs(engine, draw)):
                runs += 1
                assert plan.device_bytes <= plan.limits.device
                if most > plan.limits.device:
                    over.append((seed, run, most / plan.limits.device))
        engine.release()
    assert runs == 80 and not over, over
