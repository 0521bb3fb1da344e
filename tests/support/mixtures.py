"""The mixture of experts as it is defined, one expert after the other, and mixtures to compare with it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sensenova_core.checkpoint import assign
from sensenova_core.model import MixtureOfExperts
from sensenova_core.model.config import ExpertsConfig


def looped_over_all(mixture: MixtureOfExperts, x: Tensor) -> Tensor:
    """As published code does it: every expert, chosen or not, finds its tokens in a one-hot mask. x: (..., hidden)."""
    tokens = x.flatten(0, -2)
    weights, chosen = mixture.route(tokens)
    masks = F.one_hot(chosen, mixture.config.num_experts).permute(2, 0, 1)  # (experts, tokens, per_token)
    out = torch.zeros_like(tokens)
    for expert, mask in zip(mixture.experts, masks, strict=True):
        token, slot = torch.where(mask)
        out.index_add_(0, token, expert(tokens[token]) * weights[token, slot, None].to(x.dtype))
    return out.view_as(x)


def looped(mixture: MixtureOfExperts, x: Tensor) -> Tensor:
    """The same, tuned: the chosen experts alone, and no masks. x: (..., hidden) -> the same."""
    tokens = x.flatten(0, -2)
    weights, chosen = mixture.route(tokens)
    out = torch.zeros_like(tokens)
    for index in chosen.unique().tolist():
        token, slot = torch.where(chosen == index)
        out.index_add_(0, token, mixture.experts[index](tokens[token]) * weights[token, slot, None].to(x.dtype))
    return out.view_as(x)


def random_mixture(hidden: int, width: int, experts: int, per_token: int, dtype=torch.float32) -> MixtureOfExperts:
    """Weights that keep activations in range, from torch's own generator."""
    mixture = MixtureOfExperts(hidden, ExpertsConfig(experts, per_token, width, renormalise=True))
    for value in mixture.requires_grad_(False).parameters():
        nn.init.normal_(value, std=value.shape[1] ** -0.5)
    return mixture.to(dtype)


def in_one_buffer(layer: nn.Module) -> None:
    """Move a layer's weights to one buffer, as a unit's lie in a slot, and see its experts' as one there."""
    values = dict(layer.named_parameters())
    kind = next(iter(values.values()))
    buffer = kind.new_empty(sum(value.numel() for value in values.values()))
    for (name, value), part in zip(values.items(), buffer.split([v.numel() for v in values.values()]), strict=True):
        assign(layer, name, part.view(value.shape).copy_(value))
    for part in layer.modules():
        if isinstance(part, MixtureOfExperts):
            part.stack_up()
