"""The benchmark of modes and budgets, the checkpoints it writes, and the simulation that stands in for cards."""

import importlib
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sensenova_core
from sensenova_core.checkpoint.checkpoint import read_config_json
from sensenova_core.memory import Limits, Plan, Task, Work, make_plan
from sensenova_core.model import GENERATION
from sensenova_core.model.config import ModelConfig
from tests.support.each import each

ROOT = Path(__file__).parents[2]
GIB = 2**30
LAYERS, STEPS = 12, 5
LAYER_SECONDS = 0.01


@pytest.fixture(scope="module")
def bench():
    """The modules of benchmarks/, which lie beside each other and not in a package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        names = ("cases", "checkpoint", "geometry", "plot", "simulated", "simulation", "targets")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def residency_on(bench):
    """(bytes a second to the card, bytes a second out of files) -> a small model on simulated clocks."""
    config = bench.geometry.model_config("tiny", LAYERS)
    return lambda copy_rate, read_rate=math.inf, stored="BF16": bench.simulated.SimulatedResidency(
        config, copy_rate, read_rate, stored
    )


def plan_of(residency, limits: Limits, free: int = 100 * GIB) -> Plan:
    """No reading; `STEPS` steps with 1000 bytes of activations."""
    return make_plan(
        residency.sizes, Task("a picture", Work(0, 1), drawing=Work(1000, STEPS)), limits, system_free=free
    )


def layer_bytes(residency) -> int:
    return residency.sizes.units[GENERATION][0]


# The simulation: closed forms.


def test_without_streaming_a_picture_takes_its_arithmetic(bench, residency_on):
    residency = residency_on(1e9)
    plan = plan_of(residency, Limits("full"))
    first, second = (bench.simulated.draw(residency, plan, (), LAYER_SECONDS, STEPS) for _ in range(2))
    assert second.seconds == pytest.approx(STEPS * LAYERS * LAYER_SECONDS, rel=1e-9)
    assert second.copied == 0 and second.step.waited == 0 and second.step.hidden == 1
    assert first.copied == LAYERS * layer_bytes(residency)


@pytest.mark.parametrize("mode", ["balanced", "low"])
def test_slow_copies_take_bytes_over_bandwidth(bench, residency_on, mode):
    rate = layer_bytes(residency_on(1.0)) / (3 * LAYER_SECONDS)  # a copy takes three times as long as a layer
    residency = residency_on(rate)
    plan = plan_of(residency, Limits(mode))
    drawn = bench.simulated.draw(residency, plan, (), LAYER_SECONDS, STEPS)
    assert drawn.step.copied == plan.phases[GENERATION].streamed_bytes == LAYERS * layer_bytes(residency)
    assert drawn.step.seconds == pytest.approx(drawn.step.copied / rate, rel=1e-9)
    assert drawn.step.hidden == pytest.approx(1 / 3)  # while a layer computes, a third of the next one's copy
    assert drawn.seconds == pytest.approx(drawn.copied / rate + LAYER_SECONDS, rel=1e-9)


@pytest.mark.parametrize("mode", ["balanced", "low"])
def test_fast_copies_take_no_time_but_the_first(bench, residency_on, mode):
    rate = layer_bytes(residency_on(1.0)) / (0.9 * LAYER_SECONDS)
    residency = residency_on(rate)
    drawn = bench.simulated.draw(residency, plan_of(residency, Limits(mode)), (), LAYER_SECONDS, STEPS)
    assert drawn.seconds == pytest.approx(layer_bytes(residency) / rate + STEPS * LAYERS * LAYER_SECONDS, rel=1e-9)
    assert drawn.step.hidden == 1


@pytest.mark.parametrize("mode, ring", [("balanced", 2), ("low", 1)])
@pytest.mark.parametrize("part", [0.9, 3])
def test_copies_of_packed_layers_hide_behind_computing_with_a_buffer_less(bench, residency_on, mode, ring, part):
    """For a layer computes elsewhere, and its slot is filled meanwhile. part: of a layer's time that a copy takes."""
    size = residency_on(1.0).units[GENERATION][0].running_bytes / 2  # FP8: half of bfloat16
    residency = residency_on(size / (part * LAYER_SECONDS), stored="F8_E4M3")
    plan = plan_of(residency, Limits(mode))
    drawn = bench.simulated.draw(residency, plan, (), LAYER_SECONDS, STEPS)
    assert plan.phases[GENERATION].ring == ring
    assert drawn.step.copied == pytest.approx(LAYERS * size, rel=0.05)
    expected = max(LAYER_SECONDS, drawn.step.copied / LAYERS / residency.transfers.rate)
    assert drawn.step.seconds == pytest.approx(LAYERS * expected, rel=1e-6)


def test_half_the_layers_on_the_card_hide_copies_of_twice_the_time(bench, residency_on):
    rate = layer_bytes(residency_on(1.0)) / (1.9 * LAYER_SECONDS)
    residency = residency_on(rate)
    slots = LAYERS // 2 + 3
    plan = plan_of(residency, Limits(weights=residency.sizes.fixed + slots * residency.sizes.slot))
    drawn = bench.simulated.draw(residency, plan, (), LAYER_SECONDS, STEPS)
    assert len(plan.phases[GENERATION].streamed) == LAYERS // 2
    assert drawn.step.seconds == pytest.approx(LAYERS * LAYER_SECONDS, rel=1e-9) and drawn.step.hidden == 1


def test_what_system_memory_does_not_hold_takes_bytes_over_reading(bench, residency_on):
    read = sum(part.nbytes for part in residency_on(1.0).units[GENERATION][0].parts)  # without the gaps between tensors
    read_rate = read / (3 * LAYER_SECONDS)
    residency = residency_on(100 * read_rate, read_rate)
    plan = plan_of(residency, Limits("balanced", page_locked=0))
    drawn = bench.simulated.draw(residency, plan, (), LAYER_SECONDS, STEPS)
    assert not plan.phases[GENERATION].page_locked
    assert drawn.step.seconds == pytest.approx(LAYERS * read / read_rate, rel=1e-9)


@each("seed", range(40))
def test_nothing_is_faster_than_its_bounds_or_larger_than_its_plan(bench, residency_on, seed):
    choose = random.Random(seed)
    residency = residency_on(10 ** choose.uniform(5, 9), 10 ** choose.uniform(5, 9))
    sizes, mode = residency.sizes, choose.choice(("auto", "full", "balanced", "low"))
    device = choose.randint(sizes.fixed + sizes.slot + 2000, sizes.fixed + 30 * sizes.slot)
    task = Task("a picture", Work(choose.randint(0, 1000), 2), drawing=Work(choose.randint(0, 1000), STEPS))
    free = choose.choice((0, 3 * GIB, 100 * GIB))
    plan = make_plan(
        sizes, task, Limits(mode, device, page_locked=choose.choice((None, 8 * sizes.slot))), system_free=free
    )
    reading, drawing = [choose.uniform(0, 0.01), choose.uniform(0, 0.01)], choose.uniform(0, 0.01)
    for _ in range(2):
        drawn = bench.simulated.draw(residency, plan, reading, drawing, STEPS)
        computing = LAYERS * (sum(reading) + STEPS * drawing)
        assert drawn.seconds >= max(computing, drawn.copied / residency.transfers.rate) * (1 - 1e-9)
        assert drawn.device_bytes <= plan.device_bytes <= device
    phase = plan.phases[GENERATION]
    if (
        phase.device_bytes == plan.device_bytes and not phase.other_expert_units
    ):  # which might be units that no picture needs
        assert drawn.device_bytes == plan.device_bytes
    assert {step.copied for step in drawn.steps[1:-1]} == {phase.streamed_bytes}


def test_the_table_of_cards(bench):
    """A layer's bytes and operations are those on paper; a consumer card streams everything at no cost."""
    simulation = bench.simulation
    picture = simulation.Picture(simulation.SamplingSettings(2048, 2048, 5, simulation.Guidance(4.0)))
    config, card = bench.geometry.model_config("u1-8b"), simulation.CARDS[0]
    settings = dict(simulation.settings_of(card))
    assert list(settings) == ["7GiB", "balanced", "low"]
    row = simulation.simulate(config, picture, card, "balanced", settings["balanced"])
    assert row.step_copied_gb == pytest.approx(16.2, rel=0.005)
    assert row.step_compute_s == pytest.approx(2 * 79.3e12 / card.flops, rel=0.02)
    assert row.step_s == pytest.approx(row.step_compute_s) and row.hidden == 1 and row.ok
    assert "| RTX 4060 8 GB | balanced | 42 | 16.2 |" in simulation.table([row])


# Checkpoints.


def test_a_written_checkpoint_is_the_geometry_in_real_bytes(bench, tmp_path):
    config = bench.geometry.model_config("tiny")
    total = bench.checkpoint.write_checkpoint(tmp_path, config, shard_bytes=100_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert ModelConfig.from_dict(read_config_json(tmp_path)).with_head_width(config.head_width) == config
    assert len(files) > 2 and sum(file.stat().st_size for file in files) > total
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)
    engine = sensenova_core.load(tmp_path)
    assert engine.stored.nbytes == total
    layer = engine.model.generation.decoder.layers[0].mlp
    assert float(layer.gate_proj.weight.float().std()) == pytest.approx(config.decoder.hidden_size**-0.5, rel=0.05)
    assert not torch.equal(layer.gate_proj.weight, layer.up_proj.weight)
    prompt = engine.encode("a small house").sequences["condition"]
    assert 100 < len(prompt.ids) < 1000


@pytest.mark.parametrize("name", ["u1-8b", "u1.5-8b"])
def test_the_config_of_a_geometry_reads_as_that_geometry(bench, name):
    config = bench.geometry.model_config(name, 4)
    raw = bench.checkpoint.raw_config(config)
    assert ModelConfig.from_dict(json.loads(json.dumps(raw))) == config


def test_a_checkpoint_that_does_not_fit_the_disk_is_not_begun(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.checkpoint.shutil, "disk_usage", lambda folder: SimpleNamespace(free=20 * 10**9))
    with pytest.raises(SystemExit, match=r"32\.\d GiB to write .* free; choose another folder or fewer --layers"):
        bench.checkpoint.write_checkpoint(tmp_path, bench.geometry.model_config("u1-8b"))
    assert not list(tmp_path.iterdir())


# The benchmark itself.


def run_memory_modes(folder: Path, *arguments: str) -> dict:
    script, output = ROOT / "benchmarks" / "memory_modes.py", folder / "modes.json"
    size = ["--geometry", "tiny", "--width", "64", "--height", "64", "--steps", "3", "--tokens", "4"]
    command = [sys.executable, str(script), *size, "--reference", "64", *arguments, "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=folder)
    return json.loads(output.read_text())


def test_every_kind_of_case_leaves_its_figures(tmp_path):
    cases = ["full", "balanced", "low", "0=1GiB,cpu=1GiB", "thinking:balanced", "edit:balanced"]
    written = run_memory_modes(tmp_path, "--one-process", "--cases", *cases)
    rows = {row["case"]: row for row in written["rows"]}
    assert list(rows) == cases and not any("error" in row for row in rows.values())
    assert written["rates"]["copy_rate"] > 0 and written["rates"]["flops"] > 0
    assert rows["full"]["copied_gib"] == 0 and rows["full"]["plan"].startswith("in place")
    assert 0 < rows["low"]["weights_gib"] < rows["balanced"]["weights_gib"] < rows["full"]["weights_gib"]
    assert rows["balanced"]["image_s"] > 0 and rows["balanced"]["first_step_s"] > rows["balanced"]["load_s"]
    assert rows["thinking:balanced"]["token_s"] > 0 and "writing" in rows["thinking:balanced"]["plan"]
    assert rows["0=1GiB,cpu=1GiB"]["copied_gib"] == 0  # both experts stay
    if "anon_gib" in rows["low"]:
        assert rows["low"]["rss_gib"] <= rows["low"]["anon_gib"] + rows["low"]["file_gib"] + 0.1
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_case_in_a_process_of_its_own_and_one_that_fails(bench, tmp_path):
    folder = tmp_path / "weights"
    bench.checkpoint.write_checkpoint(folder, bench.geometry.model_config("tiny"))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_memory_modes(tmp_path, "--checkpoint", str(folder), "--cases", "balanced", "10KiB")
    assert b"does not fit in" in failed.value.stdout and failed.value.returncode == 1
    rows = json.loads((tmp_path / "modes.json").read_text())["rows"]
    assert rows[0]["copied_gib"] > 0 and "10KiB" in rows[1]["case"] and "does not fit" in rows[1]["error"]


def test_a_case_that_nobody_knows_is_refused(bench):
    assert bench.cases.Case.named("edit:27GiB") == bench.cases.Case("edit:27GiB", "edit", "auto", "27GiB")
    assert bench.cases.Case.named("low@cpu=8GiB") == bench.cases.Case("low@cpu=8GiB", "picture", "low", "cpu=8GiB")
    with pytest.raises(SystemExit, match="write"):
        bench.cases.Case.named("painting:full")


def figures(case: str, **changed) -> dict:
    """A row as a card might leave it."""
    row = {"case": case, "image_s": 13.0, "copied_gib": 0.0, "limit_flops": 7e15, "token_s": None, "token_gib": 0.0}
    row |= {"allocated_gib": 17.0, "reserved_gib": 17.3, "peak_gib": 6.0, "rss_gib": 6.0, "first_step_s": 4.0}
    return row | changed


def test_targets_are_held_against_figures(bench):
    speed = {"copy_rate": 50e9, "flops": 700e12}
    balanced = figures("balanced", image_s=18.0, copied_gib=810e9 / GIB, allocated_gib=2.7, reserved_gib=4.1)
    thinking = figures("thinking:low", token_s=0.34, token_gib=17.4e9 / GIB)
    rows = {row["case"]: row for row in (figures("full"), balanced, thinking, figures("edit:full", allocated_gib=19.5))}

    def missed(case: str, budget: int | None = None) -> list[str]:
        return [check.what for check in bench.targets.checks(rows[case], rows, speed, budget) if not check.ok]

    assert missed("full") == [] and missed("thinking:low") == []
    assert missed("balanced") == ["s", "GiB reserved"]  # 17.8 s allowed, and 4 GiB
    assert missed("edit:full") == ["GiB allocated"]
    assert missed("thinking:low", budget=16 * GIB) == ["GiB reserved"]


def test_the_plot_is_a_picture(bench, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plot")
    file = tmp_path / "plot.png"
    series = {"measured": {"full": (17.0, 12.0), "low": (2.4, 19.0)}, "targets": {"low": (2.5, 21.0)}, "none": {}}
    assert bench.plot.plot(series, "a card", file) == str(file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_so(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert bench.plot.plot({}, "", tmp_path / "plot.png") == bench.plot.MISSING


# Simulation and card side by side.


def measured_step(folder: Path, mode: str, side: int, steps: int = 12) -> tuple[float, Plan]:
    """Seconds of a step once everything is under way, and the plan."""
    engine = sensenova_core.load(folder, device="cuda", vram_mode=mode)
    drawn = engine.sample(engine.encode("a small house"), width=side, height=side, steps=steps)
    times = []
    for step in drawn:
        if step.index in (1, steps - 2):  # the last one fetches nothing for the next
            torch.cuda.synchronize()
            times.append(time.perf_counter())
    plan = engine.memory.last_plan
    engine.release()
    return (times[1] - times[0]) / (steps - 3), plan


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card to measure")
@pytest.mark.parametrize("side", [1024, 2048])
def test_a_card_takes_what_the_simulation_predicts(bench, tmp_path, side):
    """The rate of the bus and the time of a resident layer are measured; what streaming makes of them is predicted."""
    config = bench.geometry.model_config("u1-8b", 6)
    bench.checkpoint.write_checkpoint(tmp_path, config)
    full, _ = measured_step(tmp_path, "full", side)
    rate = bench.cases.rates(torch.device("cuda"), torch.bfloat16)["copy_rate"]
    for mode in ("balanced", "low"):
        taken, plan = measured_step(tmp_path, mode, side)
        residency = bench.simulated.SimulatedResidency(config, rate, math.inf)
        drawn = bench.simulated.draw(residency, plan, [0.0] * 2, full / config.decoder.num_layers, 12)
        assert taken == pytest.approx(drawn.step.seconds, rel=0.2), mode
