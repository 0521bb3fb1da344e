"""Pixels -> tokens. The same module reads reference images (understanding) and noisy images (generation)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import VisionConfig
from .grid import Grid
from .rope import frequencies


class PatchEmbedder(nn.Module):
    """Patches -> linear, GELU, 2-D rotary -> one token per 2 x 2 patches. The convolutions do not overlap."""

    def __init__(self, config: VisionConfig, hidden_size: int):
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(config.channels, width, patch, stride=patch)
        self.dense_embedding = nn.Conv2d(width, hidden_size, 2, stride=2)

    def forward(self, patches: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """patches: (batch, tokens, 4, channels * patch * patch) -> (batch, tokens, hidden)."""
        patch, dense = self.patch_embedding, self.dense_embedding
        x = F.gelu(F.linear(patches, patch.weight.flatten(1), patch.bias))  # (batch, tokens, 4, width)
        x = _turn_pairs(x.float(), *rotary).to(patches.dtype)
        x = x.transpose(-1, -2).flatten(-2)  # (batch, tokens, width * 4), as the 2 x 2 kernel flattens
        return F.linear(x, dense.weight.flatten(1), dense.bias)

    def rotary(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines for the tokens of a grid; each float32 (tokens, 4, width / 2).

        The first half of the channels turns with the patch's column, the second with its row.
        """
        half = self.config.hidden_size // 2
        steps = frequencies(half, self.config.rope_theta, device)  # (half / 2,)
        _, row, column = 2 * grid.positions(0).to(device)[:, :, None]  # of a token's first patch: (tokens, 1)
        corner = torch.arange(4, dtype=torch.int64, device=device)  # of the 2 x 2 patches, row-major
        row, column = row + corner // 2, column + corner % 2  # (tokens, 4)
        angles = torch.cat([column[..., None] * steps, row[..., None] * steps], -1)  # (tokens, 4, half)
        return angles.cos(), angles.sin()


def _turn_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring channels (0, 1), (2, 3), ... of float32 x; cos and sin: (tokens, 4, width / 2)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
