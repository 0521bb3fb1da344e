"""Which linear layers of a model multiply INT8, and the model made so."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import nn

from ..errors import SettingsError
from ..model.int8 import Int8Linear, fits, is_multiplied_on, is_quick_on
from .names import checkpoint_name
from .tensors import TensorHeader

WEIGHT, SCALE = "weight", "weight_scale"


def multiplied(
    model: nn.Module, headers: Mapping[str, TensorHeader], *, compute: str, device: torch.device
) -> frozenset[str]:
    """Published names of the weights that are multiplied as INT8, of a model whose layers are all of floats.

    compute: "auto" takes those that are stored so, where that is quick; "int8" all in decoder layers; "bf16" none.
    Raises SettingsError for "int8" on a device that cannot.
    """
    if compute == "int8" and not is_multiplied_on(device):
        raise SettingsError(
            f"int8: {device} has no products of INT8", "choose auto or bf16", setting="compute", value=compute
        )
    if compute == "bf16" or not (compute == "int8" or is_quick_on(device)):
        return frozenset()
    found = set()
    for name, linear in model.named_modules():
        if not (isinstance(linear, nn.Linear) and ".decoder.layers." in name and name.endswith("_proj")):
            continue
        weight = checkpoint_name(f"{name}.{WEIGHT}")
        wanted = compute == "int8" or (is_stored(headers[weight]) and not headers[weight].in_floats)
        if wanted and fits(linear.in_features, linear.out_features, device):
            found.add(weight)
    return frozenset(found)


def is_stored(header: TensorHeader) -> bool:
    """Whether a weight is stored as it is multiplied: with one scale, or one for each row."""
    return header.dtype == "I8" and header.scale is not None and header.scale.table in ((1, 1), (header.rows, 1))


def make_int8(model: nn.Module, headers: Mapping[str, TensorHeader], names: Collection[str]) -> None:
    """Put layers of INT8 in the place of those with weights of these names, on the meta device."""
    for path, linear in [*model.named_modules()]:
        if not isinstance(linear, nn.Linear) or (name := checkpoint_name(f"{path}.{WEIGHT}")) not in names:
            continue
        header, (above, _, leaf) = headers[name], path.rpartition(".")
        stored = is_stored(header)
        scales = header.scale.table[0] if stored and header.scale is not None else linear.out_features
        with torch.device("meta"):
            layer = Int8Linear(
                linear.in_features, linear.out_features, scales=scales, group=header.group if stored else 0
            )
        setattr(model.get_submodule(above), leaf, layer)


def scale_of(name: str) -> str:
    """What the scale of a weight is called."""
    return f"{name.removesuffix(WEIGHT)}{SCALE}"


def as_multiplied(headers: Mapping[str, TensorHeader], names: Collection[str]) -> dict[str, TensorHeader]:
    """The stored tensors, with weights of these names and their scales apart where they run as they are stored."""
    apart = dict(headers)
    for name in names:
        header = headers[name]
        if is_stored(header) and header.scale is not None:
            apart[name] = replace(header, scale=None, runs=True)
            apart[scale_of(name)] = replace(header.scale, shape=(header.scale.table[0], 1))
    return apart
