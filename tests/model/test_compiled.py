"""Compiled layers: what they give, how often anything is compiled, and what happens where nothing can be.

The pieces run uncompiled where only what they compute is tested: a compiler takes seconds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import sensenova_core
from sensenova_core.cli import main
from sensenova_core.model import compiled
from sensenova_core.model.compiled import CompiledLayer, Pieces
from sensenova_core.settings import DecodingSettings
from sensenova_core.system.cache import FOLDER
from tests.support.golden_set import cases, checkpoint, manifest, relative_error, sample_settings, tensors
from tests.support.int8 import write_int8

ROOT = Path(__file__).parents[2]
SMALL = ["--width", "64", "--height", "64"]
SIZES = ((96, 64, {}), (64, 64, {"cfg": 1.0}), (128, 96, {"batch_size": 2}), (32, 32, {"cfg": 1.0}))


def draw(engine, width=96, height=64, **settings) -> Tensor:
    engine.remembered.forget()
    *_, step = engine.sample(engine.encode("a"), width=width, height=height, steps=2, **settings)
    return step.pixels()


def distance(ours: Tensor, other: Tensor) -> float:
    return ((ours - other).norm() / other.norm()).item()


def graphs() -> int:
    """How many were compiled in this process so far."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def cache():
    """Where compiled pieces stay from one run of the tests to the next."""
    before = os.environ.get(compiled.CACHE)
    os.environ[compiled.CACHE] = before or str(ROOT / "build/compiled")
    yield
    if before is None:
        del os.environ[compiled.CACHE]


@pytest.fixture(scope="module")
def compiling(cache):
    """An engine whose layers run compiled, in float32."""
    engine = sensenova_core.load(checkpoint("tiny-u15"), compile=True)
    draw(engine, 32, 32)
    assert engine.compiles
    return engine


@pytest.fixture
def uncompiled(monkeypatch):
    """Pieces as they are, where they would be compiled."""
    monkeypatch.setattr(Pieces, "compiled", lambda device: Pieces())


@pytest.mark.parametrize("name", manifest()["checkpoints"])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 0.008)])
def test_pieces_make_the_layer(name, dtype, most, uncompiled):
    """Each layer alone, for a mixture's choice of experts may change. Measured: 5e-7 and 0.4%."""
    engine = sensenova_core.load(checkpoint(name), dtype=dtype)
    decoder, generator = engine.config.decoder, torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, decoder.hidden_size, generator=generator).to(engine.stored.compute_dtype)
    rotation = engine.model.rotation(torch.arange(9).expand(2, 3, 9))

    def attend(query, key, value):
        return engine.reader.kernel(query, key, value, causal=True)

    for expert in ("understanding", "generation"):
        for layer in engine.memory.residency.layers(expert):
            plain, pieced = layer(x, rotation, attend), CompiledLayer(layer, Pieces())(x, rotation, attend)
            assert pieced.dtype == plain.dtype
            assert distance(pieced.float(), plain.float()) < most


def test_weights_of_int8_and_long_texts_run_so(tmp_path, uncompiled, monkeypatch):
    """What runs in parts, or by functions of its own."""
    write_int8(checkpoint("tiny-u15"), tmp_path / "int8", "convrot 16")
    monkeypatch.setattr(compiled, "ROWS", 5)
    for path in (tmp_path / "int8/packed", checkpoint("tiny-u15")):
        plain, pieced = (sensenova_core.load(path, compute="int8", compile=on) for on in (False, True))
        assert distance(draw(pieced), draw(plain)) < 0.01 and pieced.compiles


def test_a_compiled_picture_is_the_golden_one(compiling):
    """Measured: 3e-6."""
    case = next(case for case in cases("t2i") if case["checkpoint"] == "tiny-u15")
    compiling.remembered.forget()
    *_, step = compiling.sample(compiling.encode(case["prompt"]), **sample_settings(case))
    assert relative_error(step.pixels(), tensors(case)["image"]) < 1e-4


def test_one_compilation_serves_all_layers_lengths_and_modes(compiling):
    """Also all branches, batches, texts, and weights that were placed while a run went on or before it."""
    before = graphs()
    pictures = [draw(compiling, width, height, **settings) for width, height, settings in SIZES]
    *_, answer = compiling.understand("what?", [Image.new("RGB", (64, 64))], settings=DecodingSettings(max_tokens=3))
    assert answer.ids
    for mode in ("balanced", "low"):
        engine = sensenova_core.load(checkpoint("tiny-u15"), compile=True, vram_mode=mode, place=False)
        for (width, height, settings), picture in zip(SIZES, pictures, strict=True):
            assert torch.equal(draw(engine, width, height, **settings), picture)
        assert engine.compiles
    assert graphs() == before


def test_a_compiler_that_fails_is_told_of_once(compiling, engines, monkeypatch, tmp_path):
    """A machine without one, as torch finds it."""
    monkeypatch.setenv(compiled.CACHE, str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    told: list[str] = []
    engine = sensenova_core.load(checkpoint("tiny-u15"), compile=True)
    engine.memory.tell = told.append
    pictures = [draw(engine) for _ in range(2)]
    assert engine.compiles is False and len(told) == 1
    assert "cannot be compiled" in told[0] and "g++" in told[0]
    assert all(torch.equal(picture, draw(engines("tiny-u15"))) for picture in pictures)


def test_memory_that_runs_out_is_no_fault_of_the_compiler(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pieces, "compiled", full)
    engine = sensenova_core.load(checkpoint("tiny-u15"), compile=True)
    with pytest.raises(sensenova_core.SenseNovaError, match="memory ran out"):
        draw(engine)
    assert engine.compiles is False


def test_off_is_as_if_it_were_not_there(engines):
    engine = engines("tiny-u15")
    assert engine.compiles is None and engine.reader.run == engine.memory.run


def test_nothing_is_compiled_before_it_is_used():
    """Nor is torch's compiler imported, which takes seconds."""
    program = """
import os, sys, sensenova_core
engine = sensenova_core.load(sys.argv[1], compile=True)
print(engine.compiles, "torch._dynamo" in sys.modules, os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
"""
    environment = {name: value for name, value in os.environ.items() if name != compiled.CACHE}
    command = [sys.executable, "-c", program, str(checkpoint("tiny-u15"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment | {"PYTHONPATH": "."})
    assert done.stdout.split() == ["False", "False", "None"], done.stderr


@pytest.mark.parametrize(("said", "kept"), [(None, True), ("temporary", True), ("mine", False)])
def test_where_compiled_pieces_are_kept(said, kept, monkeypatch, tmp_path):
    """In the user's cache folder, unless the user says where; torch itself says a temporary folder."""
    temporary = tmp_path / "tmp"
    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    folders = {"temporary": temporary / "torchinductor_me", "mine": tmp_path / "mine"}
    monkeypatch.delenv(compiled.CACHE, raising=False)
    if said:
        monkeypatch.setenv(compiled.CACHE, str(folders[said]))
    compiled.keep_in_cache_folder()
    own = tmp_path / "cache/compiled"
    assert os.environ[compiled.CACHE] == str(own if kept else folders[said or ""])
    assert own.is_dir() == kept


def test_the_command_line_says_which_ran(uncompiled, tmp_path, capsys):
    command = ["generate", "--model", "demo", "--prompt", "a red circle", "--device", "cpu", "--num-steps", "1", *SMALL]
    metadata = {}
    for name, more in {"on": ["--compile", "--profile"], "off": [], "eager": ["--enforce-eager"]}.items():
        assert main([*command, *more, "--output", str(tmp_path / f"{name}.png")]) == 0
        metadata[name] = json.loads(Image.open(tmp_path / f"{name}.png").text["sensenova"])
    assert metadata["on"]["compiled"] is True
    assert "compiled" not in metadata["off"] and metadata["off"] == metadata["eager"]


def test_compile_and_enforce_eager_contradict_each_other(capsys):
    assert main(["generate", "--model", "demo", "--prompt", "a", "--compile", "--enforce-eager"]) != 0
    assert "--enforce-eager" in capsys.readouterr().err
