"""Products of INT8, and of weights that are unpacked from FP8."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint.formats import FORMATS
from ..model import int8
from .check import Absent, Check, difference, randoms, unequal

ROWS, INPUTS, OUTPUTS, GROUP = 70, 512, 256, 256
INT8_LIMIT = 0.02  # both sides rounded to whole numbers of a byte: 0.01
UNPACKED_LIMIT = 6e-3
# Bits of the exponent, its bias, and whether the largest one means infinity.
FP8 = {"F8_E4M3": (4, 7, False), "F8_E5M2": (5, 15, True)}


def checks(device: torch.device) -> Iterator[Check]:
    yield Check("INT8", "sums of whole numbers", 0, partial(_sums, device))
    yield Check("INT8", "product with scales", INT8_LIMIT, partial(_int8, device, 0))
    yield Check("INT8", "product, rotated (ConvRot)", INT8_LIMIT, partial(_int8, device, GROUP))
    for group, name in ((0, "comfy-kitchen, with scales"), (GROUP, "comfy-kitchen, rotated")):
        yield Check("INT8", name, INT8_LIMIT, partial(_fused, device, group))
    for name in FP8:
        yield Check("FP8", f"{name[3:]} unpacked", 0, partial(_unpacked, device, name))
        yield Check("FP8", f"{name[3:]} product in bfloat16", UNPACKED_LIMIT, partial(_fp8, device, name))


def _sums(device: torch.device) -> float:
    """The largest numbers among them, whose sums leave 16 bits."""
    _need_int8(device)
    random = torch.Generator().manual_seed(0)
    numbers, weight = (
        torch.randint(-128, 128, (rows, INPUTS), generator=random).to(torch.int8) for rows in (ROWS, OUTPUTS)
    )
    numbers[:2], weight[0] = -128, -128
    layer = _filled(weight.to(device), torch.ones(1, 1, device=device))
    return unequal(layer.sums(numbers.to(device)), (numbers.long() @ weight.long().T).to(torch.int32))


@torch.inference_mode()
def _int8(device: torch.device, group: int) -> float:
    """Through torch, against the product of what was rounded."""
    _need_int8(device)
    x, weight = _given()
    layer = _layer(weight, group, device=device)
    numbers, scale = int8.quantised(x.to(device), group)
    ours = layer.sums(numbers).float() * scale * layer.weight_scale.view(1, -1)
    return difference(ours, F.linear(x.double(), weight.double()))


@torch.inference_mode()
def _fused(device: torch.device, group: int) -> float:
    if device.type != "cuda":
        raise Absent("needs an NVIDIA card")
    multiply = int8.fused_on(device)
    if multiply is None:
        raise Absent("comfy-kitchen is not installed, or too old")
    x, weight = _given()
    ours = multiply(x.to(device, torch.bfloat16), _layer(weight, group, device=device))
    return difference(ours, F.linear(x.double(), weight.double()))


def _need_int8(device: torch.device) -> None:
    if not int8.is_multiplied_on(device):
        raise Absent("this device multiplies no INT8; compute auto does without")


def _given() -> tuple[Tensor, Tensor]:
    return randoms(ROWS, INPUTS), randoms(OUTPUTS, INPUTS, seed=1)


def _layer(weight: Tensor, group: int, *, device: torch.device) -> int8.Int8Linear:
    numbers, scale = int8.quantised(weight, group)
    return _filled(numbers.to(device), scale.to(device), group)


def _filled(numbers: Tensor, scale: Tensor, group: int = 0) -> int8.Int8Linear:
    layer = int8.Int8Linear(numbers.shape[1], numbers.shape[0], scales=len(scale), group=group)
    layer.weight = nn.Parameter(numbers, requires_grad=False)
    layer.weight_scale = nn.Parameter(scale, requires_grad=False)
    return layer


def _unpacked(device: torch.device, name: str) -> float:
    """Every number that there is."""
    raw = torch.arange(256).to(torch.uint8)
    ours = torch.empty(256, device=device)
    FORMATS[name].unpack(raw.to(device), ours)
    return unequal(ours, torch.tensor([_number(byte, FP8[name]) for byte in range(256)]))


def _number(byte: int, definition: tuple[int, int, bool]) -> float:
    """What a byte stands for, by the definition of its type."""
    exponents, bias, infinite = definition
    digits = 7 - exponents
    sign = -1.0 if byte >> 7 else 1.0
    exponent, digit = byte >> digits & (1 << exponents) - 1, byte & (1 << digits) - 1
    largest = (1 << exponents) - 1
    if exponent == largest and infinite:
        return math.nan if digit else sign * math.inf
    if exponent == largest and digit == (1 << digits) - 1:
        return math.nan
    if exponent == 0:
        return sign * digit * 2.0 ** (1 - bias - digits)
    return sign * (1 + digit / (1 << digits)) * 2.0 ** (exponent - bias)


def _fp8(device: torch.device, name: str) -> float:
    """A weight as it is stored, with its scale, against the product of the same numbers."""
    x, weight = _given()
    stored, scale = weight.mul(10).to(FORMATS[name].numbers), 0.1
    ours = torch.empty(weight.shape, dtype=torch.bfloat16, device=device)
    FORMATS[name].unpack(stored.view(torch.uint8).to(device).flatten(), ours.view(-1))
    product = F.linear(x.to(device, torch.bfloat16), ours) * scale
    return difference(product, F.linear(x.to(torch.bfloat16).double(), stored.double()) * scale)
