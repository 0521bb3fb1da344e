"""The whole model: an expert that reads and writes text and reads images, and an expert that draws."""

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .decoder import Decoder
from .embedders import ScalarEmbedder
from .heads import flow_head
from .rope import Rotation, rotation
from .vision import PatchEmbedder


class Understanding(nn.Module):
    """Text and reference images only ever pass through here."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        decoder = config.decoder
        self.vision = PatchEmbedder(config.vision, decoder.hidden_size)
        self.embed_tokens = nn.Embedding(decoder.vocab_size, decoder.hidden_size)
        self.decoder = Decoder(decoder, decoder.understanding_experts)
        self.lm_head = nn.Linear(decoder.hidden_size, decoder.vocab_size, bias=False)


class Generation(nn.Module):
    """Noisy image tokens only ever pass through here; a denoising loop touches nothing else."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        decoder = config.decoder
        self.vision = PatchEmbedder(config.vision, decoder.hidden_size)
        self.timestep_embedder = ScalarEmbedder(decoder.hidden_size)
        if config.noise.embedded:
            self.noise_scale_embedder = ScalarEmbedder(decoder.hidden_size)
        self.decoder = Decoder(decoder, decoder.generation_experts)
        self.head = flow_head(config)


class SenseNovaU1(nn.Module):
    """Parameters of one checkpoint, named by expert; `checkpoint.checkpoint_name` gives the published names."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.understanding = Understanding(config)
        self.generation = Generation(config)

    @classmethod
    def on_meta(cls, config: ModelConfig) -> "SenseNovaU1":
        """The model without storage: names, shapes and code, at any size at once."""
        with torch.device("meta"):
            return cls(config).requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        return self.generation.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matmuls. Norms may be stored in another."""
        return self.generation.decoder.layers[0].self_attn.o_proj.weight.dtype

    def rotation(self, positions: Tensor) -> Rotation:
        """Tables for positions (..., 3, tokens) on this model's axes."""
        decoder = self.config.decoder
        return rotation(positions, decoder.head_dim, decoder.rope_theta, decoder.rope_theta_hw)
