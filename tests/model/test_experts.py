"""The mixture of experts in its grouped forms: the loop's numbers, and no more weights and memory than a pass needs."""

import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sensenova_core.memory.slots import Slot
from sensenova_core.memory.transfers import Transfers
from sensenova_core.memory.units import Part, Unit
from sensenova_core.model import MixtureOfExperts, feed_forward
from tests.support.each import each
from tests.support.mixtures import in_one_buffer, looped, looped_over_all, random_mixture
from tests.support.peak import PeakBytes

FORMS = ("one by one", "in groups")
TOLERANCE = 1e-5


@pytest.fixture(params=FORMS)
def form(request, monkeypatch) -> str:
    """How experts are multiplied: as on a CPU, or as on a card that can, which a CPU does as well, only not fast."""
    if request.param == "in groups":
        if not hasattr(F, "grouped_mm"):
            pytest.skip("this torch has no grouped products")
        monkeypatch.setattr(feed_forward, "_multiplies_groups", lambda rows: True)
    return request.param


def mixture_for(form: str, *shape: int) -> MixtureOfExperts:
    mixture = random_mixture(*shape)
    if form == "in groups":
        in_one_buffer(mixture)
        assert mixture.stack is not None
    return mixture


def prefer(mixture: MixtureOfExperts, experts: list[int]) -> None:
    """Every token whose first number is 1 chooses these, in this order."""
    mixture.gate.weight.zero_()
    mixture.gate.weight[experts, 0] = torch.arange(len(experts), 0, -1.0)


def check(mixture: MixtureOfExperts, x: torch.Tensor) -> None:
    for loop in (looped, looped_over_all):
        torch.testing.assert_close(mixture(x), loop(mixture, x), atol=TOLERANCE, rtol=TOLERANCE)


@each("seed", range(12))
def test_the_same_as_the_loop(form, seed, monkeypatch):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    experts = draw.choice([1, 3, 8, 32, 128])
    hidden, width, per_token = draw.choice([8, 48, 64]), draw.choice([16, 24, 32]), draw.randint(1, min(8, experts))
    mixture = mixture_for(form, hidden, width, experts, per_token)
    monkeypatch.setattr(feed_forward, "ROWS", draw.choice([7, 64, 4096]))
    check(mixture, torch.randn(draw.randint(1, 3), draw.choice([1, 2, 30, 200]), hidden))


def test_three_times_as_fast_as_the_plain_loop_when_it_was_measured():
    """Of the loop over all experts with masks; docs/benchmarks.md says where that stops."""
    results = sorted((Path(__file__).parents[2] / "benchmarks/results").glob("experts-*-cpu.json"))
    for row in json.loads(results[-1].read_text())["rows"]:
        if row["size"] in ("16x8", "64x24"):
            assert (row["experts"], row["tokens"]) == (128, 4096) and row["rounds"] > 10
            assert row["plain_ratio"] > 3 and row["medians"]["plain"] > 3 * row["medians"]["grouped"]


@each("chosen", [[5], [0, 7], [7, 3, 4]])
@each("tokens", [1, 40])
def test_all_tokens_on_few_experts(form, chosen, tokens):
    torch.manual_seed(1)
    mixture, x = mixture_for(form, 16, 24, 8, len(chosen)), torch.randn(2, tokens, 16)
    prefer(mixture, chosen)
    x[..., 0] = 1
    assert mixture.route(x.flatten(0, -2))[1].tolist() == [chosen] * 2 * tokens
    check(mixture, x)


def test_the_same_every_time_and_whatever_comes_along(form):
    """Sums have one order; a second sequence beside the first only adds rows to its experts'."""
    torch.manual_seed(2)
    mixture, x = mixture_for(form, 64, 32, 128, 8), torch.randn(2, 300, 64)
    both = mixture(x)
    assert torch.equal(mixture(x), both)
    torch.testing.assert_close(mixture(x[:1]), both[:1], atol=TOLERANCE, rtol=TOLERANCE)


def test_one_token_touches_its_own_experts_alone():
    """The others have no weights at all."""
    torch.manual_seed(3)
    mixture, x = random_mixture(64, 32, 128, 8), torch.randn(1, 1, 64)
    expected = looped(mixture, x)
    own = set(mixture.route(x[0])[1][0].tolist())
    for index in set(range(128)) - own:
        mixture.experts[index].to("meta")
    assert len(own) == 8
    torch.testing.assert_close(mixture(x), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_experts_without_tokens_change_nothing(form):
    torch.manual_seed(4)
    mixture, x = random_mixture(64, 32, 128, 8), torch.randn(1, 1, 64)
    expected = looped(mixture, x)
    for index in set(range(128)) - set(mixture.route(x[0])[1][0].tolist()):
        for value in mixture.experts[index].parameters():
            value.fill_(torch.nan)
    in_one_buffer(mixture)
    torch.testing.assert_close(mixture(x), expected, atol=TOLERANCE, rtol=TOLERANCE)


def unit_of(mixture: MixtureOfExperts) -> Unit:
    """A unit of a layer that is nothing but this."""
    parts, start = [], 0
    for name, value in mixture.named_parameters():
        parts.append(Part(name, name, dtype=value.dtype, shape=tuple(value.shape), lies_at=start, runs_at=start))
        start += -(-parts[-1].nbytes // 256) * 256
    return Unit("generation", 0, tuple(parts), mixture.to("meta"))


def test_a_slot_holds_experts_as_one_and_copies_nothing():
    """24 x 10 float32 are no multiple of 256 bytes, so the views have gaps between experts."""
    torch.manual_seed(5)
    plain = random_mixture(24, 10, 6, 2)
    x, values = torch.randn(1, 9, 24), {name: value.clone() for name, value in plain.named_parameters()}
    expected = looped(plain, x)
    unit = unit_of(plain)
    slot = Slot(unit.nbytes, torch.device("cpu"), Transfers())
    for part in unit.parts:
        part.of(slot.buffer).copy_(values[part.leaf])
    module, buffer = slot.module(unit, lambda part: part.of(slot.buffer)), slot.buffer.untyped_storage().data_ptr()
    for name in module.stack.NAMES:
        view = getattr(module.stack, name)
        assert view.untyped_storage().data_ptr() == buffer and view.stride(0) > view[0].numel()
        assert torch.equal(view, torch.stack([values[f"experts.{index}.{name}.weight"] for index in range(6)]))
    torch.testing.assert_close(module(x), expected, atol=TOLERANCE, rtol=TOLERANCE)
    slot.drop()
    assert {value.untyped_storage().nbytes() for value in module.parameters()} == {0}


def test_weights_that_lie_apart_stay_apart():
    mixture = random_mixture(16, 24, 4, 2)
    mixture.stack_up()
    assert mixture.stack is None
    in_one_buffer(mixture)
    mixture.experts[2].up_proj.weight = torch.nn.Parameter(torch.zeros(24, 16), requires_grad=False)
    mixture.stack_up()
    assert mixture.stack is None
    assert "stack" not in "".join(name for name, _ in mixture.named_parameters())


class Largest(PeakBytes):
    """largest: bytes of the largest storage made."""

    largest = 0

    def _count(self, storage: torch.UntypedStorage) -> None:
        self.largest = max(self.largest, storage.nbytes())
        super()._count(storage)


@pytest.mark.parametrize("hidden, width", [(64, 16), (32, 64)])
def test_no_temporary_is_larger_than_the_rows_of_one_piece(form, hidden, width, monkeypatch):
    """With many experts, or with one that all tokens choose."""
    monkeypatch.setattr(feed_forward, "ROWS", 256)
    for experts, per_token in ((16, 8), (1, 1)):
        mixture, x = mixture_for(form, hidden, width, experts, per_token), torch.randn(1, 1000, hidden)
        rows = 4 * 256 * per_token
        with torch.inference_mode(), Largest("cpu") as peak:
            peak.leave_out([*mixture.parameters(), x])
            mixture(x)
        assert peak.largest <= max(rows * max(hidden, 2 * width), x.nbytes)
        values = hidden + width + max(hidden, width)  # as `needs.activation_bytes` says, beside what each piece gives
        assert peak.most <= 2 * x.nbytes + rows * (values + 12) + 256 * experts * 12
