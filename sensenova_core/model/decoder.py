"""One expert: a stack of pre-norm decoder layers and the final norm."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from .attention import Attend, Attention, RMSNorm
from .config import DecoderConfig, ExpertsConfig
from .feed_forward import feed_forward
from .rope import Rotation

# layer index -> how that layer's new tokens attend
AttendAt = Callable[[int], Attend]
# (x, rotation, attend) -> x after a layer: a DecoderLayer, or what runs as one.
Layer = Callable[[Tensor, Rotation, Attend], Tensor]


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig, experts: ExpertsConfig | None):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = feed_forward(config.hidden_size, config.intermediate_size, experts)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """x: (batch, tokens, hidden) -> the same."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config: DecoderConfig, experts: tuple[ExpertsConfig | None, ...]):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config, layer_experts) for layer_experts in experts)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, attend_at: AttendAt, *, layers: Iterable[Layer]) -> Tensor:
        """x: (batch, tokens, hidden) -> the same, after the final norm. layers: see `Weights.layers`."""
        return self.together([(x, rotation, attend_at)], layers)[0]

    def together(self, inputs: Sequence[tuple[Tensor, Rotation, AttendAt]], layers: Iterable[Layer]) -> list[Tensor]:
        """`forward` of several inputs in one pass: each layer is wanted once, however many there are."""
        states = [x for x, *_ in inputs]
        for index, layer in enumerate(layers):
            for row, (_, rotation, attend_at) in enumerate(inputs):
                states[row] = layer(states[row], rotation, attend_at(index))
        return [self.norm(x) for x in states]
