"""Quantised formats that are not read, by name: told by the tensors they keep, which no config can deny."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from .comfy_quant import Kept, unread_format
from .formats import FORMATS
from .scales import SCALES
from .tensors import TensorHeader

INSTEAD = (
    "take its BF16 version, one in INT8 (ComfyUI's, ConvRot or plain) or FP8 (E4M3 or E5M2, scaled or not), or a GGUF "
    "file such as Q8_0 or Q4_K_M"
)
_GGUF = re.compile(r"(I?Q\d|TQ\d|MXFP4$|NVFP4$)")  # types of blocks, which only GGUF files have
# What configs call a method -> what people call it.
_METHODS = {
    **{"bitsandbytes": "bitsandbytes", "awq": "AWQ", "gptq": "GPTQ", "exl2": "EXL2", "exl3": "EXL3", "hqq": "HQQ"},
    **{"mxfp4": "MXFP4", "nvfp4": "NVFP4", "torchao": "torchao", "compressed-tensors": "compressed-tensors"},
    **{"quanto": "quanto", "aqlm": "AQLM", "eetq": "EETQ", "svdquant": "SVDQuant (Nunchaku)", "modelopt": "ModelOpt"},
    **{"w4a8": "W4A8", "w4a16": "W4A16", "w8a8": "W8A8 (INT8)", "int8": "INT8", "int4": "int4", "qserve": "W4A8"},
    **{"auto-round": "AutoRound", "higgs": "HIGGS", "bitnet": "BitNet", "fbgemm": "FBGEMM"},
}
# Of packed weights and their scales.
_WHOLE = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "F4", "F6_E2M3", "F6_E3M2"}
_WHOLE |= {"F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


@dataclass(frozen=True)
class _Found:
    """What is looked at. leaves: the last part of each name, with types it is kept in."""

    names: tuple[str, ...]
    leaves: Mapping[str, set[str]]

    def any(self, *leaves: str) -> bool:
        return any(leaf in self.leaves for leaf in leaves)

    @property
    def has_int8(self) -> bool:
        return "I8" in self.leaves.get("weight", ())

    def said(self, pattern: str) -> bool:
        tells = re.compile(pattern)
        return any(map(tells.search, self.names))


# The first that fits names a format; those with more that tells come before those with less.
_TELLS: tuple[tuple[str, Callable[[_Found], bool]], ...] = (
    ("SVDQuant (Nunchaku)", lambda f: f.any("wscales", "wtscale", "wcscales", "smooth_factor", "smooth", "proj_down")),
    ("NF4 (bitsandbytes)", lambda f: f.said(r"bitsandbytes__nf4|\.nested_absmax$")),
    ("FP4 (bitsandbytes)", lambda f: f.said(r"bitsandbytes__fp4")),
    ("NF4 or FP4 (bitsandbytes)", lambda f: f.any("absmax", "quant_map")),
    ("INT8 (bitsandbytes)", lambda f: f.any("SCB", "weight_format")),
    ("EXL2", lambda f: f.any("q_weight", "q_invperm", "q_scale_max")),
    ("EXL3", lambda f: f.any("trellis", "suh", "svh")),
    ("W4A8 (QServe)", lambda f: f.any("s1_scales", "s2_scales", "s1_szeros", "s2_zeros")),
    ("GPTQ", lambda f: f.any("g_idx")),
    ("AWQ or GPTQ", lambda f: f.any("qweight", "qzeros")),
    ("HQQ", lambda f: f.any("W_q")),
    ("AQLM", lambda f: f.any("codebooks")),
    ("torchao", lambda f: f.said(r"(?:[.:_])(?:qdata|int_data|packed_weight|original_weight_tensor)$|tensor_impl")),
    ("quanto", lambda f: f.any("_data", "_scale", "_packed")),
    ("NVFP4", lambda f: f.any("weight_scale_2", "weight_global_scale", "input_global_scale")),
    ("compressed-tensors (int4)", lambda f: f.any("weight_packed")),
    ("MXFP4", lambda f: f.said(r"_blocks$") and f.said(r"_scales$")),
    ("MXFP8", lambda f: "F8_E4M3" in f.leaves.get("weight", ()) and bool({"F8_E8M0", "U8"} & _scales_of(f))),
    ("MXFP4", lambda f: "F8_E8M0" in _scales_of(f)),
    ("4-bit floating point (NVFP4 or MXFP4)", lambda f: any("F4" in types for types in f.leaves.values())),
    ("6-bit floating point", lambda f: any({"F6_E2M3", "F6_E3M2"} & types for types in f.leaves.values())),
    ("FP8 of AMD's kind (FNUZ)", lambda f: any(kind.endswith("FNUZ") for kind in f.leaves.get("weight", ()))),
    ("W4A8", lambda f: f.any("weight_s_rel", "weight_s_channel", "weight_codebook")),
    ("INT8 with zero points", lambda f: f.has_int8 and f.any("weight_zero_point", "zero_point", "zeros", "qzeros")),
    ("INT8 without scales", lambda f: f.has_int8 and not f.any(*SCALES)),
    ("int4", lambda f: bool({"U8", "I32", "U32"} & f.leaves.get("weight", set()))),
)


def quantised_as(
    headers: Mapping[str, TensorHeader],
    metadata: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    *,
    kept: Mapping[str, Kept],
) -> str | None:
    """The format that a checkpoint is in, by name, if it is one that is not read.

    config: a config.json's content, which may name the method. kept: what ComfyUI says of layers. Tensors and this
    alone decide whether it is any.
    """
    if (unread := unread_format(kept)) is not None:
        return unread
    blocks = sorted({each.dtype for each in headers.values() if each.dtype not in FORMATS and _GGUF.match(each.dtype)})
    if blocks:
        return f"GGUF's {' and '.join(blocks)}"
    leaves: dict[str, set[str]] = {}
    for name, header in headers.items():
        leaves.setdefault(name.rpartition(".")[2], set()).add(header.dtype)
    found = _Found(tuple(headers), leaves)
    if not any(types & _WHOLE for types in found.leaves.values()) and not found.said(r"weight_scale_2$"):
        return None
    kind = next((kind for kind, tells in _TELLS if tells(found)), None)
    said = _said(metadata, config)
    if kind is not None:
        return _both(kind, said)
    packed = [each for each in headers.values() if each.dtype in _WHOLE - {"I8"} and each.numel > 2**12]
    return said if packed else None


def _both(kind: str, said: str | None) -> str:
    """What tensors tell and what is said of them, as one name."""
    if said is None or kind in said:
        return said or kind
    return (said if " or " in kind else kind) if said in kind else f"{said}, {kind}"


def refused(where: str, kind: str) -> CheckpointError:
    return CheckpointError(f"{where} is quantised as {kind}, which is not read here; {INSTEAD}")


def _scales_of(found: _Found) -> set[str]:
    return {kind for leaf, kinds in found.leaves.items() if "scale" in leaf for kind in kinds}


def _said(metadata: Mapping[str, Any], config: Mapping[str, Any] | None) -> str | None:
    """What a config or the file's own metadata call the method, as people call it."""
    about = config.get("quantization_config") if config else None
    about = about if isinstance(about, dict) else {}
    method = str(about.get("quant_method") or about.get("quant_algo") or "").lower()[:40]
    if method == "compressed-tensors":
        return _by_bits(about) or "compressed-tensors"
    if method in _METHODS:
        return _METHODS[method]
    for key, value in metadata.items():
        if "quantization" in key and isinstance(value, str):
            text = value[:4096].lower()
            return next((name for method, name in _METHODS.items() if method in text), None)
    return None


def _by_bits(about: Mapping[str, Any]) -> str | None:
    """W4A8 and its like, as compressed-tensors says them: of weights and of what runs through them."""
    try:
        group = next(iter(about["config_groups"].values()))
        weights, inputs = group["weights"], group.get("input_activations") or {"num_bits": 16}
        kind = "NVFP4" if weights.get("type") == "float" and weights["num_bits"] == 4 else ""
        return kind or f"W{int(weights['num_bits'])}A{int(inputs['num_bits'])}"
    except (KeyError, TypeError, AttributeError, StopIteration, ValueError):
        return None
