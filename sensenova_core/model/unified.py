"""The whole model: an expert that reads and writes text and reads images, and an expert that draws."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .config import ExpertsConfig, ModelConfig
from .decoder import Decoder
from .embedders import ScalarEmbedder
from .heads import flow_head
from .rope import Rotation, rotation
from .vision import PatchEmbedder

UNDERSTANDING, GENERATION = EXPERTS = ("understanding", "generation")


class Understanding(nn.Module):
    """Text and reference images only ever pass through here."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        decoder = config.decoder
        self.vision = PatchEmbedder(config.vision, decoder.hidden_size)
        self.embed_tokens = nn.Embedding(decoder.vocab_size, decoder.hidden_size)
        self.decoder = Decoder(decoder, decoder.understanding_experts)
        if config.writes:
            self.lm_head = nn.Linear(decoder.hidden_size, decoder.vocab_size, bias=False)
            self.head_rows = self._head_rows()

    def logits(self, hidden: Tensor, head: Iterable[Tensor]) -> Tensor:
        """(rows, hidden) -> (rows, vocabulary). head: its pieces, see `Weights.head`."""
        return torch.cat([F.linear(hidden, piece) for piece in head], -1)

    def head_pieces(self) -> Sequence[Tensor]:
        """Of lm_head, no larger than a layer, so that they can stream like one."""
        return self.lm_head.weight.split(self.head_rows)

    def _head_rows(self) -> int:
        """Rows of lm_head in one piece: by shape alone, so that every way to run it computes the same numbers."""
        largest = max(sum(value.numel() for value in layer.parameters()) for layer in self.decoder.layers)
        pieces = -(-self.lm_head.weight.numel() // largest)
        return -(-self.lm_head.out_features // pieces)


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


_OF_MIXTURE = re.compile(
    r"(?P<path>\w+)\.decoder\.layers\.(?P<layer>\d+)\.mlp\.(gate\.weight|experts\.0\.(?P<rest>.+))"
)


def _one(experts: ExpertsConfig | None) -> ExpertsConfig | None:
    return experts and replace(experts, num_experts=1, per_token=1)


class _Unfilled(TorchFunctionMode):
    """Modules made meanwhile are not filled with the random numbers that a training would begin with: on the meta
    device there are none, and to find that out torch imports its compiler, which takes a second or more."""

    FILLS = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), *named: Any) -> Any:
        """named: a dictionary of keyword arguments, where there are any."""
        return None if func in self.FILLS else func(*args, **(named[0] if named else {}))


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
        with torch.device("meta"), _Unfilled():
            return cls(config).requires_grad_(requires_grad=False).eval()

    @classmethod
    def shapes(cls, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every parameter. Builds one of each mixture's equal experts, so it is quick at any size."""
        decoder = config.decoder
        paths = {UNDERSTANDING: decoder.understanding_experts, GENERATION: decoder.generation_experts}
        alone = {f"{path}_experts": tuple(map(_one, experts)) for path, experts in paths.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, value in cls.on_meta(replace(config, decoder=replace(decoder, **alone))).named_parameters():
            mixture, shape = _OF_MIXTURE.match(name), tuple(value.shape)
            experts = mixture and paths[mixture["path"]][int(mixture["layer"])]
            if mixture is None or experts is None:
                shapes[name] = shape
            elif mixture["rest"] is None:  # the router
                shapes[name] = (experts.num_experts, *shape[1:])
            else:
                before, rest = name.removesuffix(f"0.{mixture['rest']}"), mixture["rest"]
                shapes |= {f"{before}{expert}.{rest}": shape for expert in range(experts.num_experts)}
        return shapes

    @property
    def device(self) -> torch.device:
        return self.generation.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, products of INT8 apart. Norms may be stored in another type."""
        return self.generation.timestep_embedder.dtype

    def rotation(self, positions: Tensor) -> Rotation:
        """Tables for positions (..., 3, tokens) on this model's axes."""
        decoder = self.config.decoder
        return rotation(positions, head_dim=decoder.head_dim, theta=decoder.rope_theta, theta_hw=decoder.rope_theta_hw)
