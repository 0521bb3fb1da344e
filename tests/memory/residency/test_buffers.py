"""Layers that stream: no more buffers and device memory than planned, all given back when it is asked for."""

import random
import weakref
from types import SimpleNamespace

import pytest
import torch

import sensenova_core
from sensenova_core import SamplingSettings
from sensenova_core.memory import plan as plans
from sensenova_core.memory.allocator import libraries
from sensenova_core.memory.plan_text import mode_of
from sensenova_core.memory.slots import Slots
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.support.geometries import scaled_down, short, write_checkpoint
from tests.support.peak import PeakBytes
from tests.support.streaming import draw_short, peaks_of_two_runs, phase, story, watch_attention

GIB = 2**30


class Buffers:
    """Counts the bytes of all buffers there are, until nothing holds them: neither a slot nor a module on one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = self.most = 0
        real = Slots.new

        def new_slot(slots, size):
            slot = real(slots, size)
            self._add(slot.buffer.untyped_storage())
            return slot

        monkeypatch.setattr(Slots, "new", new_slot)

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.now -= size


@pytest.mark.parametrize("mode, slots", [("balanced", None), ("low", None), ("auto", 1), ("full", 6)])
@pytest.mark.parametrize("name", ["dense", "experts"])
def test_never_more_buffers_than_planned(load, monkeypatch, name, mode, slots):
    buffers = Buffers(monkeypatch)
    engine = load(name, mode, slots, max_memory="64GiB")
    residency, planned = engine.memory.residency, []

    def look(causal: bool) -> None:
        expert, slots = residency.passes.expert, residency.slots
        current = phase(engine, expert)
        passing = [key for key in slots.of if key[0] == expert and not residency._stays(key)]
        assert len(passing) <= current.ring + (expert == UNDERSTANDING) * current.other_expert_units
        assert len(slots.of) + len(slots.free) <= current.slots
        assert buffers.now <= current.buffer_bytes
        planned.append(current.buffer_bytes)

    watch_attention(engine, look)
    story(engine)
    assert 0 < buffers.most <= max(planned)
    assert residency.most_bytes <= engine.memory.sizes.fixed + max(planned)
    engine.release()
    assert buffers.now == 0


@pytest.mark.parametrize("mode, slots", [("balanced", None), ("auto", 6), ("full", 20)])
def test_ten_runs_end_where_the_first_did(load, mode, slots):
    engine = load("dense", mode, slots, max_memory="0=64GiB,cpu=1GiB")
    held = []
    with PeakBytes("cpu") as peak:
        for seed in range(10):
            draw_short(engine, seed=seed)
            held.append((engine.memory.residency.nbytes, engine.memory.residency.store.nbytes, peak.now))
    assert len(set(held)) == 1


@pytest.mark.parametrize(
    "settings", [{}, {"max_memory": "0=64GiB,cpu=1GiB"}, {"vram_mode": "auto", "slots": 6}], ids=str
)
def test_release_gives_back_everything_and_the_next_run_works(load, settings):
    engine = load(**{"max_memory": "64GiB"} | settings)
    residency = engine.memory.residency
    for _ in range(2):
        first = draw_short(engine)
        assert residency.nbytes > engine.memory.sizes.fixed
        assert (residency.store.nbytes > 0) == ("cpu=" in settings.get("max_memory", ""))
        engine.release()
        assert (residency.nbytes, residency.store.nbytes, engine.remembered.nbytes) == (0, 0, 0)
        assert {value.device.type for value in engine.model.parameters()} == {"meta"}
    assert torch.equal(draw_short(engine), first)


def test_nothing_is_left_of_tensors_after_a_release(load):
    with PeakBytes("cpu") as peak:
        engine = load("dense", "auto", 6, max_memory="64GiB", place=False)
        before = peak.now
        draw_short(engine)
        assert peak.now - before > 6 * engine.memory.sizes.slot
        engine.release()
        assert peak.now == before


def test_shrinking_gives_back_as_much_as_is_asked_for(load):
    engine = load("dense", "auto", 8, max_memory="64GiB")
    expected = draw_short(engine)
    residency, slot = engine.memory.residency, engine.memory.sizes.slot
    before = residency.nbytes
    for asked, given in ((0, 0), (1, slot), (slot, slot), (slot + 1, 2 * slot), (100 * slot, 4 * slot)):
        assert residency.shrink(asked) == given
    assert residency.nbytes == before - 8 * slot == engine.memory.sizes.fixed
    assert torch.equal(draw_short(engine), expected)
    assert residency.nbytes == before


def test_what_can_be_asked_before_a_run(load):
    engine = load("dense", "auto", max_memory="64GiB")
    task = engine.drawing_task(short(engine, "x"), SamplingSettings(64, 64, 2))
    beside = engine.memory.sizes.fixed + task.drawing.reserved + libraries(None)
    small = engine.plan(task, card=beside + 2 * engine.memory.sizes.slot)
    assert len(small.phases[GENERATION].streamed) == engine.config.decoder.num_layers
    assert "both experts stay" in mode_of(engine.plan(task))
    assert SimpleNamespace(**vars(engine.memory.limits)).device == 64 * GIB, "asking changes nothing"


# The simulated device.


def test_device_memory_stays_within_the_budget(tmp_path, monkeypatch):
    """Tensors are counted, and not what an allocator would reserve for them. 200 runs."""
    monkeypatch.setattr(plans, "FRAGMENTATION", 1.0)
    over, runs = [], 0
    for seed in range(20):
        draw = random.Random(seed)
        engine = sensenova_core.load(
            write_checkpoint(tmp_path / str(seed), scaled_down(seed)), max_memory="1GiB", place=False
        )
        for _ in range(5):
            for run, (plan, most) in enumerate(peaks_of_two_runs(engine, draw)):
                runs += 1
                assert plan.device_bytes <= plan.limits.device
                if most > plan.limits.device:
                    over.append((seed, run, most / plan.limits.device))
        engine.release()
    assert runs == 200 and not over, over
