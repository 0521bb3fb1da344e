"""One expert: a stack of pre-norm decoder layers and the final norm."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from torch import Tensor, nn

from .attention import Attend, Attention, RMSNorm
from .config import DecoderConfig, ExpertsConfig
from .feed_forward import FeedForward, feed_forward
from .rope import Rotation

# layer index -> how that layer's new tokens attend
AttendAt = Callable[[int], Attend]
# Tokens that a pass ends with where only the last one is wanted. More than one, for a product of a few rows is rounded
# otherwise than that of many: with so many, small models give the same numbers on a card and on a CPU.
LAST_TOKENS = 64


class Layer(Protocol):
    """A DecoderLayer, or what runs as one."""

    def __call__(self, x: Tensor, rotation: Rotation, attend: Attend, *, last: bool = False) -> Tensor: ...


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig, experts: ExpertsConfig | None):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = feed_forward(config.hidden_size, config.intermediate_size, experts)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend, *, last: bool = False) -> Tensor:
        """x: (batch, tokens, hidden) -> the same. last: of the last token; what comes of the others may be left out."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend)
        if last and self.leaves_out(x):
            x = x[:, -LAST_TOKENS:]
        return x + self.mlp(self.post_attention_layernorm(x))

    def leaves_out(self, x: Tensor) -> bool:
        """Whether the feed-forward layer runs over the last tokens alone where only one is wanted."""
        return x.is_cuda and isinstance(self.mlp, FeedForward)


class Decoder(nn.Module):
    def __init__(self, config: DecoderConfig, experts: tuple[ExpertsConfig | None, ...]):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config, layer_experts) for layer_experts in experts)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, attend_at: AttendAt, *, layers: Iterable[Layer]) -> Tensor:
        """x: (batch, tokens, hidden) -> the same, after the final norm. layers: see `Weights.layers`."""
        return self.together([(x, rotation, attend_at)], layers)[0]

    def together(
        self, inputs: Sequence[tuple[Tensor, Rotation, AttendAt]], layers: Iterable[Layer], *, last: bool = False
    ) -> list[Tensor]:
        """`forward` of several inputs in one pass: each layer is wanted once, however many there are.

        last: only the last token's state is wanted, and others may be missing from the result. Every layer's keys and
        values are made of all tokens.
        """
        states = [x for x, *_ in inputs]
        for index, layer in enumerate(layers):
            for row, (_, rotation, attend_at) in enumerate(inputs):
                ends = last and index == len(self.layers) - 1
                states[row] = layer(states[row], rotation, attend_at(index), last=ends)
        return [self.norm(x) for x in states]
