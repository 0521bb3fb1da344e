"""Packed weights: what they draw is what their numbers draw, they move packed, and one layer at a time is unpacked."""

import gc
import random
import weakref
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError, DecodingSettings, Engine
from sensenova_core.checkpoint import Packed, read_headers
from sensenova_core.memory import plan as plans
from sensenova_core.memory.slots import Slots
from sensenova_core.memory.transfers import DirectTransfers
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.support.geometries import geometry, scaled_down, write_checkpoint
from tests.support.golden_set import relative_error
from tests.support.peak import PeakBytes
from tests.support.streaming import (
    WAYS,
    Failing,
    allow,
    check_same,
    draw_short,
    gone,
    out_of_memory,
    peaks_of_two_runs,
    phase,
    story,
    told_by,
    watch_attention,
)

pytest.importorskip("gguf", reason="the gguf package is not installed: no packed file can be written")
from tests.support.packing import (
    everywhere,
    mixed,
    tensors_of,
    wide,
    write_fp8,
    write_gguf,
)

GROUPED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
SCALINGS = ["plain", "scale_weight", "weight_scale", "rows", "weight_scale_inv"]


@pytest.fixture(autouse=True)
def few_instructions(monkeypatch):
    monkeypatch.setattr("sensenova_core.reading.prompt.system_message", lambda kind: kind)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Plain, in float32."""
    return write_checkpoint(tmp_path_factory.mktemp("source"), wide())


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """A type, a way to scale FP8, or "mixed" -> a folder with packed weights, and one with their numbers."""
    folders: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in folders:
            target = tmp_path_factory.mktemp(name)
            if name in SCALINGS:
                folders[name] = write_fp8(source, target, name)
            else:
                folders[name] = write_gguf(source, target, mixed if name == "mixed" else everywhere(name))
        return folders[name]

    return make


@pytest.fixture
def load(made) -> Callable[..., Engine]:
    """(name, settings) -> an engine in float32; slots=n gives its weights room for n buffers."""

    def loaded(name: str = "mixed", vram_mode: str = "balanced", slots: int | None = None, **settings) -> Engine:
        engine = sensenova_core.load(made(name)[0], vram_mode=vram_mode, **{"dtype": "float32"} | settings)
        if slots is not None:
            allow(engine, slots)
        return engine

    return loaded


def tell_briefly(engine: Engine) -> dict:
    """A picture, and what an answer was chosen from, which takes the output head."""
    seen: list[torch.Tensor] = []
    letter = engine.tokenizer.encode(["a"])[0]
    choose = lambda logits, chosen: seen.append(logits.clone()) or letter  # noqa: E731
    list(engine.understand("what?", settings=DecodingSettings(3), choose=choose))
    return {"picture": draw_short(engine, steps=2), "logits": torch.stack(seen)}


# What is drawn.


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_plain_gguf_draws_what_its_folder_draws(tmp_path, name):
    dtype = {"F32": torch.float32, "F16": torch.float16}[name]
    folder = write_checkpoint(tmp_path / "source", geometry(0), dtype)
    packed, _ = write_gguf(folder, tmp_path, lambda key, value: "F32" if value.dtype == torch.float32 else name)
    ways = [{}, {"vram_mode": "balanced"}]
    for settings in ways:
        engine = sensenova_core.load(packed, **settings)
        assert engine.weights.compute_dtype == dtype and not any(
            map(engine.memory.sizes.unpacking, (UNDERSTANDING, GENERATION))
        )
        check_same(tell_briefly(engine), tell_briefly(sensenova_core.load(folder, **settings)))


@pytest.mark.parametrize("name", [*GROUPED, "mixed", *SCALINGS])
def test_packed_weights_draw_what_their_numbers_draw(made, name):
    packed, plain = made(name)
    expected = tell_briefly(sensenova_core.load(plain))
    engine = sensenova_core.load(packed, dtype="float32")
    assert engine.memory.in_place and engine.memory.sizes.unpacking(GENERATION)
    check_same(tell_briefly(engine), expected)


@pytest.mark.parametrize("name", ["Q4_K", "scale_weight", "rows", "weight_scale_inv"])
def test_numbers_are_rounded_once_to_the_type_they_run_in(made, name):
    """bfloat16, unless another one is asked for; norms stay as they are stored."""
    packed, plain = made(name)
    engine = sensenova_core.load(packed)
    assert engine.weights.compute_dtype == engine.model.dtype == torch.bfloat16
    rounded = sensenova_core.load(plain, dtype="bfloat16", vram_mode="balanced")  # aligned, as in the working buffer
    numbers = load_file(plain / "model.safetensors")
    first = next(iter(engine.memory.weights.layers(GENERATION)))
    expected = numbers["language_model.model.layers.0.mlp_mot_gen.down_proj.weight"].bfloat16()
    assert torch.equal(first.mlp.down_proj.weight, expected)
    assert first.input_layernorm.weight.dtype == torch.float32
    assert relative_error(draw_short(engine), draw_short(rounded)) < 0.05  # norms apart, which that one rounds


@pytest.mark.parametrize("name, bound", [("Q8_0", 0.03), ("Q5_1", 0.22), ("Q4_K", 0.4), ("scale_weight", 0.13)])
def test_the_picture_is_close_to_that_of_the_weights_before(source, made, name, bound):
    """Of random weights, which keep all of an error; of its root mean square. docs/memory.md has what was measured."""
    before = draw_short(sensenova_core.load(source), steps=2, cfg=1.0)
    error = draw_short(sensenova_core.load(made(name)[0], dtype="float32"), steps=2, cfg=1.0) - before
    assert 0 < error.norm() < bound * before.norm()


@pytest.fixture(scope="module")
def expected(made) -> Callable[[str], dict]:
    told: dict[str, dict] = {}

    def find(name: str) -> dict:
        if name not in told:
            told[name] = story(sensenova_core.load(made(name)[1]))
        return told[name]

    return find


@pytest.mark.parametrize("way", WAYS)
def test_results_are_the_same_bit_for_bit_whatever_the_memory(load, expected, way):
    settings = dict(WAYS[way])
    host = settings.pop("host", None)
    engine = load(**settings)
    if host is not None:
        engine.memory.limits = replace(engine.memory.limits, host=host * engine.memory.sizes.slot)
    assert not engine.memory.in_place
    check_same(story(engine), expected("mixed"))


@pytest.mark.parametrize("name, way", [("mixed", None), ("weight_scale_inv", "some stay"), ("rows", "low, one kept")])
def test_in_place_and_scaled_as_well(load, expected, name, way):
    settings = {"vram_mode": "auto"} if way is None else dict(WAYS[way])
    settings.pop("host", None)
    check_same(story(load(name, **settings)), expected(name))


# What moves, and what lies where.


def test_units_lie_and_move_packed(load):
    """A matrix of Q4_K takes 4.5 bits a number."""
    engine = load("Q4_K", max_memory="0=64GiB,cpu=1GiB")
    for unit in engine.memory.weights.units[GENERATION]:
        bits = [8 * part.nbytes / torch.Size(part.shape).numel() for part in unit.parts if len(part.shape) == 2]
        assert set(bits) == {4.5} and unit.nbytes < unit.running_bytes / 6
    assert engine.weights.nbytes < 0.25 * sum(4 * header.numel for header in engine.weights.headers.values())


@pytest.mark.parametrize("name", ["mixed", "scale_weight"])
@pytest.mark.parametrize("mode, slots", [("balanced", None), ("low", None), ("auto", 3)])
def test_a_step_copies_packed_bytes_alone(load, monkeypatch, name, mode, slots):
    engine = load(name, mode, slots, max_memory="0=64GiB,cpu=1GiB")
    engine.memory.weights.store.direct = False  # as with a card, where all that is read passes page-locked memory
    real, sent = DirectTransfers.copy, []
    monkeypatch.setattr(
        DirectTransfers, "copy", lambda lane, source, *rest: sent.append(source.nbytes) or real(lane, source, *rest)
    )
    draw_short(engine, steps=4)
    units, streamed = engine.memory.weights.units, phase(engine).streamed
    each = [engine.memory.weights.copies[GENERATION, index] for index in range(len(units[GENERATION]))]
    assert each == [4 if index in streamed else 1 for index in range(len(each))]
    read = sum(unit.nbytes for unit in units[UNDERSTANDING][: len(each)])
    assert sum(sent) == read + sum(unit.nbytes * count for unit, count in zip(units[GENERATION], each, strict=True))
    packed = [unit for unit in units[GENERATION] if unit.apart]
    assert len(packed) >= 3 and all(unit.nbytes < 0.3 * unit.running_bytes for unit in packed)


def test_the_only_slot_is_filled_anew_while_its_layer_runs(load):
    """Which runs in the working buffer, and is not disturbed. A plain layer would be."""
    engine = load("Q4_K", "low")
    draw_short(engine, steps=1)
    residency, layers = engine.memory.weights, engine.config.decoder.num_layers
    assert phase(engine).ring == 1 and len(residency.slots.of) == 1
    numbers = tensors_of(engine.path.parent / "plain")
    with torch.inference_mode(), closing(residency.layers(GENERATION)) as passing:
        for index in range(layers - 1):
            layer = next(passing)
            ((key, slot),) = residency.slots.of.items()
            assert key == (GENERATION, index + 1) and slot.ready.result() is None  # the copy has ended
            name = f"language_model.model.layers.{index}.mlp_mot_gen.up_proj.weight"
            assert torch.equal(layer.mlp.up_proj.weight, numbers[name])


@pytest.mark.parametrize("mode, slots", [("balanced", None), ("auto", 5), ("full", 30)])
def test_one_working_buffer_serves_all_slots(load, monkeypatch, mode, slots):
    buffers: list[int] = []
    real = Slots.new
    monkeypatch.setattr(Slots, "new", lambda self, size: buffers.append(size) or real(self, size))
    engine = load("Q4_K", mode, slots, max_memory="64GiB")
    sizes, residency = engine.memory.sizes, engine.memory.weights
    for seed in range(3):
        draw_short(engine, seed=seed)
    list(engine.understand("what?", settings=DecodingSettings(2)))
    assert sizes.working[UNDERSTANDING] == sizes.working[GENERATION] > sizes.slot
    assert buffers.count(sizes.working[GENERATION]) == 1
    assert residency.nbytes == sizes.fixed + sizes.working[UNDERSTANDING] + residency.buffer_bytes
    assert residency.most_bytes <= max(each.device_bytes - each.working_bytes for each in residency.phases.values())
    residency.shrink(1)
    assert residency.slots.working is not None
    residency.shrink(2**60)
    assert residency.nbytes == sizes.fixed
    engine.release()
    assert residency.nbytes == 0


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_an_embedding_unpacks_the_rows_it_needs(load, made, vram_mode):
    engine = load("Q8_0", vram_mode)
    ids, width = torch.tensor([3, 0, 3000, 3]), engine.config.decoder.hidden_size
    with PeakBytes("cpu") as peak, torch.inference_mode():
        rows = engine.memory.weights.embed(ids)
    table = load_file(made("Q8_0")[1] / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert torch.equal(rows, table[ids])
    assert peak.most <= 16 * len(ids) * width


def test_in_place_no_more_than_a_layer_is_unpacked(load):
    engine = load("mixed", "auto")
    draw_short(engine)
    sizes = engine.memory.sizes
    mapped = [each.bytes if isinstance(each, Packed) else each for each in engine.memory.weights._others.values()]
    with PeakBytes("cpu") as peak, torch.inference_mode():
        peak.leave_out([*mapped, *engine.model.parameters(), engine.memory.weights.slots.working.buffer])
        for layer in engine.memory.weights.layers(GENERATION):
            assert layer.mlp.down_proj.weight.dtype == torch.float32
    assert peak.most <= sizes.scratch
    assert engine.memory.weights.nbytes == engine.weights.nbytes + max(sizes.working.values())
    engine.release()
    assert engine.memory.weights.nbytes == 0
    assert {value.device.type for value in engine.model.parameters()} == {"meta"}


def test_device_memory_stays_within_the_budget(tmp_path, monkeypatch):
    """As for plain weights, with the working buffer and what unpacking takes for a moment. 80 runs."""
    monkeypatch.setattr(plans, "FRAGMENTATION", 1.0)
    over, runs = [], 0
    for seed in range(8):
        draw = random.Random(seed)
        plain = write_checkpoint(tmp_path / str(seed), scaled_down(seed))
        target = tmp_path / f"{seed}-packed"
        packed, _ = write_fp8(plain, target, "rows") if seed % 4 == 3 else write_gguf(plain, target, everywhere("Q5_1"))
        engine = sensenova_core.load(packed, dtype="float32", max_memory="1GiB", place=False)
        assert engine.memory.sizes.unpacking(GENERATION) > engine.memory.sizes.slot_of(GENERATION)
        for _ in range(5):
            for run, (plan, most) in enumerate(peaks_of_two_runs(engine, draw)):
                runs += 1
                assert plan.device_bytes <= plan.limits.device
                if most > plan.limits.device:
                    over.append((seed, run, most / plan.limits.device))
        engine.release()
    assert runs == 80 and not over, over


# When things go wrong.


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
        parts = (engine, engine.model, engine.memory, engine.memory.weights, engine.memory.weights.slots.working.buffer)
        watched = [weakref.ref(part) for part in parts]
        del engine, parts
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
        ({"dtype": "IQ4_XS"}, r"1 of another type than F32, .*Q4_K.*: .*q_proj.weight is IQ4_XS"),
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


# Rows of a packed tensor.


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "plain", "scale_weight", "rows", "weight_scale_inv"])
def test_rows_are_whole_blocks(load, made, name):
    """So pieces of the output head and rows of the embedding are cut without unpacking anything else."""
    engine, head = load(name), "language_model.lm_head.weight"
    ((_, packed),) = engine.weights.mapped([head])
    assert isinstance(packed, Packed)
    numbers = load_file(made(name)[1] / "model.safetensors")[head]
    assert torch.equal(packed.unpacked(torch.float32), numbers)
    for first, height in ((0, 1), (100, 300), (len(numbers) - 129, 129)):
        assert torch.equal(packed.rows(first, height).unpacked(torch.float32), numbers[first : first + height])
        some = torch.tensor([height - 1, 0, 0])
        assert torch.equal(packed.rows(first, height).at(some).unpacked(torch.float32), numbers[first + some])
    pieces = engine.memory.weights.units[UNDERSTANDING][engine.config.decoder.num_layers :]
    assert len(pieces) > 1 and sum(unit.parts[0].shape[0] for unit in pieces) == len(numbers)


@pytest.mark.parametrize("width", [5, 128, 200, 256])
@pytest.mark.parametrize("piece", [1, 1000, 2**20])
def test_scales_of_ragged_tensors(tmp_path, monkeypatch, width, piece):
    monkeypatch.setattr("sensenova_core.checkpoint.formats.PIECE_CPU", piece)
    stored = torch.randn(300, width, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = torch.rand(3, -(-width // 128))
    save_file({"a.weight": stored, "a.weight_scale_inv": scale}, tmp_path / "x.safetensors")
    header = read_headers(tmp_path)["a.weight"]
    spread = scale.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :width]
    assert header.scale_fits
    for first, height in ((0, 300), (130, 60)):
        shape = (height, width)
        packed = header.held_in(torch.empty(header.held_bytes(shape), dtype=torch.uint8), shape, first)
        packed.bytes.copy_(stored[first : first + height].view(torch.uint8))
        packed.scale.copy_(scale)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            numbers = (stored.float() * spread)[first : first + height].to(dtype)
            assert torch.equal(packed.unpacked(dtype), numbers)
