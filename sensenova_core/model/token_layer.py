"""A layer for one token, from constants that are made once. Its plain form is `DecoderLayer`.

For weights that stay where they are: norms are cast and stacked, and matrices that lie next to each other in one buffer
are taken for one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attend, RMSNorm
from .decoder import DecoderLayer, Layer
from .feed_forward import FeedForward
from .rope import Rotation


def token_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The same layers, those of plain matrices made ready for one token at a time."""
    return [TokenLayer(layer) if isinstance(layer, DecoderLayer) and _is_plain(layer) else layer for layer in layers]


class TokenLayer:
    """A layer that gives what `layer` gives, but for rounding."""

    def __init__(self, layer: DecoderLayer):
        attention, mlp = layer.self_attn, layer.mlp
        assert isinstance(mlp, FeedForward)
        config = attention.config
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.first, self.then = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.inner, self.out = _Side(attention.q_proj, attention.k_proj, attention.v_proj), attention.o_proj
        self.gate_up, self.down = _Side(mlp.gate_proj, mlp.up_proj), mlp.down_proj
        self.eps = attention.q_norm.eps
        queries = torch.stack([attention.q_norm.weight, attention.q_norm_hw.weight]).float()
        keys = torch.stack([attention.k_norm.weight, attention.k_norm_hw.weight]).float()
        # Of all queries and keys: (heads + kv_heads, 2, head_dim / 2).
        self.head_norms = torch.stack([queries] * self.heads + [keys] * self.kv_heads)

    def __call__(self, x: Tensor, rotation: Rotation, attend: Attend, *, last: bool = False) -> Tensor:
        """x: (1, 1, hidden) -> the same. last: see DecoderLayer; of one token nothing is left out."""
        made = self.inner(self.first(x)).unflatten(-1, (-1, self.head_dim))  # of queries, keys and values
        turned = self._turned(made[..., : self.heads + self.kv_heads, :], rotation)
        out = attend(turned[..., : self.heads, :], turned[..., self.heads :, :], made[..., -self.kv_heads :, :])
        x = x + self.out(out.flatten(-2))
        gate, up = self.gate_up(self.then(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def _turned(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Heads with both halves normalised, and turned."""
        halves = x.float().unflatten(-1, (2, -1))
        halves = F.rms_norm(halves, halves.shape[-1:], eps=self.eps) * self.head_norms
        return rotation.turn(halves.flatten(-2)).to(x.dtype)


class _Norm:
    """RMSNorm. Without casts where the weight is of the type of x: torch computes in float32 within."""

    def __init__(self, norm: RMSNorm):
        self.weight, self.eps = norm.weight, norm.eps
        self.exact = norm.weight.float()

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, self.exact, self.eps).to(x.dtype)


class _Side:
    """What several linear layers make of the same input, side by side: (..., in) -> (..., sum of their outputs)."""

    def __init__(self, *linears: nn.Linear):
        weights = [linear.weight for linear in linears]
        joined = _joined(weights)
        self.weights = weights if joined is None else [joined]

    def __call__(self, x: Tensor) -> Tensor:
        made = [F.linear(x, weight) for weight in self.weights]
        return made[0] if len(made) == 1 else torch.cat(made, -1)


def _joined(weights: Sequence[Tensor]) -> Tensor | None:
    """Matrices of one width that follow each other in one buffer, as one view of it. Nothing is copied."""
    first, end = weights[0], weights[0].storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and weight.dtype == first.dtype
        if not same or not weight.is_contiguous() or weight.storage_offset() != end:
            return None
        end += weight.numel()
    return first.as_strided((sum(map(len, weights)), first.shape[1]), first.stride())


def _is_plain(layer: DecoderLayer) -> bool:
    """Whether all its products are those of plain matrices."""
    attention, mlp = layer.self_attn, layer.mlp
    if not isinstance(mlp, FeedForward):
        return False
    linears = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return all(type(each) is nn.Linear for each in (*linears, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
