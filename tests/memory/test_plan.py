"""Plans are arithmetic: what they promise holds for hundreds of geometries, budgets, modes and tasks."""

import random
import re
from dataclasses import dataclass, replace
from math import ceil

import pytest

from sensenova_core import SettingsError
from sensenova_core.memory import (
    Limits,
    Plan,
    Sizes,
    Task,
    Work,
    make_plan,
)
from sensenova_core.memory.budget import SYSTEM_RESERVE, in_words, parse_max_memory
from sensenova_core.memory.plan import RING, STAGING
from sensenova_core.memory.plan_text import explained, mode_of
from sensenova_core.model import GENERATION, UNDERSTANDING
from sensenova_core.settings import VRAM_MODES

MIB, GIB = 2**20, 2**30
MUCH = 2**60


@dataclass(frozen=True)
class Case:
    """One random question to the planner."""

    seed: int
    sizes: Sizes
    task: Task
    limits: Limits
    system_free: int

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
        return sum(len(units) * self.sizes.slot_of(expert) for expert, units in self.sizes.units.items())

    def room(self, expert: str) -> int:
        """Bytes for buffers beside everything else in an expert's phase."""
        limits, room, slot = self.limits, self.everything, self.sizes.slot_of(expert)
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
        return make_plan(self.sizes, self.task, replace(self.limits, **limits), system_free=self.system_free)


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
        {UNDERSTANDING: reading + (draw.choice(reading),) * pieces, GENERATION: drawing},
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
    locked = draw.choice([None, 0, draw.randint(0, 80) * largest])
    limits = Limits(draw.choice(VRAM_MODES), page_locked=locked)
    made = Case(
        seed,
        sizes,
        task,
        limits,
        draw.randint(0, 120) * largest + SYSTEM_RESERVE,
    )
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
    assert len(seen) == len(VRAM_MODES) * 2 * 3
    mixed = [phase for _, _, _, phase in PHASES if phase.resident and phase.streamed]
    assert len(mixed) > 50 and any(
        phase.page_locked and len(phase.page_locked) < len(phase.streamed) for phase in mixed
    )
    assert any(phase.other_expert_units for _, _, _, phase in PHASES)
    assert any("both experts stay" in mode_of(plan) for _, plan in PLANS)


def test_never_above_the_budget():
    for case, plan in PLANS:
        if case.limits.device is not None:
            assert plan.device_bytes <= case.limits.device, case
        for expert, phase in plan.phases.items():
            work, sizes = case.task.works[expert], case.sizes
            other = sizes.slot_of(UNDERSTANDING if expert == GENERATION else GENERATION)
            own = len(phase.resident) + phase.ring
            assert phase.buffer_bytes == own * sizes.slot_of(expert) + phase.other_expert_units * other
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
        assert phase.slots == len(phase.resident) + phase.ring + phase.other_expert_units
        assert 0 <= phase.other_expert_units <= case.units - len(case.sizes.units[expert])
        assert not (phase.other_expert_units and phase.streamed and phase.name != "reading"), (
            "what streams has no room to spare"
        )


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
        places = [phase.streamed.index(index) for index in phase.page_locked]
        check_even(places, len(phase.streamed), case)


def check_even(indexes, count: int, case: Case) -> None:
    for this, following in zip(indexes, [*indexes[1:], (indexes or [0])[0] + count], strict=False):
        assert count // len(indexes) <= following - this <= ceil(count / len(indexes)), case


def test_page_locked_is_what_streams_again_and_again():
    for case, plan in PLANS:
        allowed = case.limits.page_lockable(case.system_free)
        assert allowed <= max(0, case.system_free - SYSTEM_RESERVE)
        assert plan.staging == STAGING * case.sizes.slot
        assert plan.page_locked_bytes <= max(allowed, plan.staging), case
        for expert, phase in plan.phases.items():
            again = phase.name != "reading" and case.task.works[expert].passes != 1
            most = max(0, (allowed - plan.staging) // phase.slot_bytes) if again else 0
            assert set(phase.page_locked) <= set(phase.streamed)
            assert len(phase.page_locked) == len(set(phase.page_locked)) == min(most, len(phase.streamed)), case


def test_more_memory_never_streams_more():
    for case in CASES[::10]:
        budgets = [case.smallest + step * case.sizes.slot // 2 for step in range(2 * case.units + 8)] + [None]
        for mode in VRAM_MODES:
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
        assert "both experts stay" in mode_of(auto)
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
        assert "both" in mode_of(case.plan(**free, device=enough))
        assert "both" not in mode_of(case.plan(**free, device=enough - 1))


def test_the_same_question_gets_the_same_plan():
    for seed in range(50):
        assert case(seed).plan() == case(seed).plan()


def test_what_a_mode_asks_for():
    for case in CASES[:50]:
        wanted = {mode: case.sizes.wanted(mode) for mode in VRAM_MODES}
        fixed, slot = case.sizes.fixed + max(map(case.sizes.unpacking, case.sizes.units)), case.sizes.slot
        largest = max(len(units) * case.sizes.slot_of(expert) for expert, units in case.sizes.units.items())
        assert wanted["auto"] == wanted["full"] == fixed + largest
        assert wanted["low"] <= wanted["balanced"] <= fixed + 3 * slot


def test_a_plan_explains_itself():
    for case, plan in PLANS:
        rows = dict(re.split(r"\s+: ", line, maxsplit=1) for line in explained(plan).splitlines())
        assert set(rows) == {"task", "mode", "device", "system", *(phase.name for phase in plan.phases.values())}
        assert rows["task"] == case.task.name and rows["mode"].startswith(case.limits.mode)
        unpacking = any(phase.unpacking_bytes for phase in plan.phases.values())
        assert rows["device"].startswith(f"{in_words(plan.device_bytes)} at most")
        assert ("to make one layer ready at a time" in rows["device"]) == unpacking
        assert f"{in_words(plan.system_free)} free" in rows["system"]
        if case.limits.device is not None:
            assert f"{in_words(case.limits.device)} to use" in rows["mode"]
        for phase in plan.phases.values():
            told, streamed = rows[phase.name], len(phase.streamed)
            total = len(phase.unit_bytes)
            expected = f"{streamed} of {total} parts stream" if streamed else f"all {total} parts stay"
            assert expected in told, case
            again = phase.name != "reading" and phase.passes != 1
            slow = again and len(phase.page_locked) < streamed and case.limits.page_locked != 0
            assert ("slower" in told) == bool(slow), case
            assert ("s a token" in told) == (bool(streamed) and phase.name == "writing")
