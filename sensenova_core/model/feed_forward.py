"""SwiGLU feed-forward layers: dense, or a mixture of experts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ExpertsConfig

ROWS = 4096  # of tokens at once: enough to keep a card busy, and no more memory than one 2048 x 2048 image needs


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)), no biases."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., hidden) -> the same."""
        parts = [self._activate(rows) for rows in x.flatten(0, -2).split(ROWS)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(x.shape)

    def _activate(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)).mul_(self.up_proj(x)))


class MixtureOfExperts(nn.Module):
    """Each token goes through the `per_token` experts its router finds likeliest, weighted by that likelihood."""

    def __init__(self, hidden: int, config: ExpertsConfig):
        super().__init__()
        self.config = config
        self.gate = nn.Linear(hidden, config.num_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(hidden, config.width) for _ in range(config.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, tokens, hidden) -> the same."""
        tokens = x.flatten(0, -2)  # (tokens, hidden)
        weights, chosen = self._route(tokens)
        out = torch.zeros_like(tokens)
        for index in chosen.unique().tolist():
            token, slot = torch.where(chosen == index)
            out.index_add_(0, token, self.experts[index](tokens[token]) * weights[token, slot, None].to(x.dtype))
        return out.view_as(x)

    def _route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (float32) and indexes of each token's experts, both (tokens, per_token)."""
        likelihood = self.gate(tokens).float().softmax(-1)
        weights, chosen = likelihood.topk(self.config.per_token)
        if self.config.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, chosen


def feed_forward(hidden: int, width: int, experts: ExpertsConfig | None) -> nn.Module:
    return FeedForward(hidden, width) if experts is None else MixtureOfExperts(hidden, experts)
