"""What ComfyUI says of each quantised layer: a little JSON beside its weight, or in the file's metadata.

Of a layer's format, and whether its weight was rotated: {"format": "int8_tensorwise", "convrot": true,
"convrot_groupsize": 256}, where the last two may also stand under "params".
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from ..errors import CheckpointError
from ..model.int8 import GROUP, is_group
from .tensors import TensorHeader

LEAF = "comfy_quant"
_IN_METADATA = "_quantization_metadata"
_MOST_BYTES = 2**16  # of one layer's JSON
# Formats that are read, and how people call others.
_AS_BYTES = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
READ = ("int8_tensorwise", "float8_e4m3fn", "float8_e5m2", "")
_CALLED = {
    **{"nvfp4": "NVFP4", "mxfp8": "MXFP8", "mxfp4": "MXFP4", "int8_blockwise": "INT8 in blocks"},
    **{"asym_w4a8_int8": "W4A8", "convrot_w4a4": "W4A4 (ConvRot)", "svdquant_w4a4": "SVDQuant (Nunchaku)"},
    **{"awq_w4a16": "AWQ (W4A16)", "int4": "int4", "nf4": "NF4"},
}


@dataclass(frozen=True)
class Kept:
    """How ComfyUI keeps one layer. group: columns rotated together, 0 for none. unpacked: whether it is to compute in
    floating point, whatever the device can."""

    format: str = ""
    group: int = 0
    unpacked: bool = False


def kept_layers(headers: Mapping[str, TensorHeader], metadata: Mapping[str, Any]) -> dict[str, Kept]:
    """Name of a layer in the file -> how it is kept, of those that something is said of.

    Raises CheckpointError for JSON that cannot be read, and for a rotation that does not exist or fit.
    """
    said: dict[str, Any] = {}
    if isinstance(about := metadata.get(_IN_METADATA), str):
        layers = _parsed(about, f"the metadata's {_IN_METADATA}").get("layers")
        said |= layers if isinstance(layers, dict) else {}
    said |= dict(_beside(headers))
    return {layer: _kept(about, layer, headers.get(f"{layer}.weight")) for layer, about in said.items()}


def as_kept(headers: Mapping[str, TensorHeader], kept: Mapping[str, Kept]) -> dict[str, TensorHeader]:
    """The tensors without what is said of them, their weights as it is said. Of one that is not quantised, whatever is
    said changes nothing."""
    weights = {name: header for name, header in headers.items() if not _is_json(name, header)}
    for layer, about in kept.items():
        weight = weights.get(f"{layer}.weight")
        if weight is not None and weight.dtype == "U8" and about.format in _AS_BYTES:  # as earlier versions wrote it
            weights[f"{layer}.weight"] = replace(weight, dtype=_AS_BYTES[about.format])
        elif weight is not None and weight.dtype == "I8":
            weights[f"{layer}.weight"] = replace(weight, group=about.group, in_floats=about.unpacked)
    return weights


def unread_format(kept: Mapping[str, Kept]) -> str | None:
    """A format that is not read here, as people call it; None if all are."""
    unread = next((each.format for each in kept.values() if each.format not in READ), None)
    return None if unread is None else _CALLED.get(unread, unread[:40])


def _beside(headers: Mapping[str, TensorHeader]) -> Iterator[tuple[str, Any]]:
    """(layer, what its JSON says) of every layer that has any."""
    found = [(header.file, name, header) for name, header in headers.items() if _is_json(name, header)]
    for file, tensors in groupby(sorted(found, key=lambda each: each[:2]), key=lambda each: each[0]):
        with open(file, "rb") as stream:
            for _, name, header in tensors:
                stream.seek(header.start)
                text = stream.read(header.own_bytes).decode("utf-8", "replace").strip("\0 \n")
                yield name.rpartition(".")[0], _parsed(text, f"{file}: {name[:100]}") if text else {}


def _is_json(name: str, header: TensorHeader) -> bool:
    return name.rpartition(".")[2] == LEAF and header.dtype in ("U8", "I8") and header.numel <= _MOST_BYTES


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where} is no JSON object, which says how layers are quantised; fetch the file again")
    return raw


def _kept(about: Any, layer: str, weight: TensorHeader | None) -> Kept:
    about = about if isinstance(about, dict) else {}
    params = about.get("params")
    about = (params if isinstance(params, dict) else {}) | about
    turned, group = bool(about.get("convrot")), about.get("convrot_groupsize", GROUP)
    if turned and weight is not None and weight.dtype == "I8":
        _check_group(group, layer, weight)
    return Kept(
        format=str(about.get("format") or "").lower(),
        group=group if turned and isinstance(group, int) else 0,
        unpacked=bool(about.get("full_precision_matrix_mult")),
    )


def _check_group(group: Any, layer: str, weight: TensorHeader) -> None:
    where = f"{weight.file}: the weight of {layer[:100]} is said to be rotated by groups of {str(group)[:20]} columns"
    if not isinstance(group, int) or isinstance(group, bool) or not is_group(group):
        raise CheckpointError(f"{where}, which is no power of 4; fetch the file again")
    if weight.width % group:
        raise CheckpointError(f"{where}, of which its {weight.width} columns are no multiple; fetch the file again")
