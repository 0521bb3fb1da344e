"""Geometries to benchmark with random weights: real shapes measure real speed and memory."""

from collections.abc import Iterator

import torch
from torch import nn

from sensenova_core.model import SenseNovaU1
from sensenova_core.model.config import DecoderConfig, ModelConfig, NoiseConfig, VisionConfig

# name -> (layers, hidden, heads, kv heads, head dim, feed-forward, vocabulary, vision width, pixel head, head width)
GEOMETRIES = {
    "tiny": (3, 64, 4, 2, 16, 128, 512, 32, False, 128),
    "small": (8, 512, 8, 2, 64, 1536, 4096, 128, False, 1024),
    "narrow": (8, 768, 12, 4, 64, 3072, 4096, 256, False, 1536),
    "middle": (8, 2048, 16, 8, 128, 6144, 4096, 512, False, 2048),
    "u1-8b": (42, 4096, 32, 8, 128, 12288, 151936, 1024, False, 4096),
    "u1.5-8b": (42, 4096, 32, 8, 128, 12288, 151936, 1024, True, 1024),
}


def model_config(name: str, layers: int | None = None) -> ModelConfig:
    """The config of a named geometry, with another number of layers if given."""
    depth, hidden, heads, kv_heads, head_dim, width, vocabulary, vision, pixel_head, head_width = GEOMETRIES[name]
    depth = layers or depth
    return ModelConfig(
        decoder=DecoderConfig(
            num_layers=depth,
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=width,
            vocab_size=vocabulary,
            rms_norm_eps=1e-6,
            rope_theta=5e6,
            rope_theta_hw=1e4,
            max_positions=262_144,
            understanding_experts=(None,) * depth,
            generation_experts=(None,) * depth,
        ),
        vision=VisionConfig(hidden_size=vision, channels=3, patch_size=16, rope_theta=1e4),
        noise=NoiseConfig("resolution", 1.0, 64, 16.0 if pixel_head else 8.0, True),
        pixel_head=pixel_head,
        head_width=head_width,
    )


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> SenseNovaU1:
    """A model of that geometry with random weights that keep activations in range."""
    model = SenseNovaU1.on_meta(config).to(dtype).to_empty(device=device)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.constant_(parameter, 1.0 if "norm" in name else 0.0)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def linear_parameters(module: nn.Module) -> int:
    """Weights that every token is multiplied with: linear layers and convolutions."""
    return sum(parameter.numel() for parameter in _matrices(module))


def _matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.dim() > 1)


def step_flops(model: SenseNovaU1, tokens: int, prefix_tokens: list[int], batch: int) -> float:
    """Floating-point operations of one denoising step over all guidance branches, a multiply-add counted as two.

    tokens: of one image. prefix_tokens: of each branch. The pixel head's convolutions run at 4 and 16 times the tokens.
    """
    decoder, generation = model.config.decoder, model.generation
    rows = batch * len(prefix_tokens)
    linear = 2.0 * rows * tokens * linear_parameters(generation.decoder)
    attention = sum(
        4.0 * batch * tokens * (prefix + tokens) * decoder.num_heads * decoder.head_dim for prefix in prefix_tokens
    )
    if model.config.pixel_head:
        head = 4 * linear_parameters(generation.head.conv1) + 16 * linear_parameters(generation.head.conv2)
    else:
        head = linear_parameters(generation.head)
    vision = 4 * linear_parameters(generation.vision.patch_embedding) + linear_parameters(
        generation.vision.dense_embedding
    )
    return linear + attention * decoder.num_layers + 2.0 * rows * tokens * head + 2.0 * batch * tokens * vision
