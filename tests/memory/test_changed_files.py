"""Files that change while a run goes on: the right picture or an error in words, and never a dead process."""

import json
import os
import subprocess
import sys

import pytest
import torch

import sensenova_core
from sensenova_core import CheckpointError
from tests.conftest import REPOSITORY
from tests.support.geometries import geometry, short, write_checkpoint
from tests.support.loras import matrices, write_lora
from tests.support.streaming import draw_short

MODES = {
    "in place": {"vram_mode": "auto"},
    "cast": {"vram_mode": "full", "dtype": "bfloat16"},
    "balanced": {"vram_mode": "balanced"},
    "low": {"vram_mode": "low"},
    "kept": {"vram_mode": "balanced", "max_memory": "0=64GiB,cpu=1GiB"},
    "resident": {"vram_mode": "auto", "max_memory": "64GiB"},
}
CHANGES = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 3),
    "emptied": lambda file: os.truncate(file, 0),
    "replaced": lambda file: (file.rename(file.with_suffix(".old")), file.write_bytes(bytes(kept(file)))),
    "overwritten": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "patched": lambda file: patch(file, file.stat().st_size // 2),
    "deleted": lambda file: file.unlink(),
    "longer": lambda file: patch(file, file.stat().st_size),
}
# One process for all changes of a mode: had any of them ended it, the others would be missing.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from tests.memory.test_changed_files import all_changes
torch.set_num_threads(1)
print(json.dumps(all_changes(Path(sys.argv[1]), json.loads(sys.argv[2]))))
"""


def kept(file) -> int:
    return file.with_suffix(".old").stat().st_size


def patch(file, at: int) -> None:
    with open(file, "r+b") as stream:
        stream.seek(at)
        stream.write(b"\\x7f" * 4096)


def all_changes(folder, mode: dict) -> list[tuple[str, str, str]]:
    """(change, when, what became of the run) of each: in the middle of a pass, and between two steps."""
    file, told = folder / "model.safetensors", []
    content = file.read_bytes()
    right = draw_short(sensenova_core.load(folder, **mode))
    for name, change in CHANGES.items():
        for when in ("drawing", "between", *["reading"] * (name in ("truncated", "patched"))):
            engine = sensenova_core.load(folder, **mode)
            told.append((name, when, changed_once(engine, change, when, right)))
            told.append((name, "next", outcome(lambda engine=engine: draw_short(engine), right)))
            file.unlink(missing_ok=True)
            file.write_bytes(content)
    engine = sensenova_core.load(folder, **mode)
    return [*told, ("", "anew", outcome(lambda: draw_short(engine), right))]


def changed_once(engine, change, when: str, right) -> str:
    file, real, done = engine.path / "model.safetensors", engine._kernel, []

    def kernel(query, key, value, *, causal):
        if not done and causal == (when == "reading"):
            done.append(change(file))
        return real(query, key, value, causal=causal)

    if when != "between":
        engine._kernel = engine.reader.kernel = kernel

    def draw():
        run = engine.sample(short(engine, "x"), width=64, height=64, seed=5, steps=2)
        next(run)
        if when == "between":
            change(file)
        *_, step = run
        return step.pixels()

    return outcome(draw, right)


def outcome(draw, right) -> str:
    try:
        return "right" if torch.equal(draw(), right) else "WRONG"
    except CheckpointError as error:
        return "refused" if "model.safetensors" in str(error) else str(error)


@pytest.mark.parametrize("mode", MODES)
def test_whatever_happens_to_a_file_during_a_run(tmp_path, mode):
    config = geometry(0)  # with large layers, so that pages of them are still unread when the file shrinks
    config["llm_config"] |= {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 1024}
    write_checkpoint(tmp_path, config)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(MODES[mode])]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) == 4 * len(CHANGES) + 5
    for change, when, became in told:
        expected = {"next": ["refused"], "anew": ["right"]}.get(when, ["right", "refused"])
        assert became in expected, (change, when, became)
    if mode == "in place":  # what is mapped may be another content, but another file by its name is no matter
        during = {(change, when): became for change, when, became in told}
        assert all(during[change, "drawing"] == "right" for change in ("replaced", "deleted"))
        assert all(during[change, "drawing"] == "refused" for change in ("truncated", "emptied", "overwritten"))


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_as_it_was_again_is_mapped_anew(tmp_path, mode):
    """Also its time: pages that were missing meanwhile must not stay empty."""
    engine = sensenova_core.load(write_checkpoint(tmp_path, geometry(0)), **MODES[mode])
    file, expected = tmp_path / "model.safetensors", draw_short(engine)
    content, times = file.read_bytes(), file.stat()
    os.truncate(file, 0)
    with pytest.raises(CheckpointError, match="was changed or removed after it was loaded; load it again"):
        draw_short(engine)
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert torch.equal(draw_short(engine), expected)


@pytest.mark.parametrize("mode", ["in place", "balanced"])
def test_a_lora_that_is_no_longer_used_may_go(tmp_path, mode):
    engine = sensenova_core.load(write_checkpoint(tmp_path, geometry(0)), **MODES[mode])
    lora, expected = tmp_path / "lora" / "some.safetensors", draw_short(engine)
    lora.parent.mkdir()
    write_lora(lora, matrices(tmp_path))
    engine.use_loras([(lora, 1.0)])
    assert not torch.equal(draw_short(engine), expected)
    engine.use_loras([])
    lora.unlink()
    assert torch.equal(draw_short(engine), expected)
