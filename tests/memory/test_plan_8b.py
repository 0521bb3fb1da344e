"""Plans of the 8B models, whose figures are known: plain, packed, and with LoRAs."""

import random
from functools import cache
from pathlib import Path

import pytest
import torch

from sensenova_core import SamplingSettings, SettingsError
from sensenova_core.checkpoint import StoredWeights, checkpoint_name
from sensenova_core.checkpoint.headers import TensorHeader
from sensenova_core.checkpoint.int8 import multiplied
from sensenova_core.lora import Lora
from sensenova_core.lora.file import Factors
from sensenova_core.memory import Limits, Plan, Sizes, make_plan
from sensenova_core.memory.activations import PAINTING, Activations
from sensenova_core.memory.budget import SYSTEM_RESERVE, in_words
from sensenova_core.memory.fixed import Fixed
from sensenova_core.memory.plan import STAGING, Phase
from sensenova_core.memory.plan_text import explained
from sensenova_core.memory.units import Units, units_of, with_changes
from sensenova_core.model import GENERATION, UNDERSTANDING, SenseNovaU1
from sensenova_core.settings import VRAM_MODES, DocumentSettings
from tests.memory.test_activations import PREFIXES, TWO_REFERENCES, config

MIB, GIB = 2**20, 2**30


@cache
def sizes_8b() -> Sizes:
    model = SenseNovaU1.on_meta(config())
    headers = {
        checkpoint_name(name): TensorHeader(Path("x"), "BF16", tuple(value.shape), 0)
        for name, value in model.named_parameters()
    }
    weights = StoredWeights(model, headers, None)
    return Sizes.of(
        units_of(model, weights),
        layers=config().decoder.num_layers,
        fixed=Fixed(model, weights).nbytes,
        stored_bytes=weights.nbytes,
    )


@cache
def sizes_packed(kind: str) -> Sizes:
    """Of the 8B models with their matrices packed, and vectors in float32, as GGUF files have them."""
    model = SenseNovaU1.on_meta(config())
    shapes = {checkpoint_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    types = {name: kind if len(shape) == 2 else "F32" if len(shape) == 1 else "F16" for name, shape in shapes.items()}
    headers = {name: TensorHeader(Path("x"), types[name], shape, 0) for name, shape in shapes.items()}
    weights = StoredWeights(model, headers, None)
    return Sizes.of(
        units_of(model, weights),
        layers=config().decoder.num_layers,
        fixed=Fixed(model, weights).nbytes,
        stored_bytes=weights.nbytes,
    )


@cache
def sizes_int8(compute: str) -> Sizes:
    """Of the 8B models with the linear layers of their decoders in INT8, rotated, as ComfyUI's file has them."""
    model = SenseNovaU1.on_meta(config())
    shapes = {checkpoint_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    headers = {}
    for name, shape in shapes.items():
        scale = TensorHeader(Path("x"), "F32", (shape[0], 1), 0)
        int8 = {"scale": scale, "group": 256} if "_proj" in name else {}
        headers[name] = TensorHeader(Path("x"), "I8" if int8 else "BF16", shape, 0, **int8)
    names = multiplied(model, headers, compute=compute, device=torch.device("cpu"))
    weights = StoredWeights(model, headers, None, int8=names)
    return Sizes.of(
        units_of(model, weights),
        layers=config().decoder.num_layers,
        fixed=Fixed(model, weights).nbytes,
        stored_bytes=weights.nbytes,
    )


@pytest.mark.parametrize("compute", ["int8", "bf16"])
def test_int8_on_a_card_of_12_gb_keeps_every_layer_of_the_expert_in_use(compute):
    """Of which 11 GiB are free, with a desktop on it; multiplied as INT8, or unpacked one layer at a time."""
    sizes = sizes_int8(compute)
    activations = Activations(config(), 2, int8=compute == "int8")
    task = activations.drawing(SamplingSettings(), PREFIXES, unread=2)
    plan = make_plan(sizes, task, Limits("auto", int(11 * GIB)), system_free=20 * GIB)
    phase = plan.phases[GENERATION]
    assert phase.streamed == () and len(phase.resident) == 42 and plan.device_bytes <= 11 * GIB
    assert (plan.int8 == 0) == (compute == "bf16") and sizes.int8 in (0, 2 * 42 * 7)
    assert sum(phase.unit_bytes) < 0.51 * sum(plan_8b("full").phases[GENERATION].unit_bytes)
    writing = make_plan(
        sizes, activations.writing(400, 1000, "text of"), Limits("auto", int(11 * GIB)), system_free=20 * GIB
    )
    assert not writing.streams
    assert ("588 matrices are multiplied as INT8" in explained(plan)) == (compute == "int8")


def plan_8b(mode: str = "auto", budget: float | None = None, system_free: int = 48 * GIB) -> Plan:
    """Of a picture of 2048 x 2048 in 50 guided steps; budget in GiB."""
    task = Activations(config(), 2).drawing(SamplingSettings(), PREFIXES, unread=2)
    return make_plan(
        sizes_8b(), task, Limits(mode, None if budget is None else int(budget * GIB)), system_free=system_free
    )


def test_units_of_the_8b_models():
    sizes = sizes_8b()
    assert {expert: len(units) for expert, units in sizes.units.items()} == {UNDERSTANDING: 46, GENERATION: 42}
    assert sizes.head_pieces == 4 and sizes.units[GENERATION][0] == 385_893_376
    assert sizes.slot == 370 * MIB, "whole 2 MiB, as torch's allocator gives them"
    assert sizes.units[UNDERSTANDING][-1] == 311_164_928  # a quarter of lm_head
    assert 0.1 * GIB < sizes.fixed < 0.2 * GIB and 32.6 * GIB < sizes.stored_bytes < 32.7 * GIB


@pytest.mark.parametrize("budget, resident", [(20, 42), (17, 42), (16.5, 38), (13, 29), (9, 18), (7, 12), (3, 1)])
def test_layers_of_the_8b_models_that_stay(budget, resident):
    plan = plan_8b("auto", budget)
    phase = plan.phases[GENERATION]
    assert len(phase.resident) == resident
    if phase.streamed:
        assert 0 <= budget * GIB - phase.device_bytes < sizes_8b().slot, "room for another layer is left"
    for phase in plan.phases.values():
        assert phase.device_bytes <= budget * GIB


@pytest.mark.parametrize(
    "mode, allocated, reserved", [("full", 17.5, 17.5), ("balanced", 3.3, 4.0), ("low", 2.2, 2.5)], ids=VRAM_MODES[1:]
)
def test_modes_of_the_8b_models_take_what_was_promised(mode, allocated, reserved):
    plan = plan_8b(mode)
    task = Activations(config(), 2).drawing(SamplingSettings(), PREFIXES, unread=2)
    assert plan.device_bytes <= reserved * GIB
    for expert, phase in plan.phases.items():
        used = phase.device_bytes - phase.activation_bytes + task.works[expert].activations
        assert used <= allocated * GIB, (mode, phase.name)
    assert plan.page_locked_bytes <= 18 * GIB  # one expert, and what files pass through


def test_a_small_machine_page_locks_what_it_can_spare():
    phase = plan_8b("balanced", system_free=12 * GIB).phases[GENERATION]
    assert len(phase.page_locked) == 10 * GIB // sizes_8b().slot - STAGING == 25
    assert "holds only 25 of them page-locked" in explained(plan_8b("balanced", system_free=12 * GIB))
    assert plan_8b("balanced", system_free=SYSTEM_RESERVE).phases[GENERATION].page_locked == ()


def test_all_steps_of_the_8b_models_that_stream_are_named():
    assert "all 42 parts stay on the card (15.09 GiB)" in explained(plan_8b("full"))
    told = explained(plan_8b("auto", 9))
    assert "24 of 42 parts stream through 3 buffers, 8.63 GiB every step" in told
    assert "42 of 42 parts stream through 3 buffers, 15.09 GiB once" in told


def test_text_of_the_8b_models_streams_the_head_too():
    plan = make_plan(
        sizes_8b(), Activations(config(), 2).writing(400, 1000, "text of"), Limits("low"), system_free=48 * GIB
    )
    phase = plan.phases[UNDERSTANDING]
    assert phase.name == "writing" and len(phase.streamed) == 46 and plan.streams
    assert "0.70 s a token" in explained(plan)


def test_reading_once_has_no_weights_to_keep_and_lets_the_other_expert_stay():
    """Between two prompts: what the next picture needs is not thrown away for a single pass."""
    phase: Phase = plan_8b("auto", 20).phases[UNDERSTANDING]
    assert (phase.name, phase.resident, phase.ring, phase.other_expert_units) == ("reading", (), 3, 42)


def test_what_would_take_less_is_said_of_the_task():
    picture = Activations(config(), 2).drawing(SamplingSettings(), PREFIXES, unread=2)
    written = {"condition": 400, "images_only": 400}
    document = Activations(config(), 2).document(DocumentSettings(), written, 0, unconditional=False)
    text = Activations(config(), 2).writing(400, 1000, "text of")
    assert picture.smaller == "fewer pixels, a batch of 1, fewer or smaller images, less text"
    assert document.smaller == "fewer pixels, fewer or smaller images, less text"
    assert text.smaller == "fewer or smaller images to read, a shorter text to go on from, fewer tokens"


@pytest.mark.parametrize("kind, bits", [("Q4_K", 4.5), ("Q8_0", 8.5), ("F8_E4M3", 8)])
def test_the_8b_models_packed(kind, bits):
    """All but the working buffer, of one layer, is planned in the bits that are stored."""
    sizes, plain = sizes_packed(kind), sizes_8b()
    packed, whole = sizes.units[GENERATION][0], plain.units[GENERATION][0]
    assert packed == pytest.approx(whole * bits / 16, rel=1e-3) and packed <= sizes.slot < packed + 2 * MIB
    assert sizes.scratch == 48 * MIB
    assert sizes.working[GENERATION] == pytest.approx(whole, rel=1e-3)
    assert sizes.stored_bytes == pytest.approx(plain.stored_bytes * bits / 16, rel=0.01)
    task = Activations(config(), 2).drawing(SamplingSettings(), PREFIXES, unread=2)
    full, plans = make_plan(sizes, task, Limits("full"), system_free=48 * GIB), {}
    layers = 42 * sizes.slot
    assert full.phases[GENERATION].device_bytes == (
        sizes.fixed + layers + sizes.working[GENERATION] + sizes.scratch + task.drawing.reserved
    )
    assert f"{in_words(sizes.working[GENERATION] + sizes.scratch)} of it to make one layer ready" in explained(full)
    plans = {mode: make_plan(sizes, task, Limits(mode), system_free=48 * GIB) for mode in ("balanced", "low")}
    assert all(plan.phases[GENERATION].streamed_bytes == 42 * packed for plan in plans.values())
    assert plans["low"].device_bytes < plan_8b("low").device_bytes


# LoRAs.


def changed_by(units: Units, lora: Lora, strength: float, fixed: int, stored: int) -> Sizes:
    return Sizes.of(
        with_changes(units, [(lora, strength)]), layers=config().decoder.num_layers, fixed=fixed, stored_bytes=stored
    )


def some_lora(names: list[str], shapes: dict[str, tuple[int, ...]], rank: int, dtype: str) -> Lora:
    factors = {}
    for name in names:
        up, down = (
            TensorHeader(Path("l"), dtype, shape, 0) for shape in ((shapes[name][0], rank), (rank, shapes[name][1]))
        )
        factors[name] = Factors(up, down, 1.0)
    return Lora(Path("l"), {}, factors)


@cache
def units_8b() -> tuple[Units, dict[str, tuple[int, ...]]]:
    model = SenseNovaU1.on_meta(config())
    shapes = {checkpoint_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    headers = {name: TensorHeader(Path("x"), "BF16", shape, 0) for name, shape in shapes.items()}
    return units_of(model, StoredWeights(model, headers, None)), shapes


def test_a_lora_of_the_8b_models():
    """Of rank 64 on all that draws: 9.7 MB a layer, and one working buffer, which the ring has one buffer less for."""
    units, shapes = units_8b()
    names = [name for name, shape in shapes.items() if ".layers." in name and "_mot_gen" in name and len(shape) == 2]
    plain, lora = sizes_8b(), some_lora(names, shapes, 64, "BF16")
    sizes, off = (changed_by(units, lora, strength, plain.fixed, plain.stored_bytes) for strength in (0.7, 0))
    assert off.units == sizes.units and not any(off.working.values())
    assert sizes.units[UNDERSTANDING] == plain.units[UNDERSTANDING] and not sizes.unpacking(UNDERSTANDING)
    [unit] = set(plain.units[GENERATION])
    assert set(sizes.units[GENERATION]) == {unit + 9_699_328} and sizes.working[GENERATION] == unit
    slot = sizes.slot_of(GENERATION) - plain.slot
    assert sizes.scratch < 24 * MIB
    task = Activations(config(), 2).drawing(SamplingSettings(), PREFIXES, unread=2)
    for mode in VRAM_MODES:
        phases = (
            make_plan(each, task, Limits(mode), system_free=48 * GIB).phases[GENERATION] for each in (sizes, plain)
        )
        ours, others = phases
        assert ours.ring == max(0, others.ring - 1) and ours.resident == others.resident
        more = sizes.unpacking(GENERATION) + (len(ours.resident) + ours.ring) * slot - (others.ring > 0) * plain.slot
        assert ours.device_bytes - ours.other_expert_units * ours.other_slot_bytes == (
            others.device_bytes - others.other_expert_units * others.other_slot_bytes + more
        )


def test_what_any_lora_adds_to_the_sizes():
    units, shapes = units_8b()
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and (".layers." in name or "head.w" in name)]
    for seed in range(30):
        draw = random.Random(seed)
        names = draw.sample(matrices, draw.choice([1, 5, 200]))
        rank, dtype = draw.choice([1, 3, 64, 512]), draw.choice(["BF16", "F16", "F32"])
        lora, strength = some_lora(names, shapes, rank, dtype), draw.choice([1.0, -2.5, 0.0])
        sizes = changed_by(units, lora, strength, 0, 0)
        for expert in (UNDERSTANDING, GENERATION):
            expected, apart = [], [0]
            for unit in units[expert]:
                parts = [part for part in unit.parts if part.name in names]
                each = [part.shape[0] * rank for part in parts] + [part.shape[1] * rank for part in parts]
                itemsize = 4 if dtype == "F32" else 2
                expected.append(unit.nbytes + sum(-(-size * itemsize // 256) * 256 for size in each))
                apart += [unit.running_bytes] if parts and strength else []
            assert sizes.units[expert] == tuple(expected), seed
            assert sizes.working[expert] == max(apart), seed
        task = Activations(config(), 2).drawing(SamplingSettings(), PREFIXES, unread=2)
        smallest, _ = sizes.smallest(task)
        assert make_plan(sizes, task, Limits(device=smallest), system_free=48 * GIB).device_bytes <= smallest
        with pytest.raises(SettingsError):
            make_plan(sizes, task, Limits(device=smallest - 1), system_free=48 * GIB)


FOUR_K = {  # size, what is read, pictures beside -> the least that works, and layers that stay in 16 and 24 GiB
    "4096 x 4096": ((4096, 4096), PREFIXES, 0, 5.35, (27, 42)),
    "3840 x 2160": ((3840, 2160), PREFIXES, 0, 2.95, (34, 42)),
    "an edit of two references": ((4096, 4096), TWO_REFERENCES, 0, 10.00, (14, 36)),
    "the same within a mask": ((4096, 4096), TWO_REFERENCES, PAINTING, 11.15, (11, 33)),
}


@pytest.mark.parametrize("name", FOUR_K)
def test_4k_of_the_8b_models(name):
    size, prefixes, beside, least, stay = FOUR_K[name]
    task = Activations(config(), 2).drawing(SamplingSettings(*size, crop=True), prefixes, unread=True, beside=beside)
    assert sizes_8b().smallest(task)[0] / GIB == pytest.approx(least, abs=0.01)
    for budget, resident in zip((16, 24), stay, strict=True):
        plan = make_plan(sizes_8b(), task, Limits("auto", budget * GIB), system_free=48 * GIB)
        assert len(plan.phases[GENERATION].resident) == resident and plan.device_bytes <= budget * GIB
    with pytest.raises(SettingsError, match=rf"does not fit in .* the smallest that works is {int(least)}\."):
        make_plan(sizes_8b(), task, Limits("auto", int((least - 0.05) * GIB)), system_free=48 * GIB)
