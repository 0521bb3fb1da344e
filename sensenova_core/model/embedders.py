"""A number per run or step -> a vector added to every image token: the time, and the noise scale."""

import math

import torch
from torch import Tensor, nn

SINUSOID_WIDTH = 256


class ScalarEmbedder(nn.Module):
    """Sinusoids in float32, then two linear layers with SiLU between."""

    def __init__(self, hidden: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_WIDTH, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    @property
    def dtype(self) -> torch.dtype:
        return self.get_parameter("mlp.0.weight").dtype

    def forward(self, values: Tensor) -> Tensor:
        """values: float32 (count,), in 0 .. 1 as they are -> (count, hidden)."""
        return self.mlp(sinusoids(values).to(self.dtype))


def sinusoids(values: Tensor) -> Tensor:
    """(count,) -> float32 (count, 256): cosines, then sines, of value * 1e4^(-i / 128)."""
    half = SINUSOID_WIDTH // 2
    steps = torch.exp(torch.arange(half, dtype=torch.float32, device=values.device) * (-math.log(10_000.0) / half))
    angles = values.float()[:, None] * steps
    return torch.cat([angles.cos(), angles.sin()], -1)
