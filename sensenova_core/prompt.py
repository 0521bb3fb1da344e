"""A prompt -> the token sequence of each guidance branch, with positions. Templates: docs/model.md."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .errors import PromptError
from .flow import CONDITION, UNCONDITIONAL
from .tokenizer import IMAGE_SLOT, IMAGE_START, Tokenizer, markup

IMAGE_PLACEHOLDER = "<image>"


@cache
def system_message(name: str) -> str:
    """A system message of the trained protocol: "GEN" (draw and edit) or "INTERLEAVE"."""
    return json.loads(Path(__file__).with_name("protocol.json").read_text(encoding="utf-8"))[name]


@dataclass(frozen=True, eq=False)
class Sequence:
    """What one branch reads. ids: int64 (tokens,); positions: int64 (3, tokens), rows time, row, column."""

    ids: Tensor
    positions: Tensor

    @property
    def key(self) -> str:
        """Equal for sequences that read the same."""
        return hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()

    @property
    def last_t(self) -> int:
        return int(self.positions[0, -1])

    @property
    def runs(self) -> tuple[tuple[int, bool], ...]:
        """(stop, is_image) of each stretch of text or of one image: tokens of one image share their time."""
        time = self.positions[0]
        shared = torch.zeros(len(time) + 1, dtype=torch.bool)
        shared[1:-1] = time[1:] == time[:-1]
        image = shared[1:] | shared[:-1]  # equal to a neighbour; an image of one token is its own run of text
        breaks = (image[1:] != image[:-1]) | (image[1:] & (time[1:] != time[:-1]))
        stops = [*(breaks.nonzero().flatten() + 1).tolist(), len(time)]
        return tuple((stop, bool(image[stop - 1])) for stop in stops)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """A prompt made ready to be read: one sequence per guidance branch. Immutable, and holds no device memory; what has
    been read from it stays with the engine, found again by content."""

    prompt: str
    sequences: dict[str, Sequence]


def text_to_image(tokenizer: Tokenizer, prompt: str, max_tokens: int) -> Conditioning:
    """The conditioning of a picture drawn from text alone. An empty prompt is allowed.

    Raises PromptError for a prompt over the context, or one that places an image where there is none.
    """
    prompt = _clean(prompt)
    if IMAGE_PLACEHOLDER in prompt:
        raise PromptError(
            f"the prompt names {prompt.count(IMAGE_PLACEHOLDER)} {IMAGE_PLACEHOLDER} but no image is given; remove it"
        )
    condition = [*_system(system_message("GEN")), *_turn(prompt), *markup("<think>\n\n</think>\n\n<img>")]
    unconditional = [*_turn(""), *markup("<img>")]
    sequences = {CONDITION: condition, UNCONDITIONAL: unconditional}
    return Conditioning(
        prompt, {branch: _sequence(tokenizer, pieces, max_tokens) for branch, pieces in sequences.items()}
    )


def positions(ids: Tensor, start_id: int, slot_id: int, grids: tuple[tuple[int, int], ...]) -> Tensor:
    """Time, row and column of every token: int64 (3, tokens).

    Time grows by one at every text token and once more after <img>; the tokens of an image share theirs.
    grids: (rows, columns) in tokens of each image, in order; row and column are 0 for text.
    """
    slot = ids == slot_id
    after_start = torch.cat([torch.zeros(1, dtype=torch.bool), ids[:-1] == start_id])
    out = torch.zeros(3, len(ids), dtype=torch.int64)
    out[0] = ((~slot) | after_start).cumsum(0) - 1
    if grids:
        out[1, slot] = torch.cat([torch.arange(rows).repeat_interleave(columns) for rows, columns in grids])
        out[2, slot] = torch.cat([torch.arange(columns).repeat(rows) for rows, columns in grids])
    return out


def image_positions(t: int, rows: int, columns: int) -> Tensor:
    """Positions of an image being drawn: int64 (3, rows * columns), all at time t."""
    row = torch.arange(rows).repeat_interleave(columns)
    return torch.stack([torch.full_like(row, t), row, torch.arange(columns).repeat(rows)])


def _sequence(tokenizer: Tokenizer, pieces: list[str], max_tokens: int) -> Sequence:
    ids = torch.tensor(tokenizer.encode(pieces), dtype=torch.int64)
    if len(ids) > max_tokens:
        raise PromptError(
            f"the prompt comes to {len(ids):,} tokens, {len(ids) - max_tokens:,} over the model's {max_tokens:,}; "
            "shorten it"
        )
    return Sequence(ids, positions(ids, tokenizer.ids[IMAGE_START], tokenizer.ids[IMAGE_SLOT], ()))


def _system(message: str) -> list[str]:
    return [*markup("<|im_start|>system\n"), *markup(message), *markup("<|im_end|>\n")]


def _turn(text: str) -> list[str]:
    """A user's turn, up to where the model answers."""
    return [*markup("<|im_start|>user\n"), text, *markup("<|im_end|>\n<|im_start|>assistant\n")]


def _clean(prompt: str) -> str:
    """Line ends as the model was trained on: a carriage return would change the tokens."""
    if not isinstance(prompt, str):
        raise PromptError(f"the prompt is a {type(prompt).__name__}; give text")
    return prompt.replace("\r\n", "\n").replace("\r", "\n")
