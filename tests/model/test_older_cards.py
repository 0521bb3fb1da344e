"""Cards before compute capability 8.0: no bfloat16 in attention, whose kernels there make all scores at once."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from sensenova_core.model import attention
from sensenova_core.model.attention import sdpa
from tests.support.on_card import OnCard


def queries(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 5, 4, 16), (1, 9, 2, 16), (1, 9, 2, 16))
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return query.as_subclass(OnCard), key, value


@pytest.fixture
def seen(monkeypatch) -> list[torch.dtype]:
    """Types that torch's attention is given."""
    types: list[torch.dtype] = []
    real = F.scaled_dot_product_attention

    def attend(query, key, value, **named):
        types.extend({query.dtype, key.dtype, value.dtype})
        return real(query, key, value, **named)

    functions = SimpleNamespace(scaled_dot_product_attention=attend)
    monkeypatch.setattr(attention, "F", functions)
    return types


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (12, 0)], ids=str)
def test_bfloat16_attends_in_float16_where_a_card_has_none(monkeypatch, seen, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    query, key, value = queries(dtype)
    out = sdpa(query, key, value, causal=False)
    expected = torch.float16 if dtype == torch.bfloat16 and capability < (8, 0) else dtype
    assert seen == [expected] and out.dtype == dtype
    exact = sdpa(*(part.as_subclass(torch.Tensor).double() for part in (query, key, value)), causal=False)
    assert (out.double() - exact).abs().max() < {torch.float32: 1e-5, torch.float16: 2e-3}.get(dtype, 1e-2)


def test_the_processor_attends_as_it_is_asked(monkeypatch, seen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    sdpa(*(part.as_subclass(torch.Tensor) for part in queries(torch.bfloat16)), causal=False)
    assert seen == [torch.bfloat16]
