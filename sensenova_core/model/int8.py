"""Linear layers whose weights and inputs are both INT8 (W8A8), and the rotation that INT8 weights may be stored in.

A row of the input becomes small whole numbers and one scale; the product is of whole numbers; both scales are applied
on the way out. Rotating groups of columns ("ConvRot", https://github.com/Comfy-Org/comfy-kitchen) spreads large values
over their group, so that whole numbers lose less. Weights that are stored rotated stay so: the inputs are rotated too.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 127  # of the whole numbers; -128 is not used, so that they lie evenly around 0
SMALLEST_SCALE = 1e-30  # for a row of zeros
GROUP = 256  # columns rotated together, where a file does not say
# Rows multiplied at once: sums of whole numbers take twice the bytes of what is made of them.
ROWS, ROWS_CPU = 1024, 512
PIECE = 32  # rows scaled at once on a CPU: what its cache holds
_LEAST_ROWS = 32  # that CUDA's product takes, and of which it takes whole multiples

Multiply = Callable[[Tensor, "Int8Linear"], Tensor]  # (rows, in) and a layer -> (rows, out), without what LoRAs add
# (amount, up, down): amount * up (out, rank) @ down (rank, in) is added to a weight.
Term = tuple[float, Tensor, Tensor]


class Int8Linear(nn.Module):
    """x @ weight.T without a bias. weight: int8 (out, in). weight_scale: float32 (out, 1) or (1, 1).

    group: columns that were rotated together, 0 for none. terms: what LoRAs add, which is computed beside the product,
    for whole numbers have no room for small changes.
    """

    def __init__(self, inputs: int, outputs: int, *, scales: int, group: int):
        super().__init__()
        self.in_features, self.out_features, self.group = inputs, outputs, group
        weight, scale = torch.empty(outputs, inputs, dtype=torch.int8), torch.empty(scales, 1)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.terms: Sequence[Term] = ()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the type of x."""
        return next(projected(x, self))

    def sums(self, numbers: Tensor) -> Tensor:
        """int8 (rows, in) -> int32 (rows, out), without any scale."""
        return _product(numbers, self.weight)

    def added(self, x: Tensor, out: Tensor) -> Tensor:
        """out (rows, out), with what LoRAs add for the inputs x (rows, in)."""
        for amount, up, down in self.terms:
            out.add_(F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype)), alpha=amount)
        return out


def projected(x: Tensor, *linears: nn.Module) -> Iterator[Tensor]:
    """What each of several linear layers makes of the same input, when it is asked for.

    If all of them are INT8, and rotated alike, torch quantises the input once; comfy-kitchen's kernels do it within
    each product.
    """
    int8 = [linear for linear in linears if isinstance(linear, Int8Linear)]
    group = int8[0].group if int8 else 0
    if len(int8) < len(linears) or any(linear.group != group for linear in int8):
        yield from (linear(x) for linear in linears)
        return
    flat = x.flatten(0, -2)
    multiply = _fused(x.device.type) or _with(*quantised(flat, group))
    for linear in int8:
        yield linear.added(flat, multiply(flat, linear)).view(*x.shape[:-1], -1)


def _with(numbers: Tensor, scale: Tensor) -> Multiply:
    """The products of an input that is quantised already."""
    return lambda x, linear: _multiplied(numbers, scale, linear, dtype=x.dtype)


def _multiplied(numbers: Tensor, scale: Tensor, linear: Int8Linear, *, dtype: torch.dtype) -> Tensor:
    """(rows, out) of this type, without what LoRAs add."""
    out = numbers.new_empty(len(numbers), linear.out_features, dtype=dtype)
    for parts in zip(*(each.split(_rows_on(out.device)) for each in (numbers, scale, out)), strict=True):
        for rows, part in _scaled(linear.sums(parts[0]), parts[1], linear.weight_scale):
            parts[2][rows].copy_(part)
    return out


def feeds_forward(x: Tensor, *, gate: nn.Module, up: nn.Module, down: nn.Module) -> Tensor | None:
    """down(silu(gate(x)) * up(x)) of three INT8 layers on a CPU, where what is between them never leaves the cache:
    (rows, in) -> the same. None for other layers, and where LoRAs need what is between."""
    if not (isinstance(gate, Int8Linear) and isinstance(up, Int8Linear) and isinstance(down, Int8Linear)):
        return None
    if x.device.type != "cpu" or gate.group != up.group or gate.terms or up.terms or down.terms:
        return None
    out = x.new_empty(len(x), down.out_features)
    for part, made in zip(x.split(ROWS_CPU), out.split(ROWS_CPU), strict=True):
        numbers, scale = quantised(part, gate.group)
        gates = _scaled(gate.sums(numbers), scale, gate.weight_scale)
        ups = _scaled(up.sums(numbers), scale, up.weight_scale)
        active = x.new_empty(len(part), down.in_features)
        for (rows, opened), (_, value) in zip(gates, ups, strict=True):
            active[rows] = F.silu(opened, inplace=True).mul_(value)
        made.copy_(_multiplied(*quantised(active, down.group), down, dtype=x.dtype))
    return out


def quantised(x: Tensor, group: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of numbers (rows, width), of any floating type, rotated by groups of columns if `group` is over 0, as whole
    numbers, int8 (rows, width), and what each row of them is multiplied with, float32 (rows, 1).

    A row with NaN or infinity in it gets a scale that is not finite either.
    """
    numbers = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    turns, size = _rows_on(x.device), PIECE if x.device.type == "cpu" else ROWS
    for rows in _slices(len(x), turns):
        turned = rotated(x[rows], group) if group else x[rows]
        for inside in _slices(len(turned), size):
            _quantise(turned[inside], numbers=numbers[rows][inside], scale=scale[rows][inside])
    return numbers, scale


def _quantise(x: Tensor, *, numbers: Tensor, scale: Tensor) -> None:
    """Write both to where they belong."""
    values = x.float()
    torch.amax(values.abs(), -1, keepdim=True, out=scale)
    scale.div_(LARGEST).clamp_(min=SMALLEST_SCALE)
    numbers.copy_(values.mul(1 / scale).round_())


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _scaled(sums: Tensor, rows_scale: Tensor, weight_scale: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, float32 of these rows) of int32 sums with both scales applied, piece by piece."""
    size, columns = PIECE if sums.device.type == "cpu" else ROWS, weight_scale.view(1, -1)
    for rows in _slices(len(sums), size):
        yield rows, sums[rows].float().mul_(columns).mul_(rows_scale[rows])


def _rows_on(device: torch.device) -> int:
    return ROWS_CPU if device.type == "cpu" else ROWS


def _product(numbers: Tensor, weight: Tensor) -> Tensor:
    """int8 (rows, in) @ int8 (out, in).T -> int32 (rows, out)."""
    if numbers.device.type != "cuda":
        return torch.ops.aten._int_mm(numbers, weight.t())
    lacking = max(_LEAST_ROWS, -(-len(numbers) // _LEAST_ROWS) * _LEAST_ROWS) - len(numbers)
    return torch.ops.aten._int_mm(F.pad(numbers, (0, 0, 0, lacking)), weight.t())[: len(numbers)]


def rotated(x: Tensor, group: int) -> Tensor:
    """(..., width) with every group of columns rotated, in the type of x. Done twice, it is x again."""
    return torch.matmul(x.unflatten(-1, (-1, group)), _rotation(group, x.dtype, x.device)).flatten(-2)


@cache
def _rotation(group: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The normalised regular Hadamard matrix (group, group): symmetric, and its own inverse."""
    small = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=dtype, device=device)
    matrix = small
    while len(matrix) < group:
        matrix = torch.kron(matrix, small)
    return matrix / group**0.5


def is_group(group: int) -> bool:
    """Whether there is such a rotation: of 4, 16, 64, 256, ... columns."""
    return group >= 4 and group & (group - 1) == 0 and group.bit_length() % 2 == 1


def fits(inputs: int, outputs: int, device: torch.device) -> bool:
    """Whether a device that multiplies INT8 takes a weight of this shape."""
    return device.type == "cpu" or (inputs % _LEAST_ROWS == 0 and outputs % _LEAST_ROWS == 0)


@cache
def is_multiplied_on(device: torch.device) -> bool:
    """Whether a device multiplies INT8; said by a product that is tried, of numbers so large that sums of two of them
    in 16 bits, as some processors take, would come out wrong."""
    try:
        largest = torch.full((_LEAST_ROWS, _LEAST_ROWS), -128, dtype=torch.int8, device=device)
        return int(torch.ops.aten._int_mm(largest, largest.t())[0, 0]) == _LEAST_ROWS * 128**2
    except (RuntimeError, NotImplementedError, AttributeError):
        return False


def is_quick_on(device: torch.device) -> bool:
    """Whether that is quicker than floating point: on a CPU, which must have instructions for it."""
    if device.type != "cpu":
        return is_multiplied_on(device)
    return is_multiplied_on(device) and bool(getattr(torch.cpu, "_is_vnni_supported", bool)())


def fused_on(device: torch.device) -> Multiply | None:
    """The kernels that do a whole product on a device, with scales and rotation; None where there are none."""
    return _fused(device.type)


@cache
def _fused(device: str) -> Multiply | None:
    """comfy-kitchen's kernels, which do all of it in one go, where they are installed and there is a card for them."""
    return _kitchen() if device == "cuda" else None


def _kitchen() -> Multiply | None:
    """None where the package is missing, does not load here, or is of a version without rotation."""
    try:
        import comfy_kitchen  # pyright: ignore[reportMissingImports]  # an optional package

        rotates = "convrot" in signature(comfy_kitchen.int8_linear).parameters
    except (ImportError, OSError, RuntimeError, AttributeError, TypeError):
        return None
    return kitchen_linear(comfy_kitchen) if rotates else None


def kitchen_linear(kitchen: Any) -> Multiply:
    """(x, layer) -> x @ weight.T, by comfy-kitchen's best kernel for the device."""

    def linear(x: Tensor, layer: Int8Linear) -> Tensor:
        rotation: dict[str, Any] = {"convrot": True, "convrot_groupsize": layer.group} if layer.group else {}
        return kitchen.int8_linear(x, layer.weight, layer.weight_scale.view(-1), out_dtype=x.dtype, **rotation)

    return linear
