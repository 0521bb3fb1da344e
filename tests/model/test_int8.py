"""Linear layers of INT8 against their own numbers, and against comfy-kitchen's layer."""

import pytest
import torch
from torch.nn import functional as F

from sensenova_core.model import int8
from sensenova_core.model.int8 import Int8Linear, kitchen_linear, quantised, rotated


def layer_of(weight: torch.Tensor, group: int, *, one_scale: bool = False) -> Int8Linear:
    numbers, scale = quantised(weight, group)
    if one_scale:
        scale = weight.abs().max().div(127).view(1, 1)
        numbers = (rotated(weight, group) if group else weight).div(scale).round().to(torch.int8)
    layer = Int8Linear(weight.shape[1], weight.shape[0], scales=len(scale), group=group)
    layer.weight.data, layer.weight_scale.data = numbers, scale
    return layer


@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize("group", [0, 16, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_layer_is_comfy_kitchens(group, dtype, one_scale):
    """What a card with its kernels draws is what is drawn without them, but for the rounding of what is between."""
    kitchen = pytest.importorskip("comfy_kitchen", reason="comfy-kitchen is not installed")
    draw = torch.Generator().manual_seed(group)
    weight, x = torch.randn(64, 256, generator=draw), torch.randn(40, 256, generator=draw).to(dtype)
    layer = layer_of(weight, group, one_scale=one_scale)
    ours, theirs, exact = layer(x), kitchen_linear(kitchen)(x, layer), F.linear(x.float(), weight)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == dtype
    assert (ours.float() - theirs.float()).norm() < 0.01 * exact.norm()
    assert (theirs.float() - exact).norm() < 0.1 * exact.norm()


def test_what_a_lora_adds_is_added_to_comfy_kitchens_product_too(monkeypatch):
    kitchen = pytest.importorskip("comfy_kitchen", reason="comfy-kitchen is not installed")
    draw = torch.Generator().manual_seed(1)
    weight, x = torch.randn(64, 256, generator=draw), torch.randn(2, 20, 256, generator=draw)
    layer = layer_of(weight, 256)
    layer.terms = [(0.5, torch.randn(64, 3, generator=draw), torch.randn(3, 256, generator=draw))]
    ours = layer(x)
    monkeypatch.setattr(int8, "_fused", lambda device: kitchen_linear(kitchen))
    assert (layer(x) - ours).norm() < 0.01 * ours.norm()


@pytest.mark.parametrize("group", [0, 64])
def test_whole_numbers_of_the_largest_size_are_summed_exactly(group):
    """As many as a published model's widest layer has: sums that 16 bits, and float32, would not hold."""
    numbers = torch.full((3, 12_288), 127, dtype=torch.int8)
    layer = Int8Linear(12_288, 2, scales=2, group=group)
    layer.weight.data = torch.stack([torch.full((12_288,), -128), torch.full((12_288,), 127)]).to(torch.int8)
    assert layer.sums(numbers).tolist() == [[-128 * 127 * 12_288, 127 * 127 * 12_288]] * 3


def test_a_device_whose_sums_saturate_has_no_products_of_int8(monkeypatch):
    """Some processors sum two products in 16 bits: right of small numbers, wrong of large ones."""
    real = torch.ops.aten._int_mm

    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        products = a.int()[:, :, None] * b.int()[None]
        return products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1).sum(1).int()

    ones = torch.ones(4, 8, dtype=torch.int8)
    assert torch.equal(saturating(ones, ones.t()), real(ones, ones.t()))
    tried = int8.is_multiplied_on.__wrapped__
    assert tried(torch.device("cpu"))
    monkeypatch.setattr(torch.ops.aten, "_int_mm", saturating)
    assert not tried(torch.device("cpu"))
