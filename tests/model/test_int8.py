"""Products of INT8: near those of floats, as comfy-kitchen's own, and whatever is planted beside them."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from sensenova_core.model import int8
from sensenova_core.model.feed_forward import FeedForward
from sensenova_core.model.int8 import Int8Linear, is_group, kitchen_linear, projected, quantised, rotated


def layer_of(weight: torch.Tensor, group: int = 0, one_scale: bool = False) -> Int8Linear:
    """A layer that multiplies a weight as INT8."""
    weight = rotated(weight, group) if group else weight
    numbers, scale = quantised(weight.view(1, -1) if one_scale else weight)
    layer = Int8Linear(weight.shape[1], len(weight), scales=len(scale), group=group)
    layer.weight.data, layer.weight_scale.data = numbers.view(weight.shape), scale
    return layer


def off(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", [0, 4, 16, 64, 256])
@pytest.mark.parametrize("rows", [(1,), (3, 41), (2, 700)], ids=str)
def test_products_are_near_those_of_floats_and_comfy_kitchens(group, rows, dtype):
    kitchen = pytest.importorskip("comfy_kitchen")
    torch.manual_seed(0)
    weight, x = torch.randn(96, 256), torch.randn(*rows, 256).to(dtype)
    layer, expected = layer_of(weight, group), x.float() @ weight.T
    made, theirs = layer(x), kitchen_linear(kitchen)(x, layer)
    assert made.dtype == dtype and made.shape == expected.shape
    assert 0 < off(made, expected) < 0.02
    assert off(made, expected) < 1.2 * off(theirs, expected)


def test_one_scale_for_all_rows():
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64), torch.randn(5, 64)
    layer = layer_of(weight, one_scale=True)
    assert layer.weight_scale.shape == (1, 1) and off(layer(x), x @ weight.T) < 0.02


def test_the_input_of_several_layers_is_quantised_once(monkeypatch):
    torch.manual_seed(0)
    weights, x = torch.randn(3, 64, 64), torch.randn(2, 5, 64)
    layers = [layer_of(weight, 16) for weight in weights]
    alone = [layer(x) for layer in layers]
    real, calls = int8.quantised, []
    monkeypatch.setattr(int8, "quantised", lambda *given: calls.append(1) or real(*given))
    assert all(map(torch.equal, projected(x, *layers), alone)) and len(calls) == 1


@pytest.mark.parametrize("other", ["a plain one", "one that is rotated otherwise"])
def test_layers_of_different_kinds_are_multiplied_one_by_one(other):
    torch.manual_seed(0)
    first = layer_of(torch.randn(32, 64), 16)
    second = torch.nn.Linear(64, 32, bias=False) if other == "a plain one" else layer_of(torch.randn(32, 64), 64)
    x = torch.randn(4, 64)
    with torch.no_grad():
        assert all(map(torch.equal, projected(x, first, second), [first(x), second(x)]))


@pytest.mark.parametrize("rows", [1, 33, 1100])
def test_a_feed_forward_layer_in_one_go_is_its_three_products(rows):
    """But for one rounding in between."""
    torch.manual_seed(0)
    feed = FeedForward(64, 256)
    for name, shape in (("gate_proj", (256, 64)), ("up_proj", (256, 64)), ("down_proj", (64, 256))):
        setattr(feed, name, layer_of(torch.randn(shape) / 8, 64))
    x = torch.randn(rows, 64)
    one_by_one = feed.down_proj(F.silu(feed.gate_proj(x)) * feed.up_proj(x))
    assert off(feed(x), one_by_one) < 1e-3


@pytest.mark.parametrize("planted", ["gate_proj", "up_proj", "down_proj"])
def test_what_loras_add_is_added_beside(planted):
    torch.manual_seed(0)
    feed, plain = FeedForward(64, 256), FeedForward(64, 256)
    up, down = (
        torch.randn(256 if planted != "down_proj" else 64, 4),
        torch.randn(4, 64 if planted != "down_proj" else 256),
    )
    with torch.no_grad():
        for name in ("gate_proj", "up_proj", "down_proj"):
            weight = torch.randn(getattr(plain, name).weight.shape) / 8
            setattr(feed, name, layer_of(weight))
            getattr(plain, name).weight.data = weight + (0.05 * up @ down if name == planted else 0)
        x = torch.randn(9, 64)
        without = feed(x)
        getattr(feed, planted).terms = [(0.05, up.bfloat16(), down.half())]
        assert off(feed(x), plain(x)) < 0.05 < off(without, plain(x))
        getattr(feed, planted).terms = ()
        assert torch.equal(feed(x), without)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so(bad):
    """So that the step that draws it can say so, in place of drawing something else."""
    layer, x = layer_of(torch.randn(32, 64), 16), torch.randn(4, 64)
    x[2, 5] = bad
    made = layer(x)
    assert not made[2].isfinite().any() and made[[0, 1, 3]].isfinite().all()


def test_rows_of_zeros():
    layer = layer_of(torch.zeros(32, 64))
    assert torch.equal(layer(torch.randn(3, 64)), torch.zeros(3, 32))
    assert torch.equal(layer_of(torch.randn(32, 64))(torch.zeros(3, 64)), torch.zeros(3, 32))


def test_rotations():
    assert [size for size in range(-5, 1100) if is_group(size)] == [4, 16, 64, 256, 1024]
    for group in (4, 16, 64, 256):
        x = torch.randn(7, 256, dtype=torch.float64)
        assert torch.allclose(rotated(rotated(x, group), group), x) and not torch.allclose(rotated(x, group), x)
        assert torch.allclose(rotated(x, group).norm(), x.norm())


@pytest.mark.parametrize(
    "kitchen",
    [None, SimpleNamespace(), SimpleNamespace(int8_linear=lambda x, weight, weight_scale: x)],
    ids=["missing", "without INT8", "without rotation"],
)
def test_a_comfy_kitchen_that_is_missing_or_too_old_is_done_without(monkeypatch, kitchen):
    monkeypatch.setitem(sys.modules, "comfy_kitchen", kitchen)
    assert int8._kitchen() is None
