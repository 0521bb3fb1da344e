"""Page-locked memory: as many units as are planned, none of them read twice, all given back, of any type."""

import gc
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import sensenova_core
from sensenova_core import CheckpointError, Engine, SamplingSettings
from sensenova_core.memory import plan as plans
from sensenova_core.memory.budget import SYSTEM_RESERVE
from sensenova_core.memory.page_locked import PageLockedStore
from sensenova_core.memory.slots import Slot
from sensenova_core.memory.transfers import Transfers
from sensenova_core.memory.units import Part, Unit
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.support.geometries import geometry, short, write_checkpoint
from tests.support.streaming import draw_short, phase

GIB = 2**30


def pins(monkeypatch, refused: Callable[[int], bool] = lambda count: False) -> list[tuple[str, int]]:
    """What is page-locked, and given back, by address. refused: whether the lock of that number is refused."""
    seen: list[tuple[str, int]] = []

    def pin(self, buffer) -> bool:
        if refused(len([entry for entry in seen if entry[0] == "pin"])):
            return False
        seen.append(("pin", buffer.data_ptr()))
        return True

    monkeypatch.setattr(Transfers, "pin", pin)
    monkeypatch.setattr(Transfers, "unpin", lambda self, buffer: seen.append(("unpin", buffer.data_ptr())))
    return seen


def locked(seen: list[tuple[str, int]]) -> int:
    return sum({"pin": 1, "unpin": -1}[what] for what, _ in seen)


def host_of(engine: Engine, units: int) -> None:
    """System memory to keep so many units in."""
    limits = replace(engine.memory.limits, page_locked=(units + plans.STAGING) * engine.memory.sizes.slot)
    engine.memory.limits = limits


@pytest.mark.parametrize("units", [1, 4, 99])
def test_as_many_units_are_page_locked_as_are_planned(load, monkeypatch, units):
    seen = pins(monkeypatch)
    engine = load("dense", "balanced")
    host_of(engine, units)
    draw_short(engine)
    layers = engine.config.decoder.num_layers
    assert locked(seen) == len(phase(engine).page_locked) == min(units, layers)
    assert engine.memory.residency.store.nbytes == min(units, layers) * engine.memory.sizes.slot
    engine.release()
    assert locked(seen) == 0
    assert {entry for what, entry in seen if what == "pin"} == {entry for what, entry in seen if what == "unpin"}


def test_units_that_are_kept_are_not_read_again(load, monkeypatch):
    engine = load("dense", "balanced")
    host_of(engine, 4)
    draw_short(engine)
    reads: list = []
    real = engine.stored.read
    monkeypatch.setattr(engine.stored, "read", lambda name, *rest: reads.append(name) or real(name, *rest))
    draw_short(engine, steps=3, seed=6)
    kept = {
        part.name
        for index in phase(engine).page_locked
        for part in engine.memory.residency.units[GENERATION][index].parts
    }
    others = {part.name for unit in engine.memory.residency.units[GENERATION] for part in unit.parts} - kept
    assert len(phase(engine).page_locked) == 4 and len(kept) == 4 * len(
        engine.memory.residency.units[GENERATION][0].parts
    )
    assert {reads.count(name) for name in kept} == {0} and {reads.count(name) for name in others} == {3}


def test_a_run_that_keeps_fewer_gives_back_the_others(load, monkeypatch):
    seen = pins(monkeypatch)
    engine = load("dense", "balanced")
    for units in (6, 2, 4):
        host_of(engine, units)
        first = draw_short(engine)
        assert locked(seen) == units
    assert torch.equal(first, draw_short(load("dense")))


@pytest.mark.parametrize("after", [0, 3])
def test_page_locking_that_is_refused_is_said_once_and_changes_nothing(load, monkeypatch, caplog, after):
    pins(monkeypatch, refused=lambda count: count >= after)
    engine = load("dense", "balanced")
    host_of(engine, 99)
    with caplog.at_level(logging.WARNING):
        result = draw_short(engine)
        draw_short(engine, "another")
    assert [record.message for record in caplog.records if "page-locked" in record.message] == [
        "weights are copied from memory that is not page-locked; copies will not hide behind computing"
    ]
    engine.release()
    monkeypatch.undo()
    monkeypatch.setattr("sensenova_core.reading.prompt.system_message", lambda kind: kind)
    assert torch.equal(result, draw_short(load("dense")))


def test_a_read_that_fails_leaves_nothing_page_locked(tmp_path, monkeypatch):
    seen = pins(monkeypatch)
    engine = sensenova_core.load(write_checkpoint(tmp_path, geometry(0)), vram_mode="balanced")
    host_of(engine, 2)
    draw_short(engine)
    assert locked(seen) == 2
    host_of(engine, 99)
    vanish = (tmp_path / "model.safetensors").unlink
    monkeypatch.setattr(engine.stored, "check_unchanged", vanish)  # when the run has begun
    with pytest.raises(CheckpointError):
        draw_short(engine)
    assert locked(seen) > 2
    engine.release()
    gc.collect()  # errors know the frames that held a buffer
    assert locked(seen) == 0


def test_what_a_plan_for_the_cpu_page_locks_is_what_is_asked_for(load):
    """Its files' pages are in system memory as they are."""
    engine = load("dense", "balanced")
    draw_short(engine)
    assert phase(engine).page_locked == () and engine.memory.residency.store.nbytes == 0
    task = engine.drawing_task(short(engine, "x"), SamplingSettings(64, 64, 2))
    engine.memory.limits = replace(engine.memory.limits, page_locked=GIB)
    assert engine.plan(task, system_free=SYSTEM_RESERVE).phases[GENERATION].page_locked == ()
    assert (
        len(engine.plan(task, system_free=8 * GIB).phases[GENERATION].page_locked) == engine.config.decoder.num_layers
    )


# Units of other types.

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


class Bytes:
    """Stored tensors of any type, as `Weights.read` gives them."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.tensors = tensors

    def read(self, name: str, into: torch.Tensor, first_row: int = 0) -> list:
        stored = self.tensors[name][first_row : first_row + len(into)]
        into.view(torch.uint8).copy_(stored.view(torch.uint8))
        return []


def fp8_units(count: int) -> tuple[tuple[Unit, ...], Bytes]:
    """Layers of a matrix of 8 bits a number, a scale of 32, and biases of 16."""
    shapes = {"weight": ((24, 20), FP8[0]), "scale": ((1,), torch.float32), "bias": ((24,), torch.bfloat16)}
    shapes["other"] = ((3, 5), FP8[1])
    template, units, stored = nn.Module(), [], {}
    for leaf, (shape, dtype) in shapes.items():
        template.register_parameter(
            leaf, nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
        )
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        parts, start = [], 0
        for leaf, (shape, dtype) in shapes.items():
            parts.append(Part(leaf, f"{index}.{leaf}", dtype=dtype, shape=shape, lies_at=start, runs_at=start))
            start += -(-parts[-1].nbytes // 256) * 256
            raw = torch.randint(0, 256, (*shape[:-1], shape[-1] * dtype.itemsize), generator=generator)
            stored[parts[-1].name] = raw.to(torch.uint8).view(dtype)
        units.append(Unit(GENERATION, index, tuple(parts), template))
    return tuple(units), Bytes(stored)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("kept", [(), (0, 2), (0, 1, 2, 3)])
def test_units_of_fp8_arrive_bit_for_bit(direct, kept):
    units, weights = fp8_units(4)
    sizes = plans.Sizes({UNDERSTANDING: (256,), GENERATION: tuple(unit.nbytes for unit in units)}, 0, 0, 0)
    slot = sizes.slot_of(GENERATION)
    store = PageLockedStore(weights, {GENERATION: units}, sizes, transfers=Transfers(), direct=direct)
    store.keep(frozenset((GENERATION, index) for index in kept))
    buffer = Slot(slot, torch.device("cpu"), Transfers())
    for _ in range(3):
        for index, unit in enumerate(units):
            buffer.buffer.fill_(0xAA)
            store.send((GENERATION, index), buffer.buffer, None)
            module = buffer.module(unit, lambda part: part.of(buffer.buffer))
            for part in unit.parts:
                value = getattr(module, part.leaf)
                assert (value.dtype, value.shape) == (part.dtype, part.shape)
                assert torch.equal(value.view(torch.uint8), weights.tensors[part.name].view(torch.uint8))
    assert len(store.kept) == len(kept)
    assert store.nbytes == (len(kept) + (0 if direct or len(kept) == 4 else plans.STAGING)) * slot
    store.release()
    assert store.nbytes == 0
