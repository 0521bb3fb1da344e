"""One token through all layers as one graph. Its plain form is `Reader.feed` and `Reader.logits`."""

import torch
from torch import Tensor

from ..model import UNDERSTANDING, Weights
from ..model.attention import BLOCK_TOKENS
from ..model.capture import Capture
from ..model.rope import Rotation
from ..model.token_layer import token_layers
from ..reading.block import BlockAttention
from ..reading.prefix import Context
from ..reading.prompt import text_positions
from ..reading.reader import Reader

# How far logits may be from those of the plain form, as a part of them; far more than rounding makes of it.
FARTHEST = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


class TokenGraph:
    """Reads one token after the other into a context, up to the end of its block, with weights that stay where they
    are. at_rest: what the weights said of where they are, see model.Weights.

    What differs from token to token lies in buffers of its own: x, the token's embedding, and its place. logits:
    float32 (vocabulary,), of the last token that was read.
    """

    def __init__(self, reader: Reader, context: Context, weights: Weights):
        """The last token of the context is text, in the block of the next one."""
        model, self.reader, self.context = reader.model, reader, context
        self.at_rest, self.understanding = weights.at_rest, model.understanding
        self.first, self.stop = context.tokens - 1, _end_of_block(context)
        context.reserve(self.stop)
        context.clear_rest()
        device, decoder = model.device, model.config.decoder
        self.x = torch.zeros(1, 1, decoder.hidden_size, dtype=model.dtype, device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self.logits = torch.zeros(decoder.vocab_size, dtype=torch.float32, device=device)
        self.attention = BlockAttention(context, self.place, self.stop)
        positions = text_positions(context.last_t, self.stop - self.first)
        self.rows = model.rotation(positions[None].to(device))
        self.layers = token_layers([*weights.layers(UNDERSTANDING)])
        self.head = [*weights.head()]
        self._replay = self._work

    def capture(self, capture: Capture) -> None:
        """From now on replay what was done."""
        self._replay = capture(self._work)

    def fits(self, context: Context, weights: Weights) -> bool:
        """Whether it can read the next token of a context with these weights."""
        return context is self.context and context.tokens < self.stop and weights.at_rest == self.at_rest

    def read(self, token: int, weights: Weights) -> None:
        """Read a token into the context."""
        self._read_at(self.context.tokens, token, weights)
        self.context.advance(1, self.context.last_t + 1)

    def read_again(self, token: int, weights: Weights) -> None:
        """Read the last token of the context once more, in its place."""
        self._read_at(self.context.tokens - 1, token, weights)

    def _read_at(self, place: int, token: int, weights: Weights) -> None:
        self.x.copy_(self.reader.embedded([token], weights)[None], non_blocking=True)
        self.place.fill_(place)
        self._replay()

    def _work(self) -> None:
        row = self.place - self.first
        rotation = Rotation(self.rows.cos.index_select(1, row), self.rows.sin.index_select(1, row))
        attention, unseen = self.attention, self.attention.unseen(self.x.dtype)
        x = self.understanding.decoder(
            self.x, rotation, lambda layer: attention.attend_at(layer, unseen), layers=self.layers
        )
        self.logits.copy_(self.understanding.logits(x[:, -1], self.head)[0])

    def is_right(self, expected: Tensor) -> bool:
        """Whether the logits are those of the plain form, but for rounding."""
        distance = (self.logits - expected).norm() / expected.norm()
        return bool(distance <= FARTHEST[self.x.dtype])


def can_be_captured(reader: Reader, context: Context, weights: Weights) -> bool:
    """Whether nothing moves, no size depends on what is computed, as it does in a mixture, and the last token is in the
    block of the next one."""
    mixed = any(reader.model.config.decoder.understanding_experts)
    return weights.at_rest is not None and not mixed and _end_of_block(context) - context.tokens < BLOCK_TOKENS


def _end_of_block(context: Context) -> int:
    """Of the block that the next token is in."""
    return (context.tokens // BLOCK_TOKENS + 1) * BLOCK_TOKENS
