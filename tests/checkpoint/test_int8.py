"""INT8 as ComfyUI stores it: read to the last bit, multiplied as it lies, and equal wherever weights are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError, SettingsError
from sensenova_core.checkpoint import Packed, checkpoint_name, open_checkpoint
from sensenova_core.lora.merging import merge
from sensenova_core.report.inspect import inspect, report
from tests.support.geometries import geometry, write_checkpoint
from tests.support.instructions import few_instructions  # noqa: F401  # for all tests here
from tests.support.int8 import FP8, KINDS, as_bytes, is_layer, said, write_int8
from tests.support.loras import matrices, merged, write_lora
from tests.support.packing import tensors_of, wide
from tests.support.streaming import WAYS, check_same, draw_short, story

FLOATS = {"compute": "bf16", "dtype": "float32"}


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """A kind, or "experts" -> a folder with INT8, and one with its numbers."""
    plain = write_checkpoint(tmp_path_factory.mktemp("source"), wide())
    folders: dict[str, tuple[Path, Path]] = {}

    def make(kind: str) -> tuple[Path, Path]:
        if kind not in folders:
            target = tmp_path_factory.mktemp("int8")
            if kind == "experts":
                mixture = write_checkpoint(target / "mixture", geometry(4))
                folders[kind] = write_int8(mixture, target, "rows")
            elif kind == "everywhere":  # the head, the table, what embeds and what sees as well
                folders[kind] = write_int8(plain, target, "convrot", wanted=lambda name: True)
            else:
                folders[kind] = write_int8(plain, target, kind)
        return folders[kind]

    return make


@pytest.mark.parametrize("kind", [*KINDS, *FP8])
def test_weights_are_comfy_kitchens_bit_for_bit(made, kind):
    packed, plain = made(kind)
    numbers = tensors_of(plain)
    stored = sensenova_core.load(packed, **FLOATS, place=False).stored
    names = [name for name in numbers if stored.headers[name].dtype in ("I8", "F8_E4M3")]
    assert len(names) > 10
    for name in names:
        value, whole = stored.whole(name), numbers[name]
        assert isinstance(value, Packed)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert torch.equal(value.unpacked(dtype), whole.to(dtype)), (name, dtype)
        into = torch.empty(whole[3:11].shape)
        value.rows(3, 8).unpack(into)
        assert torch.equal(into, whole[3:11])
        some = stored.rows(name, torch.tensor([7, 0, 7]))
        assert isinstance(some, Packed) and torch.equal(some.unpacked(torch.float32), whole[[7, 0, 7]])


@pytest.mark.parametrize("kind", ["convrot", "one scale", "mixed", "everywhere", "fp8"])
@pytest.mark.parametrize("way", ["in place", "some stay", "low, one kept"])
def test_unpacked_it_is_the_model_of_its_numbers(made, kind, way):
    """Text to image, an edit, a thought, an answer and a document."""
    packed, plain = made(kind)
    settings = {} if way == "in place" else {key: each for key, each in WAYS[way].items() if key != "slots"}
    settings = {key: each for key, each in settings.items() if key != "locked"}
    check_same(story(sensenova_core.load(packed, **FLOATS, **settings)), story(sensenova_core.load(plain)))


@pytest.mark.parametrize("kind", ["convrot", "rows", "one scale", "mixed", "experts", "everywhere"])
def test_multiplied_as_int8_it_is_the_same_wherever_weights_are(made, kind):
    folder = made(kind)[0]
    in_place = sensenova_core.load(folder, compute="int8")
    assert in_place.memory.in_place and in_place.stored.int8
    expected = story(in_place)
    for settings in (
        {"vram_mode": "low"},
        {"max_memory": "64GiB"},
        {"vram_mode": "balanced", "max_memory": "cpu=1GiB"},
    ):
        check_same(story(sensenova_core.load(folder, compute="int8", **settings)), expected)


@pytest.mark.parametrize("kind", ["convrot", "rows", "one scale", "mixed", "experts"])
def test_multiplied_as_int8_it_is_near_the_numbers(made, kind):
    packed, plain = made(kind)
    expected = draw_short(sensenova_core.load(plain))
    multiplied, rounded = (
        (draw_short(sensenova_core.load(packed, compute=compute, dtype="bfloat16")) - expected).norm() / expected.norm()
        for compute in ("int8", "bf16")
    )
    assert rounded < 0.1 or kind == "experts"  # which other tokens may be sent to
    assert 0 < multiplied < 3 * rounded, kind  # 2.4 times the error of bfloat16 at most, when this was written


def test_auto_multiplies_int8_only_what_is_stored_so(made, monkeypatch):
    packed, plain = made("mixed")
    layers = {name for name in tensors_of(plain) if is_layer(name)}
    for quick in (False, True):
        monkeypatch.setattr("sensenova_core.checkpoint.int8.is_quick_on", lambda device, quick=quick: quick)
        so = {name for name in layers if "v_proj" not in name and ".layers.1." not in name} if quick else set()
        assert sensenova_core.load(packed).stored.int8 == so
        assert not sensenova_core.load(plain).stored.int8
    assert sensenova_core.load(packed, compute="int8").stored.int8 == layers
    assert not sensenova_core.load(packed, compute="bf16").stored.int8


def test_a_device_without_such_products_says_so(made, monkeypatch):
    monkeypatch.setattr("sensenova_core.checkpoint.int8.is_multiplied_on", lambda device: False)
    with pytest.raises(SettingsError, match=r"int8.*cpu has no products of INT8; choose auto or bf16"):
        sensenova_core.load(made("rows")[1], compute="int8")


@pytest.mark.parametrize("settings", [{}, {"vram_mode": "low"}, {"max_memory": "64GiB"}], ids=str)
def test_plain_weights_made_int8_are_those_of_a_file_of_rows(made, tmp_path, settings):
    """Quantised when they are made ready, in every memory mode."""
    packed, _ = made("rows")
    source = write_checkpoint(tmp_path / "source", wide())
    made_so = sensenova_core.load(source, compute="int8", dtype="bfloat16", **settings)
    stored_so = sensenova_core.load(packed, compute="int8", dtype="bfloat16", **settings)
    assert made_so.stored.made_int8 == stored_so.stored.int8
    check_same({"picture": draw_short(made_so)}, {"picture": draw_short(stored_so)})


@pytest.mark.parametrize("kind", ["convrot", "mixed", "experts"])
def test_loras_on_top(made, tmp_path, kind):
    """Beside products of INT8 as into unpacked weights: near the merged model, the same wherever weights are, gone
    without a trace, and at any strength without loading anew."""
    packed, plain = made(kind)
    deltas = write_lora(tmp_path / "x.safetensors", matrices(plain), alpha=8.0)
    by_hand = draw_short(sensenova_core.load(merged(plain, tmp_path / "by hand", [(deltas, 0.7)])))
    engine = sensenova_core.load(packed, compute="int8", dtype="float32")
    without = draw_short(engine)
    engine.use_loras([(tmp_path / "x.safetensors", 0.3)])
    assert not torch.equal(draw_short(engine), without)
    engine.use_loras([(tmp_path / "x.safetensors", 0.7)])
    with_it = draw_short(engine)
    change = (by_hand - without).norm()
    assert (with_it - by_hand).norm() < 0.1 * change
    for settings in ({"vram_mode": "low"}, {"max_memory": "64GiB"}):
        other = sensenova_core.load(
            packed, compute="int8", dtype="float32", loras=[(tmp_path / "x.safetensors", 0.7)], **settings
        )
        assert torch.equal(draw_short(other), with_it), settings
        other.use_loras([])
        assert torch.equal(draw_short(other), without), settings
    engine.use_loras([])
    assert torch.equal(draw_short(engine), without)


def test_merging_into_a_rotated_weight(made):
    packed, plain = made("convrot")
    stored = sensenova_core.load(packed, **FLOATS, place=False).stored
    name = next(name for name in tensors_of(plain) if "down_proj_mot_gen" in name or "mot_gen.down_proj" in name)
    whole = tensors_of(plain)[name]
    up, down = torch.randn(len(whole), 3), torch.randn(3, whole.shape[1])
    into = torch.empty_like(whole)
    merge(stored.whole(name), [(0.5, up, down)], into)
    assert torch.allclose(into, whole + 0.5 * up @ down, atol=1e-5)


def test_it_stays_int8_in_memory_too(made):
    """Half the bytes of bfloat16 in files, in page-locked memory and on the device; inspect shows them."""
    packed, plain = made("convrot")
    engine = sensenova_core.load(packed, compute="int8", vram_mode="balanced", max_memory="cpu=1GiB")
    in_bf16 = sensenova_core.load(plain, dtype="bfloat16", vram_mode="balanced", max_memory="cpu=1GiB")
    draw_short(engine)
    for expert in ("understanding", "generation"):
        layers = engine.memory.sizes.layers
        halves = (sum(each.memory.sizes.units[expert][:layers]) for each in (engine, in_bf16))
        assert next(halves) < 0.55 * next(halves)
        assert (
            engine.memory.sizes.working[expert] < 0.3 * in_bf16.memory.sizes.slot_of(expert) or expert != "generation"
        )
    stored = inspect(packed).stored["I8"]
    matrices_of = {
        name: value.numel() for name, value in load_file(packed / "model.safetensors").items() if is_layer(name)
    }
    assert stored.nbytes == sum(count for name, count in matrices_of.items() if name.endswith(".weight"))
    assert "I8" in report(inspect(packed))
    assert "matrices are multiplied as INT8" in engine.forecast(sensenova_core.SamplingSettings(64, 64))


def changed(folder: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a folder whose tensors `change` has changed."""
    target.mkdir()
    for each in folder.iterdir():
        (target / each.name).write_bytes(each.read_bytes())
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("empty", [b"", b"{}", b"\0\0", b'{"format": null}'])
def test_what_says_nothing_changes_nothing(made, tmp_path, empty):
    packed, plain = made("rows")

    def change(tensors: dict) -> None:
        for name in [name for name in tensors if name.endswith("comfy_quant")]:
            tensors[name] = torch.tensor(list(empty), dtype=torch.uint8)

    folder = changed(packed, tmp_path / "empty", change)
    check_same(
        {"picture": draw_short(sensenova_core.load(folder, **FLOATS))},
        {"picture": draw_short(sensenova_core.load(plain))},
    )


@pytest.mark.parametrize("layer", ["language_model.model.norm", "language_model.lm_head", "vision_model.nothing"])
def test_what_is_said_of_a_layer_that_is_not_quantised_changes_nothing(made, tmp_path, layer):
    packed, _ = made("convrot")
    folder = changed(
        packed, tmp_path / "said", lambda tensors: tensors.update({f"{layer}.comfy_quant": as_bytes(said(256))})
    )
    assert open_checkpoint(folder).headers == {
        name: header.__class__(**vars(header) | {"file": folder / "model.safetensors", "start": header.start})
        for name, header in open_checkpoint(folder).headers.items()
    }
    check_same(
        {"picture": draw_short(sensenova_core.load(folder))}, {"picture": draw_short(sensenova_core.load(packed))}
    )


def test_layers_may_ask_for_floats(made, tmp_path):
    def change(tensors: dict) -> None:
        for name in [name for name in tensors if name.endswith("k_proj.comfy_quant")]:
            tensors[name] = as_bytes(said(256, full_precision_matrix_mult=True))

    folder = changed(made("convrot")[0], tmp_path / "floats", change)
    engine = sensenova_core.load(folder, compute="auto")
    assert not [name for name in engine.stored.int8 if name.endswith("k_proj.weight")]


@pytest.mark.parametrize(
    "about, words",
    [
        (b"[1]", "is no JSON object"),
        (b'{"format"', "is no JSON object"),
        (said(128), "groups of 128 columns, which is no power of 4"),
        (said(1024), "groups of 1024 columns, of which its 256 columns are no multiple"),
        (ROT := {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": "many"}, "groups of many columns"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(made, tmp_path, about, words):
    def change(tensors: dict) -> None:
        name = next(name for name in tensors if name.endswith("comfy_quant"))
        tensors[name] = torch.tensor(list(about), dtype=torch.uint8) if isinstance(about, bytes) else as_bytes(about)

    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(changed(made("convrot")[0], tmp_path / "wrong", change))


def test_a_weight_without_its_scale_is_named(made, tmp_path):
    def change(tensors: dict) -> None:
        del tensors[next(name for name in tensors if name.endswith("weight_scale"))]

    with pytest.raises(CheckpointError, match="1 INT8 weights without the scale"):
        open_checkpoint(changed(made("rows")[0], tmp_path / "scaleless", change))


def test_single_files_with_a_prefix(tmp_path):
    """As ComfyUI's own file: one file, `model.diffusion_model.` before all names, no config."""
    source = write_checkpoint(tmp_path / "source", wide())
    packed, plain = write_int8(source, tmp_path / "made", "in metadata", prefix="model.diffusion_model.")
    for folder in (packed, plain):
        (folder / "config.json").unlink()
    check_same(
        {"picture": draw_short(sensenova_core.load(packed / "model.safetensors", **FLOATS))},
        {"picture": draw_short(sensenova_core.load(plain / "model.safetensors"))},
    )


def test_names_of_parameters_are_not_those_of_scales(made):
    engine = sensenova_core.load(made("convrot")[0], compute="int8")
    scales = [name for name, _ in engine.model.named_parameters() if name.endswith("weight_scale")]
    assert len(scales) == len(engine.stored.int8)
    assert {checkpoint_name(name) for name in scales} <= engine.stored.headers.keys()


def test_fp8_w8a8_has_no_products_of_int8_unless_asked(made):
    folder = made("fp8")[0]
    assert not sensenova_core.load(folder).stored.int8
    multiplied = sensenova_core.load(folder, compute="int8")
    assert len(multiplied.stored.made_int8) == len(multiplied.stored.int8) > 10
    assert draw_short(multiplied).isfinite().all()
