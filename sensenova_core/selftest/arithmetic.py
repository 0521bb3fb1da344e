"""Types, norms and rotary embedding."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ..model.attention import RMSNorm
from ..model.devices import TORCH_DTYPES
from ..model.rope import frequencies, rotation
from .check import Check, difference, randoms, unequal

# Of a product or norm that is rounded to the type once; TF32 in place of float32, where somebody allows it, is right.
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 6e-3, torch.float16: 1e-3}
ROTARY_LIMIT = 1e-4
THETA, THETA_HW, HEAD_DIM = 5e6, 1e4, 128  # of the published models
FARTHEST = 1000  # positions; in float32 an angle so far is right to 1e-4


def checks(device: torch.device) -> Iterator[Check]:
    for name, dtype in TORCH_DTYPES.items():
        yield Check("types", f"product in {name}", LIMITS[dtype], partial(_product, device, dtype))
        yield Check("types", f"sums and SiLU in {name}", LIMITS[dtype], partial(_pointwise, device, dtype))
        yield Check("types", f"norm in {name}", LIMITS[dtype], partial(_norm, device, dtype))
        if dtype != torch.float32:
            yield Check("types", f"float32 to {name}", 0, partial(_rounding, device, dtype))
    yield Check("rotary", "turned by time, row and column", ROTARY_LIMIT, partial(_rotary, device))


def _product(device: torch.device, dtype: torch.dtype) -> float:
    x, weight = randoms(96, 512).to(dtype), randoms(384, 512, seed=1).to(dtype)
    return difference(F.linear(x.to(device), weight.to(device)), F.linear(x.double(), weight.double()))


def _pointwise(device: torch.device, dtype: torch.dtype) -> float:
    x, other = randoms(64, 1024).to(dtype), randoms(64, 1024, seed=1).to(dtype)
    ours = F.silu(x.to(device)) * other.to(device) + x.to(device)
    return difference(ours, F.silu(x.double()) * other.double() + x.double())


@torch.inference_mode()
def _norm(device: torch.device, dtype: torch.dtype) -> float:
    """Of numbers so large that their squares leave float16."""
    x, weight = (randoms(64, 1024) * 300).to(dtype), 1 + randoms(1024, seed=1) / 10
    norm = RMSNorm(1024, 1e-6)
    norm.weight = nn.Parameter(weight.to(device), requires_grad=False)
    wide = x.double()
    return difference(norm(x.to(device)), wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double())


def _rounding(device: torch.device, dtype: torch.dtype) -> float:
    """Every number rounds as on the CPU, halves and the smallest included."""
    ladder = torch.linspace(-20, 14, 4096).exp2()
    x = torch.cat([randoms(2**16), ladder, -ladder, 1 + torch.arange(512) / 2**13])
    return unequal(x.to(device).to(dtype), x.to(dtype))


def _rotary(device: torch.device) -> float:
    """Against turning by float64, from the same angles."""
    tokens = torch.tensor([0, 1, 2, 57, 300, FARTHEST])
    positions = torch.stack([tokens, tokens.flip(0), tokens.roll(2)])
    x = randoms(1, len(tokens), 3, HEAD_DIM)
    turned = rotation(positions.to(device), head_dim=HEAD_DIM, theta=THETA, theta_hw=THETA_HW).turn(x.to(device))
    parts, start = [], 0
    for row, width, theta in ((0, HEAD_DIM // 2, THETA), (1, HEAD_DIM // 4, THETA_HW), (2, HEAD_DIM // 4, THETA_HW)):
        angles = positions[row, :, None].double() * frequencies(width, theta).double()
        first, second = x[..., start : start + width].double().chunk(2, -1)
        spun = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)[None, :, None]
        parts += [spun.real, spun.imag]
        start += width
    return difference(turned, torch.cat(parts, -1))
