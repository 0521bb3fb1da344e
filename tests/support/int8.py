"""Checkpoints of INT8 as ComfyUI stores them, made by comfy-kitchen from plain ones, and their numbers beside them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.geometries import save_aligned
from tests.support.packing import tensors_of

FP8 = ("fp8", "fp8 as bytes")  # W8A8, as `-Native` has it; the second as earlier versions of ComfyUI wrote it
KINDS = ("convrot", "convrot in params", "convrot 64", "convrot 16", "rows", "one scale", "mixed", "in metadata")
ROWS = {"format": "int8_tensorwise"}


def said(group: int = 0, **other) -> dict:
    """What ComfyUI says of an INT8 layer."""
    return ROWS | ({"convrot": True, "convrot_groupsize": group} if group else {}) | other


def as_bytes(about: dict) -> Tensor:
    return torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)


def is_layer(name: str) -> bool:
    """Of matrices that the files which people have keep in INT8."""
    return "_proj" in name and ".layers." in name


def kept(kind: str, name: str) -> dict | None:
    """How a layer is kept in a checkpoint of a kind; None for in BF16."""
    if kind == "mixed":  # types and rotations that differ within a layer and between layers
        if "v_proj" in name or ".layers.1." in name:
            return None
        return said(16) if "k_proj" in name else said() if "up_proj" in name else said(256)
    if kind in FP8:
        return {"format": "float8_e4m3fn"}
    if kind == "convrot in params":
        return ROWS | {"params": {"convrot": True, "convrot_groupsize": 256}}
    return said({"convrot": 256, "convrot 64": 64, "convrot 16": 16, "in metadata": 256}.get(kind, 0))


def write_int8(
    source: Path, target: Path, kind: str, *, wanted: Callable[[str], bool] = is_layer, prefix: str = ""
) -> tuple[Path, Path]:
    """The folder with INT8 matrices, and one with the numbers that comfy-kitchen says they stand for, in float32.

    wanted: names of the matrices that are quantised. prefix: before all names in the file.
    """
    kitchen = pytest.importorskip("comfy_kitchen.backends.eager.quantization", reason="comfy-kitchen is not installed")
    packed, plain = (shutil.copytree(source, target / name) for name in ("packed", "plain"))
    stored, numbers, layers = {}, {}, {}
    for name, value in tensors_of(source).items():
        about = kept(kind, name) if value.dim() == 2 and wanted(name) else None
        if about is None:
            stored[name] = value if "norm" in name else value.bfloat16()
            numbers[name] = stored[name].float()
            continue
        layer, group = name.removesuffix(".weight"), (about | about.get("params", {})).get("convrot_groupsize", 0)
        if kind in FP8:
            scale = value.float().abs().max() / 448
            whole = kitchen.quantize_per_tensor_fp8(value.float(), scale)
            numbers[name] = kitchen.dequantize_per_tensor_fp8(whole, scale, torch.float32)
            whole = whole.view(torch.uint8) if kind == "fp8 as bytes" else whole
            stored[f"{layer}.input_scale"] = torch.tensor(0.02)
        elif group:
            whole, scale = kitchen.quantize_int8_convrot_weight(value.float(), group)
            numbers[name] = kitchen.dequantize_int8_convrot_weight(whole, scale, group)
        else:
            quantise = kitchen.quantize_int8_tensorwise if kind == "one scale" else kitchen.quantize_int8_rowwise
            whole, scale = quantise(value.float())
            numbers[name] = kitchen.dequantize_int8_simple(whole, scale)
        stored |= {name: whole, f"{layer}.weight_scale": scale}
        if kind == "in metadata":
            layers[prefix + layer] = about
        else:
            stored[f"{layer}.comfy_quant"] = as_bytes(about)
    about = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})} if layers else None
    for folder in (packed, plain):
        for file in folder.glob("*.safetensors*"):
            file.unlink()
    save_file({prefix + name: value for name, value in stored.items()}, packed / "model.safetensors", about)
    save_aligned(numbers, plain / "model.safetensors")
    return packed, plain
