"""One token's attention over whole blocks of a context's buffers: of a size that stays the same for up to a block.

Its plain form is `ReadingAttention`, which sees just what there is.
"""

import torch
from torch import Tensor

from ..model.attention import BLOCK_TOKENS, Attend
from .prefix import Context


class BlockAttention:
    """place: int64 (1,) on the device, which token of the context the new one is: it sees all up to itself.

    stop: the end of its block, which is how far the buffers are looked at.
    """

    def __init__(self, context: Context, place: Tensor, stop: int):
        self.context, self.place, self.stop = context, place, stop
        self.places = torch.arange(stop, device=place.device)

    def unseen(self, dtype: torch.dtype) -> Tensor:
        """What is added to scores: 0, or minus infinity for what the token does not see; (stop,)."""
        none = torch.zeros(self.stop, dtype=dtype, device=self.place.device)
        return none.masked_fill(self.places > self.place, float("-inf"))

    def attend_at(self, layer: int, unseen: Tensor) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.context.buffers(layer)
            keys.index_copy_(1, self.place, key)
            values.index_copy_(1, self.place, value)
            return over_blocks(query, keys[:, : self.stop], values[:, : self.stop], unseen=unseen)

        return attend


def over_blocks(query: Tensor, keys: Tensor, values: Tensor, *, unseen: Tensor) -> Tensor:
    """Attention of one token, each block by itself, so that a card has work for all its processors.

    query: (1, 1, heads, head_dim). keys, values: (1, tokens, kv_heads, head_dim), whole blocks, in each of which
    something is seen. unseen: (tokens,), added to scores. Returns what query is like.
    """
    kv_heads, head_dim = keys.shape[2:]
    blocks, groups = keys.shape[1] // BLOCK_TOKENS, query.shape[2] // kv_heads
    # The queries that share a head of keys are rows of one product, for one token has no order among them.
    rows = query.view(1, kv_heads, groups, head_dim).expand(blocks, -1, -1, -1)
    keys, values = (part.view(blocks, BLOCK_TOKENS, kv_heads, head_dim).transpose(1, 2) for part in (keys, values))
    mask = unseen.view(blocks, 1, 1, BLOCK_TOKENS).expand(-1, kv_heads, groups, -1)
    out, weight = _attended(rows, keys, values, mask=mask)
    if blocks > 1:
        out = (out * weight.softmax(0).unsqueeze(-1)).sum(0).to(query.dtype)
    return out.reshape(query.shape)


def _attended(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of the sum of what each row's scores weigh, float32, by which results are mixed.

    torch has no public name for the kernels that tell both.
    """
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal=False, attn_mask=mask
        )
    out, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, compute_log_sumexp=True
    )
    return out, sums[..., : query.shape[2]]  # which has places for whole tiles of rows
