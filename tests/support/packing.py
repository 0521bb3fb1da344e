"""Checkpoints whose weights are packed, made from plain ones, with the numbers that they stand for beside them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sensenova_core.checkpoint.formats import FORMATS
from tests.support.geometries import TOKENIZER, geometry, save_aligned

Choose = Callable[[str, Tensor], str]  # (name, tensor) -> the type it gets
FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def wide(layers: int = 4) -> dict:
    """A config.json whose rows are whole blocks of every type, and whose output head is in several pieces."""
    raw = geometry(0)
    raw["llm_config"] |= {
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": TOKENIZER.get_vocab_size() + 3000,
    }
    return raw


def everywhere(type_name: str) -> Choose:
    """All matrices that the type fits, and the rest as GGUF files have it: vectors in F32, what does not fit in F16."""

    def choose(name: str, value: Tensor) -> str:
        if value.dim() < 2:
            return "F32"
        return type_name if value.dim() == 2 and value.shape[1] % FORMATS[type_name].block == 0 else "F16"

    return choose


def mixed(name: str, value: Tensor) -> str:
    """As the files that people have: types differ within a layer and between layers, and one layer is not packed."""
    if value.dim() < 2:
        return "F32"
    if value.dim() > 2 or ".layers.1." in name:
        return "F16"
    if "v_proj" in name or ("down_proj" in name and ".layers.2." in name):
        return "Q6_K"
    return "Q8_0" if "lm_head" in name else "Q5_0" if "k_proj" in name else "Q4_K"


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def write_gguf(source: Path, target: Path, choose: Choose, prefix: str = "") -> tuple[Path, Path]:
    """The folder with model.gguf, and one beside it with the numbers it stands for in float32.

    prefix: before the names in model.gguf.
    """
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed: no packed file can be written")
    packed, plain = _folders(source, target)
    writer, numbers = gguf.GGUFWriter(packed / "model.gguf", "sensenova"), {}
    for name, value in tensors_of(source).items():
        kind = choose(name, value)
        if kind in ("F32", "F16"):
            raw = value.to(FORMATS[kind].numbers)
            writer.add_tensor(prefix + name, raw.numpy())
            numbers[name] = raw.float()
            continue
        raw = quantised(kind, value)
        writer.add_tensor(prefix + name, raw, raw_dtype=gguf.GGMLQuantizationType[kind])
        numbers[name] = torch.from_numpy(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_aligned(numbers, plain / "model.safetensors")
    return packed, plain


def quantised(kind: str, value: Tensor) -> numpy.ndarray:
    """(rows, bytes). The gguf package makes the legacy types alone, none of blocks of 256: Q4_K is made here, and Q2_K,
    Q3_K, Q5_K and Q6_K have random bits, of the same spread as the weights, which test unpacking but no rounding.
    """
    if kind == "Q4_K":
        return q4_k(value)
    if not kind.endswith("_K"):
        import gguf

        return gguf.quants.quantize(value.float().numpy(), gguf.GGMLQuantizationType[kind])
    generator = numpy.random.default_rng(value.numel())
    blocks = value.numel() // 256
    raw = generator.integers(0, 256, (blocks, FORMATS[kind].block_bytes), dtype=numpy.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q5_K": (0, 2), "Q6_K": (208,)}[kind]
    spread = {"Q2_K": 0.006, "Q3_K": 0.002, "Q5_K": 0.0001, "Q6_K": 0.00005}[kind]
    for start in halves:
        raw[:, start : start + 2] = numpy.full((blocks, 1), spread, numpy.float16).view(numpy.uint8)
    return raw.reshape(value.shape[0], -1)


def q4_k(value: Tensor) -> numpy.ndarray:
    """Rounded to the nearest, with no search for better scales."""
    groups = value.float().reshape(-1, 8, 32)
    low = groups.amin(-1).clamp(max=0)
    step = (groups.amax(-1) - low) / 15
    d, dmin = (step.amax(-1, keepdim=True) / 63).half(), (-low).amax(-1, keepdim=True).div(63).half()
    scale, offset = (
        (each / of.float().clamp(min=1e-12)).round().clamp(0, 63) for each, of in ((step, d), (-low, dmin))
    )
    steps, offsets = (scale * d.float()).clamp(min=1e-12), offset * dmin.float()
    whole = ((groups + offsets[..., None]) / steps[..., None]).round().clamp(0, 15).to(torch.uint8)
    scale, offset = scale.to(torch.uint8), offset.to(torch.uint8)
    pairs = torch.cat([scale[:, :4] | (scale[:, 4:] >> 4 << 6), offset[:, :4] | (offset[:, 4:] >> 4 << 6)], -1)
    rest = (scale[:, 4:] & 15) | ((offset[:, 4:] & 15) << 4)
    nibbles = whole.view(-1, 4, 2, 32)
    nibbles = (nibbles[:, :, 0] | nibbles[:, :, 1] << 4).flatten(1)
    raw = torch.cat([d.view(torch.uint8), dmin.view(torch.uint8), pairs, rest, nibbles], -1)
    return raw.view(value.shape[0], -1).numpy()


def write_fp8(source: Path, target: Path, scaling: str, kind: str = "F8_E4M3") -> tuple[Path, Path]:
    """The folder with FP8 matrices, and one with the numbers they stand for in float32. The others are in BF16.

    scaling: "plain", or how a scale is called and what it is for.
    """
    packed, plain = _folders(source, target)
    stored, numbers = {}, {}
    for name, value in tensors_of(source).items():
        if value.dim() != 2:
            stored[name] = value.bfloat16() if "norm" not in name else value
            numbers[name] = stored[name].float()
            continue
        layer, value = name.removesuffix(".weight"), value.float()
        suffix, scale, spread = _scale_of(value, scaling)
        stored[name] = (value / spread).to(FP8[kind])
        numbers[name] = stored[name].float() * spread
        if scale is not None:
            stored[f"{layer}.{suffix}"] = scale
        if scaling == "scale_weight":
            stored[f"{layer}.scale_input"] = torch.tensor(3.0)
    if scaling == "scale_weight":
        stored["scaled_fp8"] = torch.empty(0, dtype=FP8[kind])
    save_file(stored, packed / "model.safetensors")
    save_aligned(numbers, plain / "model.safetensors")
    return packed, plain


def _scale_of(value: Tensor, scaling: str) -> tuple[str, Tensor | None, Tensor]:
    """How the scale is called, as it is stored, and spread over the numbers."""
    rows, columns = value.shape
    if scaling == "plain":
        return "", None, torch.ones(())
    if scaling in ("scale_weight", "weight_scale"):
        scale = value.abs().amax() / 448
        return scaling, scale, scale
    if scaling == "rows":
        scale = (value.abs().amax(1, keepdim=True) / 448).clamp(min=1e-6).bfloat16()
        return "weight_scale", scale, scale.float()
    tall, broad = -(-rows // 128), -(-columns // 128)
    scale = torch.rand(tall, broad, generator=torch.Generator().manual_seed(rows)) * 0.002 + 0.0005
    spread = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return "weight_scale_inv", scale, spread


def _folders(source: Path, target: Path) -> tuple[Path, Path]:
    folders = target / "packed", target / "plain"
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json"):
            shutil.copyfile(source / name, folder / name)
    return folders
