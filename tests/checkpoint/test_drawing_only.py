"""Files that were pruned for drawing: all of a model but its output head."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sensenova_core
from sensenova_core import CheckpointError, DecodingSettings, SamplingSettings
from sensenova_core.checkpoint import OUTPUT_HEAD, open_checkpoint
from sensenova_core.cli import main
from sensenova_core.report.inspect import inspect, report
from tests.support.geometries import save_aligned
from tests.support.golden_set import checkpoint
from tests.support.loras import matrices, write_lora
from tests.support.pictures import picture

MODES = [("auto", None), ("full", None), ("auto", "1GiB"), ("balanced", None), ("low", None)]
WHY = (
    rf"this file is for drawing only: it lacks {re.escape(OUTPUT_HEAD)}.*draws and edits; for reasoning, answers, chat"
)


@pytest.fixture(params=["tiny-u15", "tiny-a3b"])
def both(request, tmp_path) -> tuple[Path, Path]:
    """A whole checkpoint and the same without its head, both stored at the same places of memory's lines."""
    folders = tmp_path / "whole", tmp_path / "pruned"
    tensors = load_file(checkpoint(request.param) / "model.safetensors")
    for folder in folders:
        folder.mkdir()
        for each in checkpoint(request.param).glob("*.json"):
            (folder / each.name).write_bytes(each.read_bytes())
        save_aligned(
            {name: value for name, value in tensors.items() if folder is folders[0] or name != OUTPUT_HEAD},
            folder / "model.safetensors",
        )
    return folders


@pytest.fixture
def pruned(tmp_path) -> Path:
    tensors = load_file(checkpoint("tiny-u15") / "model.safetensors")
    del tensors[OUTPUT_HEAD]
    folder = tmp_path / "SenseNova-U1.6-drawing"
    folder.mkdir()
    for each in checkpoint("tiny-u15").glob("*.json"):
        (folder / each.name).write_bytes(each.read_bytes())
    save_aligned(tensors, folder / "model.safetensors")
    return folder


def told(engine) -> list[torch.Tensor]:
    """A picture, and one edited."""
    sizes = {"width": 64, "height": 64, "steps": 2}
    (*_, drawn) = engine.sample(engine.encode("a dot"), **sizes)
    (*_, edited) = engine.sample(engine.encode("a dot", [picture(64, 64)]), img_cfg=1.5, **sizes)
    return [drawn.z, edited.z]


@pytest.mark.parametrize("mode, budget", MODES)
def test_it_draws_and_edits_as_the_whole_model_does(both, mode, budget, tmp_path):
    whole, other = (sensenova_core.load(folder, vram_mode=mode, max_memory=budget) for folder in both)
    plain = told(whole)
    assert all(map(torch.equal, told(other), plain))
    write_lora(tmp_path / "lora.safetensors", matrices(both[0], lambda name: name == OUTPUT_HEAD or "q_proj" in name))
    for engine in (whole, other):
        engine.use_loras([(tmp_path / "lora.safetensors", 0.7)])
    changed = told(whole)
    assert all(map(torch.equal, told(other), changed)) and not torch.equal(changed[0], plain[0])
    other.use_loras([])
    assert all(map(torch.equal, told(other), plain))


def test_a_lora_says_what_of_it_is_left_out(pruned, tmp_path):
    engine, file = sensenova_core.load(pruned), tmp_path / "lora.safetensors"
    shapes = matrices(checkpoint("tiny-u15"), lambda name: name == OUTPUT_HEAD or "q_proj" in name)
    write_lora(file, shapes)
    lora = engine.read_lora(file)
    assert OUTPUT_HEAD not in lora.factors and lora.left_out == (OUTPUT_HEAD,)
    assert lora.notes[0].startswith(f"what lora.safetensors changes of {OUTPUT_HEAD} is left out")
    assert not sensenova_core.load(checkpoint("tiny-u15")).read_lora(file).left_out
    write_lora(file, {OUTPUT_HEAD: shapes[OUTPUT_HEAD]})
    with pytest.raises(CheckpointError, match=f"changes {re.escape(OUTPUT_HEAD)} alone, which this model lacks"):
        engine.read_lora(file)


def test_what_writes_is_refused_at_the_call(pruned):
    engine = sensenova_core.load(pruned, place=False)
    why = f"{re.escape(str(pruned))}: {WHY}.*those of sensenova/SenseNova-U1.6-8B-MoT"
    calls = [
        lambda: engine.think(engine.encode("a")),
        lambda: engine.understand("what?", settings=DecodingSettings(3)),
        lambda: engine.interleave("a"),
        lambda: engine.self_correct("a"),
        lambda: engine.forecast(SamplingSettings(64, 64), task="understand"),
        lambda: engine.forecast(SamplingSettings(64, 64), task="interleave"),
        lambda: engine.forecast(SamplingSettings(64, 64), think_tokens=5),
    ]
    for call in calls:
        with pytest.raises(CheckpointError, match=why):
            call()
    assert not engine.memory.residency.placed
    assert "drawing" in engine.forecast(SamplingSettings(64, 64), card="1GiB")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--prompt", "a", "--think"],
        ["generate", "--prompt", "a", "--self-correct"],
        ["generate", "--modality", "text2text", "--prompt", "a"],
        ["chat"],
        ["interleave", "--prompt", "a"],
        ["plan", "--task", "understand"],
        ["plan", "--max-think-tokens", "5"],
    ],
    ids=" ".join,
)
def test_commands_that_write_end_before_weights_are_read(pruned, monkeypatch, capsys, tmp_path, arguments):
    def placed(*_):
        raise AssertionError("weights were read")

    monkeypatch.setattr("sensenova_core.memory.mapped.Mapped.place", placed)
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--model", str(pruned)]) == 1
    assert re.search(WHY, capsys.readouterr().err)


def test_it_is_said_what_it_is(pruned):
    opened = open_checkpoint(pruned)
    assert opened.found().startswith("SenseNova-U1.6-drawing: U1.6 for drawing only (no output head), 3 layers")
    assert "For drawing only: without the output head" in report(inspect(pruned))
    assert "drawing only" not in report(inspect(checkpoint("tiny-u15")))
    (pruned / "config.json").unlink()
    assert open_checkpoint(pruned).config.writes is False and sensenova_core.load(pruned, place=False)


@pytest.mark.parametrize("name", ["language_model.model.norm.weight", "language_model.model.embed_tokens.weight"])
def test_nothing_else_may_be_missing(pruned, name):
    tensors = load_file(pruned / "model.safetensors")
    del tensors[name]
    save_aligned(tensors, pruned / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"1 missing: {re.escape(name)}"):
        sensenova_core.load(pruned)
