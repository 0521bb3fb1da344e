"""What lies between a layer's products, in pieces that torch.compile makes one or two kernels of. See compiled.py.

Each computes what the plain layer does, in float32 from its inputs to its results, with no rounding in between.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What RMSNorm makes of x: (rows, width) -> the same."""
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def added(x: Tensor, more: Tensor, *, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + more, and the norm of it: all (rows, width)."""
    total = x + more
    return total, normed(total, weight, eps)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """What a feed-forward layer takes down again: (rows, width) -> the same."""
    return F.silu(gate) * up


def turned(
    query: Tensor, key: Tensor, *, norms: Sequence[Tensor], eps: float, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys (rows, heads, head_dim) with both halves of a head normalised, and turned.

    norms: weights of the queries' time half and row-column half, and of the keys'. cos, sin: (rows, 1, head_dim).
    """
    tables = {"cos": cos, "sin": sin, "eps": eps}
    return _turned(query, norms[:2], **tables), _turned(key, norms[2:], **tables)


def _turned(x: Tensor, norms: Sequence[Tensor], *, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """In parts that lie in one piece: a compiler makes long loops of them, and none of `rope.partners`."""
    time, place = (normed(half, norm, eps) for half, norm in zip(x.float().chunk(2, -1), norms, strict=True))
    parts, first = [], 0
    for part in (time, *place.chunk(2, -1)):
        (before, after), width = part.chunk(2, -1), part.shape[-1]
        c, s = cos[..., first : first + width // 2], sin[..., first + width // 2 : first + width]
        parts += [before * c - after * s, after * c + before * s]
        first += width
    return torch.cat(parts, -1).to(x.dtype)
