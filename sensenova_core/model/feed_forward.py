"""SwiGLU feed-forward layers: dense, or a mixture of experts."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ExpertsConfig
from .int8 import feeds_forward, projected

ROWS = 4096  # of tokens at once: enough to keep a card busy, and no more memory than one 2048 x 2048 image needs


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)), no biases."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., hidden) -> the same."""
        parts = [self.at_once(rows) for rows in x.flatten(0, -2).split(ROWS)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(x.shape)

    def at_once(self, x: Tensor) -> Tensor:
        """The same for no more than `ROWS` tokens: (tokens, hidden)."""
        at_once = feeds_forward(x, gate=self.gate_proj, up=self.up_proj, down=self.down_proj)
        if at_once is not None:
            return at_once
        made = projected(x, self.gate_proj, self.up_proj)
        return self.down_proj(F.silu(next(made)).mul_(next(made)))


class MixtureOfExperts(nn.Module):
    """Each token goes through the `per_token` experts its router finds likeliest, weighted by that likelihood."""

    def __init__(self, hidden: int, config: ExpertsConfig):
        super().__init__()
        self.config = config
        self.gate = nn.Linear(hidden, config.num_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(hidden, config.width) for _ in range(config.num_experts))
        self.stack: Stack | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., hidden) -> the same."""
        parts = [self._mix(rows) for rows in x.flatten(0, -2).split(ROWS)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(x.shape)

    def stack_up(self) -> None:
        """Take the experts' weights for three tensors, where they lie evenly in one buffer. Nothing is copied.

        Not of INT8, whose products are one by one.
        """
        kinds = ([getattr(expert, name).weight for expert in self.experts] for name in Stack.NAMES)
        views = [view for weights in kinds if (view := _stacked(weights)) is not None]
        self.stack = Stack(views) if len(views) == len(Stack.NAMES) else None

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (float32) and indexes of each token's experts, both (tokens, per_token)."""
        likelihood = self.gate(tokens).float().softmax(-1)
        weights, chosen = likelihood.topk(self.config.per_token)
        if self.config.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, chosen

    def _mix(self, tokens: Tensor) -> Tensor:
        """(tokens, hidden) -> the same: sorted by expert, multiplied expert by expert, and added up token by token."""
        weights, chosen = self.route(tokens)
        of_expert, order = chosen.flatten().sort(stable=True)  # tokens * per_token places, in the order of experts
        experts = torch.arange(self.config.num_experts, dtype=torch.int64, device=tokens.device)
        ends = torch.searchsorted(of_expert, experts, right=True, out_int32=True)  # of each expert's rows
        rows = tokens.index_select(0, order // self.config.per_token)  # (tokens * per_token, hidden)
        if self.stack is not None and _multiplies_groups(rows):
            rows = self.stack(rows, ends)
        else:
            self._one_by_one(rows, ends)
        place = torch.arange(len(order), dtype=order.dtype, device=order.device)
        place = torch.empty_like(order).scatter_(0, order, place)
        # A bag's sum gathers, weighs and adds in one pass, always in the same order, with nothing in between.
        return F.embedding_bag(place.view_as(chosen), rows, per_sample_weights=weights.to(rows.dtype), mode="sum")

    def _one_by_one(self, rows: Tensor, ends: Tensor) -> None:
        """Put each expert's rows through it, in their place; an expert without rows is not touched."""
        counts = ends.diff(prepend=ends.new_zeros(1)).tolist()  # the one thing that a card is waited for
        present = [index for index, count in enumerate(counts) if count]
        for index, part in zip(present, rows.split([counts[index] for index in present]), strict=True):
            part.copy_(cast(FeedForward, self.experts[index]).at_once(part))


class Stack(nn.Module):
    """All experts of a mixture as three products: views (experts, out, in) of the weights that lie in one buffer."""

    NAMES = ("gate_proj", "up_proj", "down_proj")

    def __init__(self, views: Sequence[Tensor]):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Parameter(view, requires_grad=False) for view in views)

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        """rows: (rows, hidden), by expert -> the same. ends: (experts,) int32, where each one's rows end."""
        active = F.silu(_grouped(rows, self.gate_proj, ends), inplace=True).mul_(_grouped(rows, self.up_proj, ends))
        return _grouped(active, self.down_proj, ends)


def _grouped(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(rows, weights.transpose(1, 2), offs=ends)


def _multiplies_groups(rows: Tensor) -> bool:
    """Whether torch has a kernel for all groups at once, for which the CPU need not know where they end.

    Other devices and types get a loop of products there, with its own wait for the device. From Blackwell on, the
    kernel is there or not, by torch's version and system: such cards get our loop until one has been measured.
    """
    if not hasattr(F, "grouped_mm") or rows.dtype != torch.bfloat16:  # torch before 2.10
        return False
    hopper = rows.is_cuda and torch.cuda.get_device_capability(rows.device)[0] == 9
    return hopper or rows.is_meta  # where there are no numbers to know


def _stacked(weights: list[Tensor]) -> Tensor | None:
    """Equal tensors that lie at equal distances in one buffer, as one view of it: (tensors, ...)."""
    first = weights[0]
    if not first.is_floating_point():
        return None
    starts = [weight.storage_offset() for weight in weights]
    step = starts[1] - starts[0] if len(starts) > 1 else first.numel()
    even = starts == [starts[0] + index * step for index in range(len(starts))]
    buffers = {weight.untyped_storage().data_ptr() for weight in weights}
    if not even or step < first.numel() or len(buffers) > 1 or not all(weight.is_contiguous() for weight in weights):
        return None
    return first.as_strided((len(weights), *first.shape), (step, *first.stride()))


def feed_forward(hidden: int, width: int, experts: ExpertsConfig | None) -> nn.Module:
    return FeedForward(hidden, width) if experts is None else MixtureOfExperts(hidden, experts)
