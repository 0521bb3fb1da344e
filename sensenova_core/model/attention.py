"""Grouped-query attention: projections with two norms per head, and the kernels that attend."""

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DecoderConfig
from .int8 import projected
from .rope import Rotation

# (query, key, value) of the new tokens -> out; whoever calls a layer decides what the tokens see.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

BLOCK_TOKENS = 512  # buffers of keys and values grow by this many tokens at a time
PORTION = 4096  # tokens of a long text that go through a layer at once
CPU = torch.device("cpu")


class Kernel(Protocol):
    """All tensors are (batch, tokens, heads, head_dim); key and value may have fewer heads. causal: the last query sees
    the last key, the one before sees one less, and so on."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor: ...


class Attention(nn.Module):
    """One expert's attention of one layer."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        hidden, head_dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(hidden, config.num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, config.num_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, config.num_kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * head_dim, hidden, bias=False)
        self.q_norm = RMSNorm(head_dim // 2, config.rms_norm_eps)
        self.q_norm_hw = RMSNorm(head_dim // 2, config.rms_norm_eps)
        self.k_norm = RMSNorm(head_dim // 2, config.rms_norm_eps)
        self.k_norm_hw = RMSNorm(head_dim // 2, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """x: (batch, tokens, hidden) -> the same."""
        heads = (*x.shape[:-1], -1, self.config.head_dim)
        made = projected(x, self.q_proj, self.k_proj, self.v_proj)  # one at a time
        query = _position(next(made).view(heads), (self.q_norm, self.q_norm_hw), rotation)
        key = _position(next(made).view(heads), (self.k_norm, self.k_norm_hw), rotation)
        out = attend(query, key, next(made).view(heads))
        return self.o_proj(out.flatten(-2))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, in float32 whatever the dtype of x."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype and rounds_once():
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)  # in float32 within
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


@cache
def rounds_once() -> bool:
    """Whether torch's norm of half precision rounds its result alone, and not before the weight too, as old ones do."""
    x, weight = (torch.linspace(1, most, 512, device="cpu").bfloat16() for most in (9, 2))
    once = F.rms_norm(x.float(), x.shape, weight.float(), 1e-6).bfloat16()
    return torch.equal(F.rms_norm(x, x.shape, weight, 1e-6), once)


def _position(x: Tensor, norms: tuple[RMSNorm, RMSNorm], rotation: Rotation) -> Tensor:
    """Normalise the time half and the row-column half, each by its norm, then turn, in float32."""
    halves = x.float().unflatten(-1, (2, -1))  # (..., heads, 2, head_dim / 2)
    weight = torch.stack([norm.weight for norm in norms]).float()
    halves = F.rms_norm(halves, halves.shape[-1:], eps=norms[0].eps).mul_(weight)
    return rotation.turn(halves.flatten(-2)).to(x.dtype)


def sdpa(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, grouped: bool | None = None) -> Tensor:
    """Attention through torch, which picks the fastest of its kernels that can run.

    grouped: whether that takes fewer heads of keys and values than of queries; None where it is not known.
    """
    new, seen = query.shape[1], key.shape[1]
    mask = None
    if causal and new > 1 and new != seen:  # torch aligns is_causal to the top left; a small mask aligns it right
        mask = torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
    groups = query.shape[2] // key.shape[2]
    grouped = groups > 1 and (_groups_heads(query, mask) if grouped is None else grouped)
    if groups > 1 and not grouped:
        key, value = (part.repeat_interleave(groups, dim=2) for part in (key, value))
    computed = torch.float16 if _lacks_bfloat16(query) else query.dtype
    out = F.scaled_dot_product_attention(
        *(part.to(computed).transpose(1, 2) for part in (query, key, value)),
        attn_mask=mask,
        is_causal=causal and new == seen and new > 1,
        enable_gqa=grouped,
    )
    return out.transpose(1, 2).to(query.dtype)


def _lacks_bfloat16(query: Tensor) -> bool:
    """Whether these are numbers for which only kernels that make the whole matrix of scores are there: bfloat16 on a
    card before compute capability 8.0.

    In float16 there are others. Queries and keys are normalised before, and it has three bits more than bfloat16.
    """
    return query.dtype == torch.bfloat16 and query.is_cuda and not _has_bfloat16(query.device)


def _has_bfloat16(card: torch.device) -> bool:
    return torch.cuda.get_device_capability(card) >= (8, 0)


def repeats_heads(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `sdpa` repeats heads of keys and values there."""
    return device.type == "cuda" and (dtype == torch.float32 or not _has_bfloat16(device))


def _groups_heads(query: Tensor, mask: Tensor | None) -> bool:
    """Whether torch has a kernel for grouped heads here that does not make the whole matrix of scores.

    On CUDA only the flash kernel has: half precision, no mask, compute capability 8. Repeating K and V heads costs
    less by far (75 MB at 2048 x 2048 in the 8B models) than 2 GB of scores.
    """
    if query.device.type != "cuda":
        return True
    half = query.dtype != torch.float32
    return half and mask is None and _has_bfloat16(query.device)
