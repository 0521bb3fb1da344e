"""Rotary position embedding on three axes: time, row, column. All in float32.

A head's channels are [time: 1/2 | row: 1/4 | column: 1/4]. Each part turns by its own position, with the standard
frequencies of its own width; pairs are half a part apart (the half-rotation kind).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """Cosines and signed sines of some tokens: `x * cos + x[..., partner] * sin` turns x.

    cos, sin: float32 (..., tokens, 1, head_dim), the 1 standing for all heads. partner: int64 (head_dim,).
    """

    cos: Tensor
    sin: Tensor
    partner: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """x: float32 (batch, tokens, heads, head_dim)."""
        return x * self.cos + x.index_select(-1, self.partner) * self.sin

    def first(self, rows: int) -> "Rotation":
        """The first `rows` of the batch."""
        return Rotation(self.cos[:rows], self.sin[:rows], self.partner)


def frequencies(width: int, theta: float, device: torch.device | None = None) -> Tensor:
    """theta^(-2i / width), i = 0 .. width / 2 - 1; float32 (width / 2,)."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    return 1.0 / theta ** (steps / width)


def rotation(positions: Tensor, *, head_dim: int, theta: float, theta_hw: float) -> Rotation:
    """Tables for integer positions (..., 3, tokens), rows of which are time, row, column."""
    device = positions.device
    cos, sin, partner, start = [], [], [], 0
    for axis, width, base in ((0, head_dim // 2, theta), (1, head_dim // 4, theta_hw), (2, head_dim // 4, theta_hw)):
        angles = positions[..., axis, :, None].float() * frequencies(width, base, device)  # (..., tokens, width / 2)
        cos += [angles.cos(), angles.cos()]
        sin += [-angles.sin(), angles.sin()]
        channels = torch.arange(start, start + width, dtype=torch.int64, device=device)
        partner.append(channels.roll(width // 2))
        start += width
    return Rotation(torch.cat(cos, -1).unsqueeze(-2), torch.cat(sin, -1).unsqueeze(-2), torch.cat(partner))
