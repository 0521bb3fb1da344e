"""Kernels of a real card, each against the plain form of it."""

import pytest
import torch
from torch.nn import functional as F

from sensenova_core.errors import SettingsError
from sensenova_core.model import attention_kernel
from sensenova_core.model.attention import sdpa
from tests.model.test_int8 import layer_of, off
from tests.support.mixtures import in_one_buffer, looped, random_mixture

CUDA = torch.device("cuda", 0)
NOISE = {torch.bfloat16: 0.01, torch.float16: 0.002, torch.float32: 5e-5}  # of the largest number
SHAPES = [(1, 1, 700), (1, 300, 300), (1, 300, 700), (2, 1024, 1424)]  # (batch, new tokens, tokens that they see)


def states(batch: int, new: int, seen: int) -> list[torch.Tensor]:
    """Query, key and value in float32."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, new, 8, 128), (batch, seen, 2, 128), (batch, seen, 2, 128))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Attention as it is written down, on the CPU."""
    key, value = (part.repeat_interleave(query.shape[2] // part.shape[2], dim=2) for part in (key, value))
    scores = torch.einsum("bnhd,bshd->bhns", query, key) / query.shape[-1] ** 0.5
    if causal:
        new, seen = scores.shape[-2:]
        scores = scores.masked_fill(torch.ones(new, seen).tril(seen - new) == 0, -torch.inf)
    return torch.einsum("bhns,bshd->bnhd", scores.softmax(-1), value)


def near(made: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((made.cpu().float() - expected).abs().max() <= NOISE[made.dtype] * expected.abs().max())


@pytest.mark.parametrize("dtype", NOISE, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torchs_attention(shape, causal, dtype):
    given = states(*shape)
    made = sdpa(*(each.to(CUDA, dtype) for each in given), causal=causal)
    assert near(made, plain(*(each.to(dtype).float() for each in given), causal=causal))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flash_and_torchs_attention(shape, causal, dtype):
    try:
        flash = attention_kernel("flash", CUDA, dtype)
    except SettingsError as error:
        pytest.skip(str(error))
    given = [each.to(CUDA, dtype) for each in states(*shape)]
    made = flash(*given, causal=causal)
    assert near(made, sdpa(*given, causal=causal).cpu().float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_experts_multiplied_at_once_and_one_by_one(dtype):
    torch.manual_seed(0)
    mixture = random_mixture(256, 128, 16, 4).to(CUDA, dtype)
    in_one_buffer(mixture)
    x = torch.randn(2, 300, 256).to(CUDA, dtype)
    assert near(mixture(x), looped(mixture, x).cpu().float())


@pytest.mark.parametrize("group", [0, 64])
@pytest.mark.parametrize("rows", [1, 33, 2000])
def test_products_of_int8_and_bfloat16(rows, group):
    torch.manual_seed(0)
    weight, x = torch.randn(512, 256), torch.randn(rows, 256).bfloat16()
    layer = layer_of(weight, group).to(CUDA)
    made = layer(x.to(CUDA))
    assert made.dtype == torch.bfloat16
    assert off(made.cpu(), x.float() @ weight.T) < 0.02
    assert off(made.cpu(), F.linear(x, weight.bfloat16()).float()) < 0.02
