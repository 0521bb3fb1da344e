"""Quantised formats that are not read: refused by name, with what to take instead, before any list of tensors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.checkpoint import open_checkpoint
from tests.support.geometries import geometry, write_checkpoint
from tests.support.streaming import draw_short

U8, I8, I32, F8, BF16 = torch.uint8, torch.int8, torch.int32, torch.float8_e4m3fn, torch.bfloat16
# What a layer is kept as -> its tensors by the last parts of their names.
FORMATS = {
    "NF4": {"weight": U8, "weight.absmax": U8, "weight.quant_map": BF16, "weight.quant_state.bitsandbytes__nf4": U8},
    "FP4": {"weight": U8, "weight.absmax": U8, "weight.quant_state.bitsandbytes__fp4": U8},
    "INT8 (bitsandbytes)": {"weight": I8, "SCB": BF16, "weight_format": U8},
    "GPTQ": {"qweight": I32, "qzeros": I32, "scales": BF16, "g_idx": I32},
    "AWQ": {"qweight": I32, "qzeros": I32, "scales": BF16},
    "EXL2": {"q_weight": I32, "q_scale": I32, "q_scale_max": BF16, "q_invperm": I32, "q_groups": I32},
    "EXL3": {"trellis": torch.int16, "suh": BF16, "svh": BF16},
    "SVDQuant (Nunchaku)": {"qweight": I8, "wscales": BF16, "lora_down": BF16, "lora_up": BF16, "smooth_factor": BF16},
    "NVFP4": {"weight": U8, "weight_scale": F8, "weight_scale_2": BF16},
    "torchao": {"weight._data": I8, "weight:qdata": I8, "weight:scale": BF16},
    "W4A8": {"qweight": I8, "s1_scales": BF16, "s2_scales": I8},
    "HQQ": {"W_q": U8, "meta": U8},
    "INT8 without scales": {"weight": I8},
    "INT8 with zero points": {"weight": I8, "weight_scale": BF16, "weight_zero_point": I8},
    "W4A8,": {"weight": I8, "weight_s_rel": F8, "weight_s_channel": BF16},
    "int4": {"weight": U8, "weight_scale": BF16},
    "MXFP4": {"weight_blocks": U8, "weight_scales": U8},
    "MXFP8": {"weight": F8, "weight_scale": U8},
}


@pytest.fixture
def kept_as(tmp_path):
    """The tensors of a layer by the ends of their names -> a checkpoint whose matrices are kept so."""

    def write(layer: dict[str, torch.dtype], config: dict | None = None, metadata: dict | None = None) -> Path:
        folder = write_checkpoint(tmp_path / "model", geometry(4))
        stored = {}
        for name, value in load_file(folder / "model.safetensors").items():
            if "_proj" not in name or value.dim() != 2:
                stored[name] = value.bfloat16()
                continue
            for end, dtype in layer.items():
                stored[f"{name.removesuffix('.weight')}.{end}"] = value.abs().to(dtype)
        save_file(stored, folder / "model.safetensors", metadata)
        if config:
            raw = json.loads((folder / "config.json").read_text()) | {"quantization_config": config}
            (folder / "config.json").write_text(json.dumps(raw))
        return folder

    return write


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        sensenova_core.load(path)
    message = str(refused.value)
    assert "BF16 version" in message and "Q8_0" in message and "_proj" not in message and len(message) < 500
    assert str(path) in message and "fetch it again" not in message
    return message


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_named(kept_as, kind):
    folder = kept_as(FORMATS[kind])
    assert kind in refusal(folder)
    (folder / "config.json").unlink()
    assert kind in refusal(folder) and kind in refusal(folder / "model.safetensors")


@pytest.mark.parametrize(
    "config, said",
    [
        ({"quant_method": "awq", "bits": 4}, "AWQ"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "auto-round"}, "AutoRound"),
        ({"quant_method": 7}, "AWQ or GPTQ"),
    ],
)
def test_a_config_names_what_tensors_leave_open(kept_as, config, said):
    assert f"quantised as {said}" in refusal(kept_as(FORMATS["AWQ"], config))


@pytest.mark.parametrize("weights, inputs, said", [(4, 8, "W4A8"), (4, None, "W4A16"), (8, 8, "W8A8")])
def test_compressed_tensors_by_their_bits(kept_as, weights, inputs, said):
    group = {"weights": {"num_bits": weights, "type": "int"}, "input_activations": inputs and {"num_bits": inputs}}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    layer = {"weight_packed": I32, "weight_scale": BF16, "weight_shape": torch.int64}
    assert said in refusal(kept_as(layer, config))


@pytest.mark.parametrize(
    "form, said",
    [
        ("nvfp4", "NVFP4"),
        ("mxfp8", "MXFP8"),
        ("asym_w4a8_int8", "W4A8"),
        ("convrot_w4a4", "W4A4 (ConvRot)"),
        ("nf4", "NF4"),
        ("int3_of_tomorrow", "int3_of_tomorrow"),
    ],
)
@pytest.mark.parametrize("place", ["beside", "metadata"])
def test_formats_that_comfyui_names(kept_as, form, said, place):
    """Whatever the tensors look like: W4A8 and W4A4 lie in int8 as well."""
    layers = {"layers": {"language_model.model.layers.0.self_attn.q_proj": {"format": form}}}
    metadata = {"_quantization_metadata": json.dumps(layers)} if place == "metadata" else None
    folder = kept_as({"weight": I8, "weight_scale": BF16}, None, metadata)
    if place == "beside":
        stored = load_file(folder / "model.safetensors")
        about = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=U8)
        stored["language_model.model.layers.0.self_attn.q_proj.comfy_quant"] = about
        save_file(stored, folder / "model.safetensors")
    assert f"quantised as {said}," in refusal(folder)


def test_a_config_alone_refuses_nothing(kept_as):
    """Weights that were made whole again often keep it."""
    for config in ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "awq"}):
        assert open_checkpoint(kept_as({"weight": BF16}, config)).headers


@pytest.mark.parametrize("kind", ["IQ4_NL", "MXFP4", "IQ4_XS", "TQ1_0"])
def test_types_of_gguf(tmp_path, kind):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "sensenova")
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    raw = np.zeros((4, 256 // block * size), np.uint8)
    writer.add_tensor("fm_modules.a.weight", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert f"GGUF's {kind}" in refusal(tmp_path / "m.gguf")


def fp8_without_a_scale(folder: Path, scale: str, missing: str, marked: bool) -> Path:
    stored = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if "_proj" not in name or value.dim() != 2:
            stored[name] = value.bfloat16()
            continue
        stored[name] = value.to(F8)
        if missing not in name:
            stored[name.replace(".weight", f".{scale}")] = torch.tensor(1.0)
    if marked:
        stored["scaled_fp8"] = torch.empty(0, dtype=F8)
    save_file(stored, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "scale, missing, marked",
    [
        ("scale_weight", "layers.1.self_attn.q_proj.", True),
        ("weight_scale", "layers.0.self_attn.k_proj_mot_gen.", False),
        ("scale_weight", "q_proj", True),
        ("weight_scale_inv", "layers.2.", False),
    ],
)
def test_fp8_without_one_of_its_scales(tmp_path, scale, missing, marked):
    folder = write_checkpoint(tmp_path / "m", geometry(0))
    with pytest.raises(CheckpointError, match=r"FP8 weights without the scale.*model\.layers") as error:
        sensenova_core.load(fp8_without_a_scale(folder, scale, missing, marked))
    assert "model.safetensors" in str(error.value)


def test_fp8_without_any_scale_and_a_plain_table_are_read(tmp_path):
    folder = write_checkpoint(tmp_path / "m", geometry(0))
    assert open_checkpoint(fp8_without_a_scale(folder, "weight_scale", "", False)).headers


def test_float64_is_read(tmp_path):
    folder = write_checkpoint(tmp_path / "m", geometry(0), torch.float32)
    expected = drawn(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.double() for name, value in tensors.items()}, folder / "model.safetensors")
    assert (drawn(folder) - expected).abs().max() < 1e-4


def drawn(folder: Path) -> torch.Tensor:
    return draw_short(sensenova_core.load(folder, dtype="float32"), steps=1)
