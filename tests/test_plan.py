"""Plans are arithmetic: what they promise holds for hundreds of geometries, budgets, modes and tasks."""

import random
import re
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path

import pytest
import torch

from sensenova_core import SamplingSettings, SettingsError, needs
from sensenova_core.checkpoint import Lora, Weights, checkpoint_name
from sensenova_core.checkpoint.headers import TensorHeader
from sensenova_core.checkpoint.lora import Factors
from sensenova_core.cli import main
from sensenova_core.document import DocumentSettings
from sensenova_core.memory import Limits, Plan, Sizes, Task, Work, limits_of, make_plan
from sensenova_core.memory.budget import HOST_RESERVE, MODES, UNITS, in_words, parse_max_memory
from sensenova_core.memory.plan import RING, STAGING, Phase
from sensenova_core.memory.units import DRAWING, READING, Fixed, Units, units_of, with_changes
from sensenova_core.model import SenseNovaU1
from tests.test_needs import PREFIXES, config

MIB, GIB = 2**20, 2**30
MUCH = 2**60
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One random question to the planner."""

    seed: int
    sizes: Sizes
    task: Task
    limits: Limits
    host_free: int

    @property
    def units(self) -> int:
        return sum(map(len, self.sizes.units.values()))

    @property
    def smallest(self) -> int:
        """The least budget: one buffer, and whatever cannot move."""
        works = self.task.works.items()
        sizes = self.sizes
        return sizes.fixed + max(
            work.reserved + sizes.unpacking(expert) + sizes.slot_of(expert) for expert, work in works
        )

    @property
    def everything(self) -> int:
        """Bytes of buffers for all units."""
        return sum(len(units) * max(units) for units in self.sizes.units.values())

    def room(self, expert: str) -> int:
        """Bytes for buffers beside everything else in an expert's phase."""
        limits, room, slot = self.limits, self.everything, max(self.sizes.units[expert])
        outside = self.sizes.fixed + self.sizes.unpacking(expert)
        if limits.weights is not None:
            room = min(room, max(self.ring(expert) * slot, limits.weights - outside))
        if limits.device is not None:
            room = min(room, limits.device - outside - self.task.works[expert].reserved)
        return room

    def ring(self, expert: str, mode: str | None = None) -> int:
        """One less where units compute in the working buffer."""
        return RING[mode or self.limits.mode] - bool(self.sizes.working[expert])

    def plan(self, **limits) -> Plan:
        return make_plan(self.sizes, self.task, replace(self.limits, **limits), self.host_free)


def case(seed: int) -> Case:
    draw = random.Random(seed)
    largest = draw.choice([256, 7936, 5 * MIB, 386 * MIB])

    def unit() -> int:
        return max(1, draw.randint(1, largest // 256)) * 256

    def layers(count: int) -> tuple[int, ...]:
        return (unit(),) * count if draw.random() < 0.5 else tuple(unit() for _ in range(count))

    def work(passes: int | None) -> Work:
        return Work(draw.choice([0, draw.randint(1, largest), draw.randint(1, 20 * largest)]), passes)

    depth, pieces = draw.choice([1, 2, 3, 4, *draw.sample(range(5, 60), 4)]), draw.choice([1, 2, 5])
    drawing, wider = layers(depth), draw.choice([1, 1, 3])  # a mixture's two experts differ
    reading = tuple(wider * size for size in layers(depth))
    sizes = Sizes(
        {READING: reading + (draw.choice(reading),) * pieces, DRAWING: drawing},
        pieces,
        draw.choice([0, draw.randint(1, largest), 3 * largest]),
        draw.randint(1, 100) * largest,
    )
    writes = draw.random() < 0.4
    task = Task(
        f"task {seed}",
        work(None if writes else draw.randint(0, 3)),
        writes,
        work(draw.choice([1, 2, 50, None])) if draw.random() < 0.7 else None,
    )
    host = draw.choice([None, 0, draw.randint(0, 80) * largest])
    made = Case(seed, sizes, task, Limits(draw.choice(MODES), host=host), draw.randint(0, 120) * largest + HOST_RESERVE)
    device = made.smallest + draw.randint(0, draw.choice([depth, made.units + 3])) * sizes.slot + draw.randint(0, 255)
    weights = sizes.fixed + draw.randint(0, made.units + 3) * sizes.slot
    device, weights = draw.choice([None, device, device]), draw.choice([None, None, None, weights])
    if draw.random() < 0.3:
        working = {expert: draw.choice([0, 4, 8]) * max(units) for expert, units in sizes.units.items()}
        made = replace(made, sizes=replace(sizes, working=working, scratch=draw.randint(0, largest)))
        device = None if device is None else device + max(map(made.sizes.unpacking, working))
    return replace(made, limits=replace(made.limits, device=device, weights=weights))


CASES = [case(seed) for seed in range(500)]
PLANS = [(case, case.plan()) for case in CASES]
PHASES = [(case, plan, expert, phase) for case, plan in PLANS for expert, phase in plan.phases.items()]


def test_the_cases_are_of_all_kinds():
    """Else what follows shows less than it seems to."""
    seen = {(case.limits.mode, case.limits.device is None, phase.name) for case, _, _, phase in PHASES}
    assert len(seen) == len(MODES) * 2 * 3
    mixed = [phase for _, _, _, phase in PHASES if phase.resident and phase.streamed]
    assert len(mixed) > 50 and any(phase.pinned and len(phase.pinned) < len(phase.streamed) for phase in mixed)
    assert any(phase.kept for _, _, _, phase in PHASES)
    assert any("both experts stay" in plan.mode for _, plan in PLANS)


def test_never_above_the_budget():
    for case, plan in PLANS:
        if case.limits.device is not None:
            assert plan.device_bytes <= case.limits.device, case
        for expert, phase in plan.phases.items():
            work, sizes = case.task.works[expert], case.sizes
            other = sizes.units[READING if expert == DRAWING else DRAWING]
            own = len(phase.resident) + phase.ring
            assert phase.buffer_bytes == own * max(sizes.units[expert]) + phase.kept * max(other)
            assert phase.unpacking_bytes == sizes.unpacking(expert)
            assert phase.device_bytes == sizes.fixed + phase.unpacking_bytes + phase.buffer_bytes + work.reserved
            assert phase.buffer_bytes <= case.room(expert), case


def test_somebody_elses_wish_is_kept_but_for_a_ring():
    for case, _, expert, phase in PHASES:
        if case.limits.weights is not None:
            taken = case.sizes.fixed + phase.unpacking_bytes + phase.buffer_bytes
            assert taken <= case.limits.weights or phase.slots <= case.ring(expert), case


def test_every_unit_stays_or_streams():
    for case, _, expert, phase in PHASES:
        units = case.sizes.units[expert]
        if phase.name == "reading":
            units = units[: len(units) - case.sizes.head_pieces]
        assert phase.unit_bytes == units
        stays = [index for index in phase.resident if index < len(units)]  # with both experts, the head's pieces too
        assert sorted([*stays, *phase.streamed]) == list(range(len(units)))
        assert list(phase.resident) == sorted(set(phase.resident))
        assert phase.streamed_bytes == sum(units) - sum(units[index] for index in stays)
        assert (phase.ring > 0) == bool(phase.streamed), case


def test_buffers_to_stream_through_are_as_many_as_the_mode_says_or_as_fit():
    for case, _, expert, phase in PHASES:
        fitting = case.room(expert) // phase.slot_bytes
        if phase.streamed:
            assert phase.ring == min(case.ring(expert), fitting, len(phase.unit_bytes)), case
        assert phase.slots == len(phase.resident) + phase.ring + phase.kept
        assert 0 <= phase.kept <= case.units - len(case.sizes.units[expert])
        assert not (phase.kept and phase.streamed and phase.name != "reading"), "what streams has no room to spare"


def test_all_room_is_used_while_something_streams():
    for case, _, expert, phase in PHASES:
        if phase.streamed and phase.name != "reading" and case.limits.mode in ("auto", "full"):
            assert phase.slots == case.room(expert) // phase.slot_bytes, case


def test_the_smaller_modes_keep_no_layer():
    for case, _, expert, phase in PHASES:
        if case.limits.mode in ("balanced", "low"):
            assert phase.slots <= case.ring(expert)
            assert not phase.resident or len(phase.unit_bytes) <= case.ring(expert), case


def test_what_streams_is_evenly_spread():
    """Across the end of a pass too, behind which the next one begins."""
    for case, _, _, phase in PHASES:
        if phase.resident:
            check_even(phase.streamed, len(phase.unit_bytes), case)
        places = [phase.streamed.index(index) for index in phase.pinned]
        check_even(places, len(phase.streamed), case)


def check_even(indexes, count: int, case: Case) -> None:
    for this, following in zip(indexes, [*indexes[1:], (indexes or [0])[0] + count], strict=False):
        assert count // len(indexes) <= following - this <= ceil(count / len(indexes)), case


def test_page_locked_is_what_streams_again_and_again():
    for case, plan in PLANS:
        allowed = case.limits.pinned(case.host_free)
        assert allowed <= max(0, case.host_free - HOST_RESERVE)
        assert plan.staging == STAGING * case.sizes.slot
        assert plan.pinned_bytes <= max(allowed, plan.staging), case
        for expert, phase in plan.phases.items():
            again = phase.name != "reading" and case.task.works[expert].passes != 1
            most = max(0, (allowed - plan.staging) // phase.slot_bytes) if again else 0
            assert set(phase.pinned) <= set(phase.streamed)
            assert len(phase.pinned) == len(set(phase.pinned)) == min(most, len(phase.streamed)), case


def test_more_memory_never_streams_more():
    for case in CASES[::10]:
        budgets = [case.smallest + step * case.sizes.slot // 2 for step in range(2 * case.units + 8)] + [None]
        for mode in MODES:
            for name in ("device", "weights"):
                free = {"device": None, "weights": None, "mode": mode}
                plans = [case.plan(**free | {name: budget}) for budget in budgets]
                for expert in plans[0].phases:
                    streamed = [plan.phases[expert].streamed_bytes for plan in plans]
                    counts = [len(plan.phases[expert].streamed) for plan in plans]
                    assert counts == sorted(counts, reverse=True), (case, mode)
                    same = len(set(case.sizes.units[expert])) == 1
                    assert not same or streamed == sorted(streamed, reverse=True), (case, mode)


def test_the_smallest_budget_works_and_a_byte_less_does_not():
    for case in CASES:
        plan = case.plan(device=case.smallest, weights=None)
        assert plan.device_bytes <= case.smallest
        assert min(phase.slots for phase in plan.phases.values()) == 1, case
        with pytest.raises(SettingsError, match="the smallest that works"):
            case.plan(device=case.smallest - 1)


def refusal(case: Case, budget: int) -> tuple[str, int]:
    """What is said of a budget too small, and the smallest that it names."""
    with pytest.raises(SettingsError) as refused:
        case.plan(device=budget)
    named = re.search(r"smallest that works is ([\d.]+ [GM]iB)", str(refused.value)).group(1)
    return str(refused.value), parse_max_memory(named)[0]


def test_a_budget_too_small_is_refused_with_what_would_help():
    for case in CASES:
        for budget in (1, case.smallest // 2, case.smallest - 1):
            said, _ = refusal(case, budget)
            assert case.task.name in said and in_words(budget) in said
            assert "max_memory" in said and ("fewer pixels" in said) == (case.task.drawing is not None)


def test_the_smallest_that_is_named_is_of_all_phases():
    for case in CASES:
        _, named = refusal(case, 1)
        assert abs(named - case.smallest) <= 0.01 * GIB, case


def test_the_smallest_that_is_named_works():
    for case in CASES:
        _, named = refusal(case, case.smallest - 1)
        assert case.plan(device=named).device_bytes <= named, case


def test_a_host_that_allows_next_to_nothing_still_gets_a_plan():
    for case in CASES:
        for weights in (0, 1, case.sizes.fixed):
            plan = case.plan(weights=weights, device=MUCH)
            for expert, phase in plan.phases.items():
                assert phase.slots > 0 and phase.buffer_bytes <= case.ring(expert) * phase.slot_bytes


def test_auto_keeps_both_experts_where_there_is_room_and_full_keeps_one():
    for case in CASES:
        auto, full = (case.plan(mode=mode, device=MUCH, weights=None) for mode in ("auto", "full"))
        assert "both experts stay" in auto.mode
        assert not full.streams and not auto.streams
        assert all(phase.slots == case.units for phase in auto.phases.values())
        for name, phase in full.phases.items():
            assert phase.slots == len(case.sizes.units[name]) or phase.name == "reading", case


def test_one_byte_too_little_for_both_experts_keeps_one():
    for case in CASES[:100]:
        works = case.task.works.items()
        outside = max(work.reserved + case.sizes.unpacking(expert) for expert, work in works)
        enough = case.sizes.fixed + outside + case.everything
        free = {"mode": "auto", "weights": None}
        assert "both" in case.plan(**free, device=enough).mode
        assert "both" not in case.plan(**free, device=enough - 1).mode


def test_the_same_question_gets_the_same_plan():
    for seed in range(50):
        assert case(seed).plan() == case(seed).plan()


def test_a_plan_explains_itself():
    for case, plan in PLANS:
        rows = dict(re.split(r"\s+: ", line, maxsplit=1) for line in plan.explain().splitlines())
        assert set(rows) == {"task", "mode", "device", "system", *(phase.name for phase in plan.phases.values())}
        assert rows["task"] == case.task.name and rows["mode"].startswith(case.limits.mode)
        unpacking = any(phase.unpacking_bytes for phase in plan.phases.values())
        assert rows["device"].startswith(f"{in_words(plan.device_bytes)} at most")
        assert ("to make one layer ready at a time" in rows["device"]) == unpacking
        assert f"{in_words(plan.host_free)} free" in rows["system"]
        if case.limits.device is not None:
            assert f"{in_words(case.limits.device)} to use" in rows["mode"]
        for phase in plan.phases.values():
            told, streamed = rows[phase.name], len(phase.streamed)
            total = len(phase.unit_bytes)
            expected = f"{streamed} of {total} parts stream" if streamed else f"all {total} parts stay"
            assert expected in told, case
            again = phase.name != "reading" and phase.passes != 1
            slow = again and len(phase.pinned) < streamed and case.limits.host != 0
            assert ("slower" in told) == bool(slow), case
            assert ("s a token" in told) == (bool(streamed) and phase.name == "writing")


# The 8B models, whose figures are known.


@cache
def sizes_8b() -> Sizes:
    model = SenseNovaU1.on_meta(config())
    headers = {
        checkpoint_name(name): TensorHeader(Path("x"), "BF16", tuple(value.shape), 0)
        for name, value in model.named_parameters()
    }
    weights = Weights(model, headers, None)
    return Sizes.of(units_of(model, weights), config().decoder.num_layers, Fixed(model, weights).nbytes, weights.nbytes)


@cache
def sizes_packed(kind: str) -> Sizes:
    """Of the 8B models with their matrices packed, and vectors in float32, as GGUF files have them."""
    model = SenseNovaU1.on_meta(config())
    shapes = {checkpoint_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    types = {name: kind if len(shape) == 2 else "F32" if len(shape) == 1 else "F16" for name, shape in shapes.items()}
    headers = {name: TensorHeader(Path("x"), types[name], shape, 0) for name, shape in shapes.items()}
    weights = Weights(model, headers, None)
    return Sizes.of(units_of(model, weights), config().decoder.num_layers, Fixed(model, weights).nbytes, weights.nbytes)


def plan_8b(mode: str = "auto", budget: float | None = None, host_free: int = 48 * GIB) -> Plan:
    """Of a picture of 2048 x 2048 in 50 guided steps; budget in GiB."""
    task = needs.drawing(config(), SamplingSettings(), PREFIXES, 2, 2, "a picture of")
    return make_plan(sizes_8b(), task, Limits(mode, None if budget is None else int(budget * GIB)), host_free)


def test_units_of_the_8b_models():
    sizes = sizes_8b()
    assert {expert: len(units) for expert, units in sizes.units.items()} == {READING: 46, DRAWING: 42}
    assert sizes.head_pieces == 4 and sizes.slot == sizes.units[DRAWING][0] == 385_893_376
    assert sizes.units[READING][-1] == 311_164_928  # a quarter of lm_head
    assert 0.1 * GIB < sizes.fixed < 0.2 * GIB and 32.6 * GIB < sizes.stored < 32.7 * GIB


@pytest.mark.parametrize("budget, resident", [(20, 42), (17, 42), (16.5, 38), (13, 28), (9, 17), (7, 11), (3, 0)])
def test_layers_of_the_8b_models_that_stay(budget, resident):
    plan = plan_8b("auto", budget)
    phase = plan.phases[DRAWING]
    assert len(phase.resident) == resident
    if phase.streamed:
        assert 0 <= budget * GIB - phase.device_bytes < sizes_8b().slot, "room for another layer is left"
    for phase in plan.phases.values():
        assert phase.device_bytes <= budget * GIB


@pytest.mark.parametrize(
    "mode, allocated, reserved", [("full", 17.5, 17.5), ("balanced", 3.3, 4.0), ("low", 2.2, 2.5)], ids=MODES[1:]
)
def test_modes_of_the_8b_models_take_what_was_promised(mode, allocated, reserved):
    plan = plan_8b(mode)
    task = needs.drawing(config(), SamplingSettings(), PREFIXES, 2, 2, "a picture of")
    assert plan.device_bytes <= reserved * GIB
    for expert, phase in plan.phases.items():
        used = phase.device_bytes - phase.working_bytes + task.works[expert].working
        assert used <= allocated * GIB, (mode, phase.name)
    assert plan.pinned_bytes <= 18 * GIB  # one expert, and what files pass through


def test_a_small_machine_page_locks_what_it_can_spare():
    phase = plan_8b("balanced", host_free=12 * GIB).phases[DRAWING]
    assert len(phase.pinned) == 10 * GIB // sizes_8b().slot - STAGING == 25
    assert "holds only 25 of them page-locked" in plan_8b("balanced", host_free=12 * GIB).explain()
    assert plan_8b("balanced", host_free=HOST_RESERVE).phases[DRAWING].pinned == ()


def test_all_steps_of_the_8b_models_that_stream_are_named():
    assert "all 42 parts stay on the card (15.09 GiB)" in plan_8b("full").explain()
    told = plan_8b("auto", 9).explain()
    assert "25 of 42 parts stream through 3 buffers, 8.98 GiB every step" in told
    assert "42 of 42 parts stream through 3 buffers, 15.09 GiB once" in told


def test_text_of_the_8b_models_streams_the_head_too():
    plan = make_plan(sizes_8b(), needs.writing(config(), 400, 1000, 2, "text of"), Limits("low"), 48 * GIB)
    phase = plan.phases[READING]
    assert phase.name == "writing" and len(phase.streamed) == 46 and plan.streams
    assert "0.70 s a token" in plan.explain()


def test_what_would_take_less_is_said_of_the_task():
    picture = needs.drawing(config(), SamplingSettings(), PREFIXES, 2, 2, "a picture of")
    document = needs.document(config(), DocumentSettings(), {"condition": 400, "images_only": 400}, 0, 2)
    text = needs.writing(config(), 400, 1000, 2, "text of")
    assert picture.smaller == "fewer pixels, a batch of 1, fewer or smaller images, less text"
    assert document.smaller == "fewer pixels, fewer or smaller images, less text"
    assert text.smaller == "fewer or smaller images to read, a shorter text to go on from, fewer tokens"


@pytest.mark.parametrize("kind, bits", [("Q4_K", 4.5), ("Q8_0", 8.5), ("F8_E4M3", 8)])
def test_the_8b_models_packed(kind, bits):
    """All but the working buffer, of one layer, is planned in the bits that are stored."""
    sizes, plain = sizes_packed(kind), sizes_8b()
    assert sizes.slot == pytest.approx(plain.slot * bits / 16, rel=1e-3) and sizes.scratch == 48 * MIB
    assert set(sizes.working.values()) == {plain.slot} or sizes.working[DRAWING] == pytest.approx(plain.slot, rel=1e-3)
    assert sizes.stored == pytest.approx(plain.stored * bits / 16, rel=0.01)
    task = needs.drawing(config(), SamplingSettings(), PREFIXES, 2, 2, "a picture of")
    full, plans = make_plan(sizes, task, Limits("full"), 48 * GIB), {}
    layers = 42 * sizes.slot
    assert full.phases[DRAWING].device_bytes == (
        sizes.fixed + layers + sizes.working[DRAWING] + sizes.scratch + task.drawing.reserved
    )
    assert f"{in_words(sizes.working[DRAWING] + sizes.scratch)} of it to make one layer ready" in full.explain()
    plans = {mode: make_plan(sizes, task, Limits(mode), 48 * GIB) for mode in ("balanced", "low")}
    assert all(plan.phases[DRAWING].streamed_bytes == layers for plan in plans.values())
    assert plans["low"].device_bytes < plan_8b("low").device_bytes


# LoRAs.


def changed_by(units: Units, lora: Lora, strength: float, fixed: int, stored: int) -> Sizes:
    return Sizes.of(with_changes(units, [(lora, strength)]), config().decoder.num_layers, fixed, stored)


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
    return units_of(model, Weights(model, headers, None)), shapes


def test_a_lora_of_the_8b_models():
    """Of rank 64 on all that draws: 9.7 MB a layer, and one working buffer, which the ring has one buffer less for."""
    units, shapes = units_8b()
    names = [name for name, shape in shapes.items() if ".layers." in name and "_mot_gen" in name and len(shape) == 2]
    plain, lora = sizes_8b(), some_lora(names, shapes, 64, "BF16")
    sizes, off = (changed_by(units, lora, strength, plain.fixed, plain.stored) for strength in (0.7, 0))
    assert off.units == sizes.units and not any(off.working.values())
    assert sizes.units[READING] == plain.units[READING] and not sizes.unpacking(READING)
    assert set(sizes.units[DRAWING]) == {plain.slot + 9_699_328} and sizes.working[DRAWING] == plain.slot
    assert sizes.scratch < 24 * MIB
    task = needs.drawing(config(), SamplingSettings(), PREFIXES, 2, 2, "a picture of")
    for mode in MODES:
        phases = (make_plan(each, task, Limits(mode), 48 * GIB).phases[DRAWING] for each in (sizes, plain))
        ours, others = phases
        assert ours.ring == max(0, others.ring - 1) and ours.resident == others.resident
        more = sizes.unpacking(DRAWING) + (len(ours.resident) + ours.ring) * 9_699_328 - (others.ring > 0) * plain.slot
        assert ours.device_bytes - ours.kept * ours.kept_bytes == (
            others.device_bytes - others.kept * others.kept_bytes + more
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
        for expert in (READING, DRAWING):
            expected, apart = [], [0]
            for unit in units[expert]:
                parts = [part for part in unit.parts if part.stored in names]
                each = [part.shape[0] * rank for part in parts] + [part.shape[1] * rank for part in parts]
                itemsize = 4 if dtype == "F32" else 2
                expected.append(unit.nbytes + sum(-(-size * itemsize // 256) * 256 for size in each))
                apart += [unit.running_bytes] if parts and strength else []
            assert sizes.units[expert] == tuple(expected), seed
            assert sizes.working[expert] == max(apart), seed
        task = needs.drawing(config(), SamplingSettings(), PREFIXES, 2, 2, "a picture of")
        smallest, _ = sizes.smallest(task)
        assert make_plan(sizes, task, Limits(device=smallest), 48 * GIB).device_bytes <= smallest
        with pytest.raises(SettingsError):
            make_plan(sizes, task, Limits(device=smallest - 1), 48 * GIB)


# What users write.

FIRST, SECOND, UNNUMBERED = map(torch.device, ("cuda:0", "cuda:1", "cuda"))


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, {}),
        ("", {}),
        (" Auto ", {}),
        ("13GiB", {0: 13 * GIB}),
        ("13GB", {0: 13 * 10**9}),
        ("500MiB", {0: 500 * MIB}),
        ("0=13GiB,cpu=64GiB", {0: 13 * GIB, "cpu": 64 * GIB}),
        (" 0 = 13GiB , cpu = 64GiB ", {0: 13 * GIB, "cpu": 64 * GIB}),
        ("cpu=64GiB", {"cpu": 64 * GIB}),
        ("0=13GiB,1=7GiB", {0: 13 * GIB, 1: 7 * GIB}),
        ("cuda:0=13GiB,CPU=64GiB", {0: 13 * GIB, "cpu": 64 * GIB}),
        ("CUDA:1=13GiB", {1: 13 * GIB}),
    ],
)
def test_max_memory_is_spelled_as_accelerate_does(text, expected):
    assert parse_max_memory(text) == expected


@pytest.mark.parametrize("text", ["much", "13", "GiB", "0=", "=", "gpu=1GiB", "13GiB,", "0=0GiB", "-1GiB", "cpu=-1GiB"])
def test_max_memory_that_cannot_be_read(text):
    with pytest.raises(SettingsError, match=r"max_memory.*such as 13GiB"):
        parse_max_memory(text)


@pytest.mark.parametrize("text", ["13G", "13", "13Gi", "0=13G"])
def test_a_size_without_a_known_unit_is_told_which_there_are(text):
    with pytest.raises(SettingsError, match=r"cannot read.*Units are GiB, MiB and KiB \(of 1024\), GB, MB and KB"):
        parse_max_memory(text)


@pytest.mark.parametrize(
    "text, device", [("0=1GiB,0=2GiB", 0), ("13GiB,cuda:0=1GiB", 0), ("cpu=1GiB,CPU=1GiB", "cpu"), ("1GiB,2GiB", 0)]
)
def test_max_memory_names_a_device_once(text, device):
    with pytest.raises(SettingsError, match=f"gives device {device} two sizes; leave one out"):
        parse_max_memory(text)


def test_help_lists_the_units_of_sizes(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert UNITS in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("value", [13, 13.0, {"0": "13GiB"}])
def test_max_memory_that_is_no_text(value):
    with pytest.raises(SettingsError, match=r"max_memory is .*such as 13GiB"):
        parse_max_memory(value)


@pytest.mark.parametrize(
    "text, device, expected",
    [
        ("auto", FIRST, (None, None)),
        ("13GiB", FIRST, (13 * GIB, None)),
        ("13GiB", CPU, (13 * GIB, None)),
        ("13GiB", UNNUMBERED, (13 * GIB, None)),
        ("13GiB", SECOND, (13 * GIB, None)),  # a size alone is for the device the model runs on
        ("0=13GiB,cpu=64GiB", FIRST, (13 * GIB, 64 * GIB)),
        ("cuda:1=7GiB", SECOND, (7 * GIB, None)),
        ("7GiB,cpu=1GiB", SECOND, (7 * GIB, GIB)),
        ("1=7GiB,cpu=1GiB", SECOND, (7 * GIB, GIB)),
        ("cpu=64GiB", SECOND, (None, 64 * GIB)),
    ],
)
def test_limits_are_those_of_the_device(text, device, expected):
    limits = limits_of("balanced", text, device)
    assert (limits.device, limits.host) == expected
    assert limits.mode == "balanced" and limits.weights is None


@pytest.mark.parametrize("text, device, missing", [("0=13GiB", SECOND, "1="), ("1=7GiB,cpu=1GiB", FIRST, "0=")])
def test_a_device_that_is_not_named_is_asked_for(text, device, missing):
    with pytest.raises(SettingsError, match=f"says nothing of device {missing[0]}.*add {missing}"):
        limits_of("auto", text, device)


@pytest.mark.parametrize(
    "text, device, other", [("0=13GiB,1=7GiB", FIRST, 1), ("0=13GiB,1=7GiB", SECOND, 0), ("7GiB,2=1GiB", UNNUMBERED, 2)]
)
def test_a_device_that_is_not_used_is_refused(text, device, other):
    with pytest.raises(SettingsError, match=f"gives device {other} a size.*alone; leave {other}= out"):
        limits_of("auto", text, device)


def test_an_unknown_mode_is_refused():
    with pytest.raises(SettingsError, match="vram_mode 'tiny' is unknown; choose one of auto, full, balanced, low"):
        limits_of("tiny", None, CPU)


def test_two_gibibytes_of_system_memory_are_left_to_others():
    assert Limits().pinned(10 * GIB) == 8 * GIB
    assert Limits(host=3 * GIB).pinned(10 * GIB) == 3 * GIB
    assert Limits(host=30 * GIB).pinned(10 * GIB) == 8 * GIB
    assert Limits().pinned(GIB) == Limits(host=GIB).pinned(GIB) == 0


def test_what_a_mode_asks_for():
    for case in CASES[:50]:
        wanted = {mode: case.sizes.wanted(mode) for mode in MODES}
        fixed, slot = case.sizes.fixed + max(map(case.sizes.unpacking, case.sizes.units)), case.sizes.slot
        largest = max(len(units) * max(units) for units in case.sizes.units.values())
        assert wanted["auto"] == wanted["full"] == fixed + largest
        assert wanted["low"] <= wanted["balanced"] <= fixed + 3 * slot


def test_reading_once_has_no_weights_to_keep_and_lets_the_other_expert_stay():
    """Between two prompts: what the next picture needs is not thrown away for a single pass."""
    phase: Phase = plan_8b("auto", 20).phases[READING]
    assert (phase.name, phase.resident, phase.ring, phase.kept) == ("reading", (), 3, 42)


@pytest.mark.parametrize(
    "size, words",
    [
        (0, "0.00 GiB"),
        (1, "0.00 MiB"),
        (1_900_000, "1.81 MiB"),
        (102 * MIB, "102.00 MiB"),
        (103 * MIB, "0.10 GiB"),
        (13 * GIB, "13.00 GiB"),
    ],
)
def test_small_amounts_are_in_mebibytes(size, words):
    assert in_words(size) == words


def test_amounts_can_be_rounded_up():
    assert in_words(MIB + 1, ceil) == "1.01 MiB" and in_words(13 * GIB + 1, ceil) == "13.01 GiB"


def test_a_size_in_small_letters_is_of_bytes():
    """The library that reads sizes takes a small b for bits."""
    assert parse_max_memory("13gb") == parse_max_memory("13GB") == {0: 13 * 10**9}
    assert parse_max_memory("0=13gib,cpu=2mib") == {0: 13 * GIB, "cpu": 2 * MIB}
