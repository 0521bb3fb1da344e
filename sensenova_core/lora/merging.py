"""A weight with low-rank changes added, as it is about to run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checkpoint.formats import PIECE
from ..checkpoint.tensors import Packed

PARTS = 2  # of what is unpacked at a time: here float32 numbers lie beside it

# (amount, up, down): amount * up (rows, rank) @ down (rank, width) is added.
Term = tuple[float, Tensor, Tensor]


def factor(value: Tensor | Packed) -> Tensor:
    """Up or down as a LoRA's file holds it, which is never packed."""
    assert isinstance(value, Tensor)
    return value


def merge(value: Tensor | Packed, terms: Sequence[Term], into: Tensor) -> None:
    """Write value + sum of amount * up @ down to a contiguous tensor of its shape, on the same device.

    Summed in float32 and rounded once, some rows at a time, so that no whole change and no whole float32 weight exists.
    A weight that is not packed is first rounded to the type it runs in, wherever it lies: so it is without LoRAs, and
    so it comes to a card. The terms' order decides the last bit.
    """
    target = into.flatten(1)
    if isinstance(value, Tensor) and _at_once(terms, into):
        [(amount, up, down)] = terms
        target.copy_(value.flatten(1)).addmm_(up, down, alpha=amount)
        return
    height = min(len(target), max(1, PIECE // PARTS // target.shape[1]))
    beside = None if into.dtype == torch.float32 else into.new_empty(height, target.shape[1], dtype=torch.float32)
    downs = [down.float() for _, _, down in terms]
    for first in range(0, len(target), height):
        part = target[first : first + height]
        numbers = part if beside is None else beside[: len(part)]
        _copy_rows(value, first, numbers, dtype=into.dtype)
        for (amount, up, _), down in zip(terms, downs, strict=True):
            numbers.addmm_(up[first : first + height].float(), down, alpha=amount)
        if beside is not None:
            part.copy_(numbers)


def _at_once(terms: Sequence[Term], into: Tensor) -> bool:
    """Whether one product can add to the weight: of its type, whose products are summed in float32 and rounded once.

    That of float16 is 200 times slower than float32's on a CPU.
    """
    if len(terms) != 1 or (into.dtype == torch.float16 and not into.is_cuda):
        return False
    return {factor.dtype for factor in terms[0][1:]} == {into.dtype}


def _copy_rows(value: Tensor | Packed, first: int, into: Tensor, *, dtype: torch.dtype) -> None:
    """into: (rows, width) float32. dtype: that the weight runs in."""
    if isinstance(value, Packed):
        value.rows(first, len(into)).unpack(into)
    else:
        into.copy_(value[first : first + len(into)].to(dtype).view(into.shape))


def merge_scratch(shape: tuple[int, ...], ranks: Sequence[int], *, unpacking: int) -> int:
    """Most bytes that merging takes on a card beside its source and target. ranks: of the terms. unpacking: bytes a
    number that this takes, 0 where nothing is packed."""
    rows, width = shape[0], torch.Size(shape[1:]).numel()
    height = min(rows, max(1, PIECE // PARTS // width))
    return height * width * (4 + unpacking) + 4 * (sum(ranks) * width + max(ranks) * height)
