"""Tokens out, one at a time: choosing them, and turning them into text while they come."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NOT_FINITE, SenseNovaError
from ..settings import DecodingSettings
from .pen import Pen

# (float32 logits (vocabulary,), tokens chosen so far) -> token
Choose = Callable[[Tensor, list[int]], int]

UNFINISHED = "\ufffd"  # what bytes that are no whole character decode to


def chooser(settings: DecodingSettings) -> Choose:
    """A function that chooses tokens by these settings; it draws from one random stream.

    All of it is computed where the logits are. The token and whether it was chosen from finite logits come from there
    in one copy.
    """
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    repeated = _Repeated(settings.repetition_penalty)

    def choose(logits: Tensor, chosen: list[int]) -> int:
        logits = repeated.penalised(logits, chosen)
        best, token = logits.max(-1)
        if settings.sample:
            likelihood = _narrowed(logits / settings.temperature, settings.top_k, settings.top_p).softmax(-1)
            token = _drawn(likelihood, generator)
        told, highest = torch.stack([token.double(), best.double()]).tolist()
        if not math.isfinite(highest):
            raise SenseNovaError(f"the model's logits hold {highest} after {len(chosen)} tokens; {NOT_FINITE}")
        return int(told)

    return choose


def _drawn(likelihood: Tensor, generator: torch.Generator) -> Tensor:
    """A token, each as often as it is likely.

    As torch.multinomial does it on a CPU, whose random numbers are used on every device: a seed is a text anywhere, as
    far as rounding lets it be.
    """
    noise = torch.empty(likelihood.shape, dtype=likelihood.dtype, device="cpu").exponential_(generator=generator)
    return (likelihood / noise.to(likelihood.device, non_blocking=True)).argmax(-1)


class _Repeated:
    """The tokens chosen so far, marked on the device one by one, so that each costs the same however many there are."""

    def __init__(self, penalty: float):
        self.penalty = penalty
        self._marked: list[int] = []
        self._marks: Tensor | None = None

    def penalised(self, logits: Tensor, chosen: list[int]) -> Tensor:
        """Divide a chosen token's positive logit by the penalty, multiply a negative one by it."""
        if self.penalty == 1 or not chosen:
            return logits
        marks = self._marks_of(chosen, logits)
        return torch.where(marks, torch.where(logits > 0, logits / self.penalty, logits * self.penalty), logits)

    def _marks_of(self, chosen: list[int], logits: Tensor) -> Tensor:
        marks, count = self._marks, len(self._marked)
        if marks is None or marks.device != logits.device or chosen[:count] != self._marked:
            marks, count = torch.zeros_like(logits, dtype=torch.bool), 0
        for token in chosen[count:]:
            marks[token].fill_(1)
        self._marks, self._marked = marks, list(chosen)
        return marks


def _narrowed(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Leave only the top_k likeliest, and of those the fewest that together reach a likelihood of top_p."""
    ordered, index = logits.sort(descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k:
        keep[top_k:] = False
    likelihood = ordered.masked_fill(~keep, -math.inf).softmax(-1)
    keep &= likelihood.cumsum(-1) - likelihood < top_p  # the one that crosses the bound stays
    return torch.full_like(logits, -math.inf).scatter(0, index, ordered.masked_fill(~keep, -math.inf))


@dataclass(frozen=True)
class Chosen:
    """One token chosen. read: whether it has been read into the context (an end token is not)."""

    token: int
    read: bool


def decode(
    pen: Pen,
    *,
    choose: Choose,
    stop: Collection[int],
    last: Collection[int] = (),
    limit: int,
) -> Iterator[Chosen]:
    """Choose tokens until one of `stop` (which is not read) or of `last` (which is), or until `limit` were read.

    Each token is read before it is yielded.
    """
    chosen: list[int] = []
    for _ in range(limit):
        token = choose(pen.logits(), chosen)
        if token in stop:
            yield Chosen(token, read=False)
            return
        chosen.append(token)
        pen.write(token)
        yield Chosen(token, read=True)
        if token in last:
            return


class TextStream:
    """Chosen tokens -> text as soon as it is whole: a character may take several tokens."""

    LONGEST_CHARACTER = 4  # tokens: one for each byte
    HELD_AT_MOST = 8  # tokens; bytes that no further token can make a character are shown as they are

    def __init__(self, decode: Callable[[list[int]], str]):
        """decode: ids -> text, special tokens skipped."""
        self._decode = decode
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._held.append(token)
        text = self._decode(self._held)
        if text.endswith(UNFINISHED):
            return self._whole_part()
        self._held.clear()
        return text

    def _whole_part(self) -> str:
        """What comes before an unfinished character, once so much is held that it cannot all be one."""
        if len(self._held) < self.HELD_AT_MOST:
            return ""
        tails = range(len(self._held) - self.LONGEST_CHARACTER, len(self._held))
        cut = next((cut for cut in tails if self._decode(self._held[cut:]) == UNFINISHED), len(self._held))
        text = self._decode(self._held[:cut])
        del self._held[:cut]
        return text

    def rest(self) -> str:
        """What is left at the end."""
        text = self._decode(self._held)
        self._held.clear()
        return text
