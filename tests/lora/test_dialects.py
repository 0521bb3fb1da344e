"""LoRA keys as trainers and other programs write them: read by what they are, and with the right strength."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.lora import read_lora
from tests.lora.telling import check_close, drawing, tell
from tests.support.loras import matrices, merged, write_lora

PLACE = "language_model.model.layers.1.self_attn.q_proj_mot_gen"
SHAPES = {
    f"{PLACE}.weight": (16, 8),
    "language_model.model.layers.10.mlp_mot_gen.up_proj.weight": (16, 8),
    "language_model.model.layers.0.mlp.down_proj.weight": (16, 8),
    "language_model.lm_head.weight": (16, 8),
    "fm_modules.vision_model_mot_gen.embeddings.patch_embedding.weight": (16, 2, 2, 2),
    "fm_modules.fm_head.0.weight": (16, 8),
}
ENDINGS = [
    ("lora_up.weight", "lora_down.weight"),
    ("lora_up", "lora_down"),
    ("lora_B.weight", "lora_A.weight"),
    ("lora_b", "lora_a"),
    ("LORA_UP.WEIGHT", "LORA_DOWN.WEIGHT"),
    ("lora_B.default.weight", "lora_A.default.weight"),
    ("lora_B.my-style_2", "lora_A.my-style_2"),
    ("lora_B.lora_A.weight", "lora_A.lora_A.weight"),  # an adapter that is called so
    ("lora_B.weight.weight", "lora_A.weight.weight"),
    ("lora.up.weight", "lora.down.weight"),
    ("lora.up", "lora.down"),
    ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
    ("lora_linear_layer.up", "lora_linear_layer.down"),
    ("lora_layer.up.weight", "lora_layer.down.weight"),
    ("lora.B.weight", "lora.A.weight"),
    ("loraB.weight", "loraA.weight"),
    ("up.weight", "down.weight"),
    ("B.style.weight", "A.style.weight"),
]
BEFORE = [
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_fsdp_wrapped_module.",
    "_forward_module.module.",
    "base_model.model.",
    "base_model.model.transformer.",
    "unet.",
    "state_dict.ema.",
    "model.diffusion_model.",
    "student_ema.net.",
    "lora_unet.",
    "0.",
]
FLAT = ["lora_unet_", "lora_transformer_", "lycoris_", "lora_", "", "unet_lora_", "lora_unet__orig_mod_", "my_tool_"]


def written(file, key, dtype=torch.float32, more=None):
    """key: (parameter without .weight, "up" or "down") -> key."""
    tensors = {}
    for name, (rows, *rest) in SHAPES.items():
        place = name.removesuffix(".weight")
        tensors[key(place, "up")] = torch.ones(rows, 4).to(dtype)
        tensors[key(place, "down")] = torch.ones(4, *rest).to(dtype)
    save_file(tensors | (more or {}), file)
    return file


@pytest.mark.parametrize("up, down", ENDINGS)
def test_endings(tmp_path, up, down):
    for before in ("", "base_model.model."):
        file = written(tmp_path / "x.safetensors", lambda p, end: f"{before}{p}.{up if end == 'up' else down}")  # noqa: B023
        found = read_lora(file, SHAPES).factors
        assert found.keys() == SHAPES.keys()
        assert all(each.up.shape == (16, 4) and each.down.shape == (4, 8) for each in found.values())


@pytest.mark.parametrize("before", BEFORE)
def test_wrappers(tmp_path, before):
    file = written(tmp_path / "x.safetensors", lambda place, end: f"{before}{place}.lora_{end}.weight")
    assert read_lora(file, SHAPES).factors.keys() == SHAPES.keys()


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
@pytest.mark.parametrize("flat", [False, True])
def test_wrappers_between_names(tmp_path, wrapper, flat):
    if flat and wrapper == "module":
        pytest.skip("not to be told from a part of a name")

    def key(place, end):
        parts = place.split(".")
        inside = ".".join([*parts[:2], wrapper, *parts[2:]]) if len(parts) > 3 else place
        return f"lora_unet_{inside.replace('.', '_')}.lora_{end}.weight" if flat else f"{inside}.lora_{end}.weight"

    assert read_lora(written(tmp_path / "x.safetensors", key), SHAPES).factors.keys() == SHAPES.keys()


@pytest.mark.parametrize("before", FLAT)
def test_flat_names(tmp_path, before):
    def key(place, end):
        return f"{before}{place.replace('.', '_')}.lora_{end}.weight"

    more = {f"{before}{PLACE.replace('.', '_')}.alpha": torch.tensor(2.0)}
    found = read_lora(written(tmp_path / "x.safetensors", key, more=more), SHAPES).factors
    assert found.keys() == SHAPES.keys() and found[f"{PLACE}.weight"].factor == 0.5


@pytest.mark.parametrize("alpha", ["alpha", "lora_alpha", "lora.alpha", "network_alpha", "ALPHA", "alpha.default"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.int64, torch.uint8], ids=str
)
def test_alphas(tmp_path, alpha, dtype):
    more = {f"module.{PLACE}.{alpha}": torch.tensor([2.0]).to(dtype)}
    file = written(tmp_path / "x.safetensors", lambda place, end: f"module.{place}.lora_{end}.weight", more=more)
    found = read_lora(file, SHAPES).factors
    assert found[f"{PLACE}.weight"].factor == 0.5 and found["language_model.lm_head.weight"].told is False


def test_matrices_written_as_convolutions(tmp_path):
    shapes = {f"{PLACE}.weight": (16, 8)}
    save_file(
        {f"{PLACE}.lora_up.weight": torch.ones(16, 4, 1, 1), f"{PLACE}.lora_down.weight": torch.ones(4, 8, 1, 1)},
        tmp_path / "x.safetensors",
    )
    (found,) = read_lora(tmp_path / "x.safetensors", shapes).factors.values()
    assert (found.up.shape, found.down.shape) == ((16, 4), (4, 8))


@pytest.mark.parametrize(
    "key, said",
    [
        (f"{PLACE}.lora_mid.weight", "1 LoCon of three factors"),
        (f"{PLACE}.oft_blocks", "1 OFT"),
        ("language_model.model.embed_tokens.lora_embedding_A.default", "1 factors of a table of words"),
        (f"{PLACE}.lora_B.bias", "1 biases"),
        (f"{PLACE}.lora_B.default.bias", "1 biases"),
        (f"{PLACE}.ia3_l", r"1 \(IA\)3"),
        (f"{PLACE}.something", f"1 unknown: {PLACE}.something"),
        (f"text_encoder.{PLACE}.lora_B.weight", f"1 without their other half: text_encoder.{PLACE}"),
        (f"lora_te_{PLACE.replace('.', '_')}.lora_up.weight", "1 without their other half: lora_te_"),
        (f"{PLACE}.lora_B.other.weight", r"\(a second one\)"),
    ],
)
def test_what_stays_is_named(tmp_path, key, said):
    file = tmp_path / "x.safetensors"
    written(file, lambda place, end: f"{place}.lora_{end}.weight", more={key: torch.ones(16, 4)})
    with pytest.raises(CheckpointError, match=f"does not fit: .*{said}"):
        read_lora(file, SHAPES)


def test_two_adapters_in_one_file_are_named(tmp_path):
    more = {f"{PLACE}.lora_{end}.two.weight": torch.ones(size) for end, size in (("B", (16, 4)), ("A", (4, 8)))}
    letter = {"up": "B", "down": "A"}
    file = written(tmp_path / "x.safetensors", lambda p, end: f"{p}.lora_{letter[end]}.one.weight", more=more)
    with pytest.raises(CheckpointError, match="2 adapters in one file: one, two"):
        read_lora(file, SHAPES)


def test_many_unknown_keys_are_counted_and_cut(tmp_path):
    more = {f"{'x' * 500}{number}": torch.ones(1) for number in range(1000)}
    file = written(tmp_path / "x.safetensors", lambda place, end: f"{place}.lora_{end}.weight", more=more)
    with pytest.raises(CheckpointError, match=r"1000 unknown: x+, .* and 992 more") as error:
        read_lora(file, SHAPES)
    assert len(str(error.value)) < 2500


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_factors_of_other_types_draw_what_they_say(folders, load, tmp_path, dtype, vram_mode):
    source = folders("plain")[1]
    shapes = matrices(source, lambda name: drawing(name) or "lm_head" in name or "fm_head" in name)
    name = lambda place, end: f"_orig_mod.{place}.lora.{end}.weight"  # noqa: E731
    deltas = write_lora(tmp_path / "x.safetensors", shapes, alpha=None, name=name, dtype=dtype)
    assert {value.dtype for value in load_file(tmp_path / "x.safetensors").values()} == {dtype}
    base = tell(load(vram_mode=vram_mode))
    told = tell(load(vram_mode=vram_mode, loras=[(tmp_path / "x.safetensors", 1.0)]))
    expected = merged(source, tmp_path / "merged", [(deltas, 1.0)])

    check_close(told, tell(sensenova_core.load(expected, dtype="float32", vram_mode=vram_mode)), base, 1e-3)
