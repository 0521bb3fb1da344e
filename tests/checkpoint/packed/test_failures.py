"""What goes wrong with packed weights: memory that runs out, files that change, and what cannot be unpacked."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import sensenova_core
from sensenova_core import CheckpointError
from tests.support.headers import read_headers
from tests.support.packing import mixed, write_gguf
from tests.support.streaming import (
    Failing,
    draw_short,
    gone,
    out_of_memory,
    phase,
    told_by,
    watch_attention,
)


@pytest.mark.parametrize("slots", [None, 3])
def test_memory_that_runs_out_is_mended(load, slots):
    engine = load("mixed", "auto" if slots else "balanced", slots, max_memory="64GiB")
    expected, said = draw_short(engine, steps=3), told_by(engine)
    before = phase(engine).slots
    watch_attention(engine, Failing({5}, out_of_memory, drawing_only=True))
    assert torch.equal(draw_short(engine, steps=3), expected)
    assert len(said) == 1 and phase(engine).slots == int(before * 0.75)


@pytest.mark.parametrize("settings", [{"vram_mode": "auto"}, {}], ids=["in place", "balanced"])
def test_an_engine_that_nobody_holds_is_freed_without_the_collector(load, settings):
    engine = load(**settings)
    gc.collect()
    gc.disable()
    try:
        draw_short(engine)
        residency = engine.memory.residency
        parts = (engine, engine.model, engine.memory, residency, residency.slots.working.buffer)
        watched = [weakref.ref(part) for part in parts]
        del engine, parts, residency
        assert gone(*watched), [each() for each in watched if each() is not None][:3]
    finally:
        gc.enable()


def test_a_file_that_is_gone_is_named(source, tmp_path):
    packed, _ = write_gguf(source, tmp_path, mixed)
    engine = sensenova_core.load(packed, vram_mode="balanced")
    (packed / "model.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"model\.gguf was changed or removed"):
        draw_short(engine)


def test_a_file_that_ends_early_is_named(source, tmp_path):
    packed, _ = write_gguf(source, tmp_path, mixed)
    file = packed / "model.gguf"
    content = file.read_bytes()
    for size in (len(content) - 40_000, 100, 0):
        file.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"model\.gguf .*fetch it again"):
            read_headers(file)


Q_PROJ = "language_model.model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"dtype": "IQ4_XS"}, r"quantised as GGUF's IQ4_XS, which is not read here; take its BF16"),
        ({"dtype": "Q4_K", "shape": (512, 128)}, r"1 torn: .*q_proj.weight is Q4_K in rows of 128, .* blocks of 256"),
        ({"scale": (3, 1)}, r"1 of an unknown scale: .*q_proj.weight is \[256, 256\], its scale F32 \[3, 1\]"),
        ({"scale": (1, 2)}, r"1 of an unknown scale"),
        ({"scale": (2, 2, 1)}, r"1 of an unknown scale"),
    ],
    ids=str,
)
def test_what_cannot_be_unpacked_is_refused(made, monkeypatch, changes, said):
    headers = read_headers(made("plain")[0])
    if "scale" in changes:
        changes = {"scale": replace(headers[Q_PROJ], dtype="F32", shape=changes["scale"])}
    changed = headers | {Q_PROJ: replace(headers[Q_PROJ], **changes)}
    monkeypatch.setattr("sensenova_core.checkpoint.checkpoint.read_files", lambda files: (changed, {}))
    with pytest.raises(CheckpointError, match=said):
        sensenova_core.load(made("plain")[0])


def test_scales_that_belong_to_nothing_are_not_part_of_the_model(made, tmp_path):
    headers = read_headers(made("scale_weight")[0])
    assert headers[Q_PROJ].scale.shape == () and all(name.endswith((".weight", ".bias")) for name in headers)
    save_file(
        {"nobody.scale_weight": torch.ones(()), "nobody.weight_scale_inv": torch.ones(2, 2)}, tmp_path / "x.safetensors"
    )
    assert set(read_headers(tmp_path)) == {"nobody.scale_weight", "nobody.weight_scale_inv"}
