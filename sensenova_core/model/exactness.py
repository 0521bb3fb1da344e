"""How far attention is from the same in float32, on small data that reaches every rule of a Kernel."""

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .attention import Kernel
from .config import DecoderConfig

# What each row of a result may differ by from float32, as a part of that row: about three times what is right. Rows of
# numbers rounded to bfloat16 differ by 0.003, to float16 by 0.0004, and float32 by TF32 where somebody allows that.
LIMITS = {torch.float32: 2e-3, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# (new tokens, tokens seen, causal): whole texts, text after a prefix, one token, an image after a prefix; over and
# under the blocks of 64 and 128 that kernels go by.
CASES = ((67, 67, True), (40, 201, True), (130, 139, True), (1, 150, True), (1, 1, False), (140, 300, False))
BEYOND = 1e4  # stands behind the keys and values that there are, as in a buffer with room


@dataclass(frozen=True)
class Use:
    """What attention is used for: on which device, in which type, with how many heads, each of head_dim."""

    device: torch.device
    dtype: torch.dtype
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128

    @classmethod
    def of(cls, decoder: DecoderConfig, device: torch.device, *, dtype: torch.dtype) -> "Use":
        return cls(device, dtype, decoder.num_heads, decoder.num_kv_heads, decoder.head_dim)

    @property
    def groups(self) -> int:
        """Heads of queries for each of keys."""
        return self.heads // self.kv_heads

    def small(self) -> "Use":
        """The same with fewer heads."""
        kv_heads = min(self.kv_heads, 2)
        return replace(self, heads=kv_heads * self.groups, kv_heads=kv_heads)

    def random(self, new: int, seen: int, *, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, the same ones every time, on the CPU."""
        random = torch.Generator().manual_seed(new * 1000 + seen)
        sizes = (new, self.heads), (seen, self.kv_heads), (seen, self.kv_heads)
        query, key, value = (torch.randn(batch, *size, self.head_dim, generator=random) for size in sizes)
        return query.to(self.dtype), key.to(self.dtype), value.to(self.dtype)


def attention_error(kernel: Kernel, use: Use) -> float:
    """The largest difference of any row, as a part of that row; infinite where a result is not finite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of everything that torch does not choose a kernel for
        return max(_error(kernel, use.small(), case) for case in CASES)


def _error(kernel: Kernel, use: Use, case: tuple[int, int, bool]) -> float:
    new, seen, causal = case
    query, key, value = use.random(new, seen, batch=1 if causal else 2)
    on_device = (_with_room(part).to(use.device)[:, :seen] for part in (key, value))
    out = kernel(query.to(use.device), *on_device, causal=causal).cpu().float()
    right = plain_attention(query.float(), key.float(), value.float(), causal=causal)
    if out.shape != right.shape or not bool(out.isfinite().all()):
        return math.inf
    return float(((out - right).norm(dim=-1) / right.norm(dim=-1)).max())


def _with_room(part: Tensor) -> Tensor:
    return torch.cat([part, torch.full_like(part[:, :1], BEYOND).expand(-1, 9, -1, -1)], 1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """The formula, word for word. As Kernel."""
    groups, new, seen = query.shape[2] // key.shape[2], query.shape[1], key.shape[1]
    key, value = key.repeat_interleave(groups, 2), value.repeat_interleave(groups, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    if causal:
        visible = torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
        scores = scores.masked_fill(~visible, -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)
