"""The weights that training begins with."""

import math

import torch
from torch import Tensor

from sensenova_core.model import SenseNovaU1
from sensenova_core.model.config import ModelConfig

MARK, SHARPNESS = 3.0, 1.8  # of what the first heads look at


def new_model(config: ModelConfig, seed: int) -> SenseNovaU1:
    """Weights that keep the variance of what passes through; what a layer adds begins small, and the head at zero."""
    model = SenseNovaU1(config)
    generator = torch.Generator().manual_seed(seed)
    depth = math.sqrt(2 * config.decoder.num_layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(1.0 if "norm" in name else 0.0)
            continue
        spread = 1 / math.sqrt(math.prod(parameter.shape[1:]))
        if "o_proj" in name or "down_proj" in name:
            spread /= depth
        elif "embed_tokens" in name:
            spread = 0.5
        elif "head.conv2" in name or "head.2" in name:
            spread = 0.0
        elif "lm_head" in name:
            spread *= 0.1
        values = spread * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(smooth(values) if "patch_embedding" in name else values)
    look_at_the_same_place(model)
    return model


def look_at_the_same_place(model: SenseNovaU1) -> None:
    """Let the first heads of every layer attend, to begin with, to what stands in the same row and column of any image.

    An edit copies from there; to find that out by itself takes a small model thousands of steps. Image tokens get a
    mark in their first channel, and these heads turn it into the fastest of the rotary pairs of row and of column.
    """
    decoder = model.config.decoder
    heads, size = decoder.num_heads // decoder.num_kv_heads, decoder.head_dim
    fastest = (size // 2, size // 2 + size // 4)
    for expert in (model.understanding, model.generation):
        expert.vision.dense_embedding.bias.data[0] = MARK
        for layer in expert.decoder.layers:
            attention = layer.self_attn
            for projection, count in ((attention.q_proj, heads), (attention.k_proj, 1)):
                for head in range(count):
                    projection.weight.data[[head * size + channel for channel in fastest], 0] = MARK
            for norm in (attention.q_norm_hw, attention.k_norm_hw):
                norm.weight.data.fill_(SHARPNESS)


def smooth(filters: Tensor) -> Tensor:
    """Random filters (count, channels, side, side) -> the same of low frequencies, a third as strong.

    What lies under the noise is flat areas and their edges; filters that are noise themselves would hardly see it.
    """
    side = filters.shape[-1]
    waves = torch.arange(side, dtype=torch.float32)
    basis = torch.cos(math.pi / side * (waves[None] + 0.5) * waves[:, None])  # (frequency, place)
    basis = basis / basis.norm(dim=1, keepdim=True)
    strength = torch.exp(-(waves[:, None] ** 2 + waves[None] ** 2) / 8)
    mixed = basis.T @ (filters * strength) @ basis
    return mixed / mixed.flatten(1).norm(dim=1)[:, None, None, None] / 3
