"""Attention of one token over whole blocks, held against the kernel that sees just what there is."""

import pytest
import torch

from sensenova_core.model.attention import BLOCK_TOKENS, sdpa
from sensenova_core.reading.block import over_blocks
from tests.support.golden_set import relative_error


@pytest.mark.parametrize("seen", [1, 2, 511, 512, 513, 1024, 1025, 2000])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (8, 2), (6, 1)])
def test_blocks_are_one_attention(seen, heads, kv_heads):
    random = torch.Generator().manual_seed(seen)
    room = -(-seen // BLOCK_TOKENS) * BLOCK_TOKENS
    query = torch.randn(1, 1, heads, 32, generator=random) * 4
    keys, values = (torch.randn(1, room, kv_heads, 32, generator=random) for _ in range(2))
    unseen = torch.zeros(room).masked_fill(torch.arange(room) >= seen, -torch.inf)
    expected = sdpa(query, keys[:, :seen], values[:, :seen], causal=True)
    assert relative_error(over_blocks(query, keys, values, unseen=unseen), expected) < 1e-5


def test_what_is_not_seen_counts_nothing():
    query, keys = torch.randn(1, 1, 4, 32), torch.randn(1, 2 * BLOCK_TOKENS, 2, 32)
    unseen = torch.zeros(2 * BLOCK_TOKENS).masked_fill(torch.arange(2 * BLOCK_TOKENS) >= 600, -torch.inf)
    before = over_blocks(query, keys, keys, unseen=unseen)
    keys[:, 600:] = 1e4
    assert torch.equal(over_blocks(query, keys, keys, unseen=unseen), before)
