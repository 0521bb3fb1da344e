"""Scales that FP8 and INT8 checkpoints keep beside their weights, found by name and put in their weights' headers."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

import torch

from ..errors import CheckpointError
from .tensors import TensorHeader

# What a layer's scale is called beside "weight": by ComfyUI, by most others, and where a scale is of 128 x 128 numbers.
# All of them are factors, also the one that is called an inverse.
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
IGNORED = ("scale_input", "input_scale")  # of inputs, whose scales are computed here
MARK = "scaled_fp8"  # ComfyUI's, of a file whose layers all have scales
QUANTISED = ("F8", "I8")  # types that may have scales begin so
_NUMBER = re.compile(r"\.\d+\.")
_TABLE = ".embed_tokens."
_SHOWN = 3


def with_scales(headers: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """The weights alone, each with its scale if it has one. What belongs to no weight is left as it is.

    Raises CheckpointError for a weight with two.
    """
    weights = dict(headers)
    for name, header in headers.items():
        layer, _, leaf = name.rpartition(".")
        weight = weights.get(f"{layer}.weight")
        if leaf == MARK:
            del weights[name]
        elif weight is not None and leaf in SCALES:
            if weight.scale is not None:
                raise CheckpointError(f"{header.file}: {layer} has two scales, {leaf} is one of them; fetch it again")
            weights[f"{layer}.weight"] = replace(weight, scale=header)
            del weights[name]
        elif weight is not None and leaf in IGNORED and weight.dtype.startswith(QUANTISED):
            del weights[name]
    return weights


def check_all_scaled(headers: Mapping[str, TensorHeader], *, marked: bool) -> None:
    """Raise CheckpointError for INT8 and FP8 matrices without the scale that they are to be multiplied with.

    Where one of INT8 has it, all must. marked: whether the file says that its layers have scales. Then all of FP8 must
    have one; the embedding table is no layer. In other files, FP8 layers of one kind must all have one, or none of
    them. headers: by published names.
    """
    fp8 = {name: header for name, header in headers.items() if header.dtype.startswith("F8") and len(header.shape) == 2}
    scaled = {
        _NUMBER.sub(".*.", name) for name, header in fp8.items() if header.scale is not None and header.scale_fits
    }
    missing = [
        name
        for name, header in fp8.items()
        if header.scale is None and (_NUMBER.sub(".*.", name) in scaled or (marked and _TABLE not in name))
    ]
    int8 = {name: header for name, header in headers.items() if header.dtype == "I8"}
    if any(header.scale is not None for header in int8.values()):
        missing += [name for name, header in int8.items() if header.scale is None]
    if missing:
        file, kind = headers[missing[0]].file, "FP8" if missing[0] in fp8 else "INT8"
        raise CheckpointError(
            f"{file}: {len(missing)} {kind} weights without the scale that they are to be multiplied with: "
            f"{', '.join(missing[:_SHOWN])}{', ...' if len(missing) > _SHOWN else ''}; fetch it or another anew"
        )


def check_scales(headers: Mapping[str, TensorHeader]) -> None:
    """Raise CheckpointError for a scale that is no finite number: what it is for would be none either.

    Those of a type or shape that no scale has are not read; `check_tensors` names them.
    """
    readable = [
        (header.scale.file, name, header.scale)
        for name, header in headers.items()
        if header.scale is not None and header.scale_fits and header.scale.numel
    ]
    for file, scales in groupby(sorted(readable, key=lambda each: each[0]), key=lambda each: each[0]):
        with open(file, "rb") as stream:
            for _, name, scale in scales:
                stream.seek(scale.start)
                raw = bytearray(stream.read(scale.nbytes))
                if not torch.frombuffer(raw, dtype=scale.format.numbers).isfinite().all():
                    raise CheckpointError(f"{file}: the scale of {name} is not a finite number; fetch the file again")
