"""The benchmarks run, and write what they say they write."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "text_to_image": ["--geometry", "tiny", "--width", "64", "--height", "64", "--steps", "3"],
    "simulation": ["--geometry", "tiny", "--width", "64", "--height", "64", "--copy-gb", "1", "--tflops", "1"],
    "document": ["--geometry", "tiny", "--width", "64", "--height", "64", "--images", "3"],
    "lora": ["--geometry", "tiny", "--tokens", "1", "9", "--rank", "2", "--seconds", "0"],
    "experts": ["--sizes", "16x8", "--experts", "4", "--tokens", "9", "--seconds", "0"],
}


ALONE = "document"  # in a process of its own, as all are started; the others spare themselves importing torch


@pytest.fixture(params=SMALL)
def result(request, tmp_path, monkeypatch) -> tuple[str, dict]:
    script, output = ROOT / "benchmarks" / f"{request.param}.py", tmp_path / "result.json"
    command = [str(script), *SMALL[request.param], "--output", str(output)]
    if request.param == ALONE:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment, cwd=tmp_path)
    else:
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.syspath_prepend(str(script.parent))
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(script), run_name="__main__")
    return request.param, json.loads(output.read_text())


def test_a_benchmark_writes_machine_run_and_figures(result):
    name, written = result
    assert {"date", "device", "torch", "cores"} <= set(written["machine"]) and written["run"].get(
        "geometry", "tiny"
    ) == "tiny"
    if name == "text_to_image":
        figures = written["figures"]
        assert figures["image_tokens"] == 4 and figures["branches"] == 2 and figures["image_s"] > figures["step_s"] > 0
    elif name == "simulation":
        rows = {row["setting"]: row for row in written["rows"]}
        assert list(rows) == ["full", "27GiB", "20GiB", "13GiB", "9GiB", "7GiB", "balanced", "low"]
        assert rows["full"]["streamed"] == 0 < rows["low"]["streamed"] and written["predicted"]
    elif name == "lora":
        one, more = written["rows"]
        assert (one["tokens"], more["tokens"]) == (1, 9)
        assert one["merged_ratio"] == pytest.approx(one["merged_ms"] / one["products_ms"])
    elif name == "experts":
        (row,) = written["rows"]
        assert row["tokens"] == 9 and row["difference"] < 1e-5
        assert row["plain_ratio"] == pytest.approx(row["plain_ms"] / row["grouped_ms"])
    else:
        rows = written["rows"]
        beyond = [row["tensors_mib"] - row["buffers_mib"] for row in rows]
        assert len(rows) == 4 and beyond[1] == pytest.approx(beyond[3], abs=0.01)


def test_flops_of_the_8b_geometry_are_those_on_paper(monkeypatch):
    """One branch with a prefix of 400 at 2048 x 2048: 66.4 TFLOP in linear layers, 12.7 in attention, and the head."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from geometry import model_config, step_flops

    from sensenova_core.model import SenseNovaU1

    model = SenseNovaU1.on_meta(model_config("u1-8b"))
    assert step_flops(model, 4096, [400], 1) / 1e12 == pytest.approx(79.3, rel=0.005)
