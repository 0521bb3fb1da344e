"""Rotary position embedding on three axes: time, row, column. All in float32.

A head's channels are [time: 1/2 | row: 1/4 | column: 1/4]. Each part turns by its own position, with the standard
frequencies of its own width; pairs are half a part apart (the half-rotation kind).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """Cosines and signed sines of some tokens: `x * cos + partners(x) * sin` turns x.

    cos, sin: float32 (..., tokens, 1, head_dim), the 1 standing for all heads.
    """

    cos: Tensor
    sin: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """x: float32 (batch, tokens, heads, head_dim)."""
        return partners(x).mul_(self.sin).add_(x * self.cos)

    def of(self, start: int, stop: int) -> "Rotation":
        """Of these tokens."""
        return Rotation(self.cos[..., start:stop, :, :], self.sin[..., start:stop, :, :])

    def first(self, rows: int) -> "Rotation":
        """The first `rows` of the batch."""
        return Rotation(self.cos[:rows], self.sin[:rows])


def partners(x: Tensor) -> Tensor:
    """(..., head_dim) -> the same, each channel in the place of the one that it turns with."""
    half, quarter = x.shape[-1] // 2, x.shape[-1] // 4
    parts = x.split((half, quarter, quarter), -1)
    return torch.cat([swapped for part in parts for swapped in reversed(part.chunk(2, -1))], -1)


def frequencies(width: int, theta: float, device: torch.device | None = None) -> Tensor:
    """theta^(-2i / width), i = 0 .. width / 2 - 1; float32 (width / 2,)."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    return 1.0 / theta ** (steps / width)


def rotation(positions: Tensor, *, head_dim: int, theta: float, theta_hw: float) -> Rotation:
    """Tables for integer positions (..., 3, tokens), rows of which are time, row, column."""
    device = positions.device
    cos, sin = [], []
    for axis, width, base in ((0, head_dim // 2, theta), (1, head_dim // 4, theta_hw), (2, head_dim // 4, theta_hw)):
        angles = positions[..., axis, :, None].float() * frequencies(width, base, device)  # (..., tokens, width / 2)
        cos += [angles.cos(), angles.cos()]
        sin += [-angles.sin(), angles.sin()]
    return Rotation(torch.cat(cos, -1).unsqueeze(-2), torch.cat(sin, -1).unsqueeze(-2))
