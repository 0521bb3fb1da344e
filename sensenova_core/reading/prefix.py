"""What has been read, as attention sees it: every layer's keys and values, and how new tokens attend to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.attention import BLOCK_TOKENS, Attend, Kernel
from ..model.config import DecoderConfig

Run = tuple[int, bool]  # (stop, is_image) of a stretch of tokens


@dataclass(frozen=True, eq=False)
class Prefix:
    """Immutable. keys, values: per layer (1, tokens, kv_heads, head_dim), keys after norm and rotation.

    last_t: the time position of the last token.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    last_t: int

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (*self.keys, *self.values))


class Context:
    """A sequence that is still being read or written: keys and values in buffers that grow in blocks.

    New tokens are written in place; what has been written is never moved except when a buffer grows, nor changed except
    after `truncate`, so a `prefix()` taken from it stays true while the context goes on.
    """

    def __init__(self, config: DecoderConfig, *, device: torch.device, dtype: torch.dtype, tokens: int):
        """tokens: room to start with."""
        self.tokens, self.last_t = 0, -1
        shape = (1, tokens, config.num_kv_heads, config.head_dim)
        self._keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]
        self._values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]

    @property
    def room(self) -> int:
        return self._values[-1].shape[1]  # the last to grow

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all. Can be done over when memory ran out on the way."""
        if tokens <= self.room:
            return
        room = -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                if old.shape[1] >= room:
                    continue
                grown = old.new_empty(1, room, *old.shape[2:])
                grown[:, : self.tokens] = old[:, : self.tokens]
                buffers[layer] = grown

    def write(self, layer: int, key: Tensor, value: Tensor, *, after: int = 0) -> tuple[Tensor, Tensor]:
        """Put a layer's new keys and values behind what is there; returns all of both, the new ones included.

        after: tokens that this layer has written since the last `advance`.
        """
        start = self.tokens + after
        stop = start + key.shape[1]
        self._keys[layer][:, start:stop] = key
        self._values[layer][:, start:stop] = value
        return self._keys[layer][:, :stop], self._values[layer][:, :stop]

    def buffers(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values with all the room behind them, for whoever writes in place and then advances."""
        return self._keys[layer], self._values[layer]

    def clear_rest(self) -> None:
        """Have zeros in the room behind what was written: what is masked in attention has to be a number."""
        for buffer in (*self._keys, *self._values):
            buffer[:, self.tokens :] = 0

    def advance(self, tokens: int, last_t: int) -> None:
        """Count `tokens` that every layer has written."""
        self.tokens, self.last_t = self.tokens + tokens, last_t

    def truncate(self, tokens: int, last_t: int) -> None:
        """Forget all but the first `tokens`, the last of which is at time last_t."""
        self.tokens, self.last_t = tokens, last_t

    def prefix(self) -> Prefix:
        """What has been written so far, without a copy."""
        keys, values = ([part[:, : self.tokens] for part in parts] for parts in (self._keys, self._values))
        return Prefix(tuple(keys), tuple(values), self.last_t)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (*self._keys, *self._values))


class ReadingAttention:
    """Attention while the understanding expert reads: text sees what came before, an image also all of itself.

    runs: (stop, is_image) of each stretch of new tokens, in order; attending run by run needs no mask over the whole
    sequence. after: further new tokens that are read in the same pass before these.
    """

    def __init__(self, context: Context, runs: Sequence[Run], kernel: Kernel, *, after: int = 0):
        self.context, self.runs, self.kernel, self.after = context, runs, kernel, after

    def attend_at(self, layer: int) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.context.write(layer, key, value, after=self.after)
            before, start, parts = self.context.tokens + self.after, 0, []
            for stop, is_image in self.runs:
                seen = before + stop
                parts.append(self.kernel(query[:, start:stop], keys[:, :seen], values[:, :seen], causal=not is_image))
                start = stop
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        return attend


class DrawingAttention:
    """Attention while the generation expert draws: every image token sees its branch's prefix and the whole image.

    The linear layers see all branches as one batch of (branches * images) rows, branch by branch; here each branch
    attends with its own prefix, so nothing is padded or masked. A branch's buffers serve all layers and steps.
    """

    def __init__(self, prefixes: tuple[Prefix, ...], *, images: int, tokens: int, kernel: Kernel):
        self.prefixes, self.images, self.kernel = prefixes, images, kernel
        shape = prefixes[0].keys[0].shape[2:]  # (kv_heads, head_dim)
        self.buffers = [
            tuple(prefix.keys[0].new_empty(images, prefix.tokens + tokens, *shape) for _ in range(2))
            for prefix in prefixes
        ]

    def attend_at(self, layer: int) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            out = torch.empty_like(query)
            for branch in range(query.shape[0] // self.images):  # later branches may be off at this step
                rows = slice(branch * self.images, (branch + 1) * self.images)
                prefix, (keys, values) = self.prefixes[branch], self.buffers[branch]
                for buffer, read, new in ((keys, prefix.keys, key), (values, prefix.values, value)):
                    buffer[:, : prefix.tokens] = read[layer]
                    buffer[:, prefix.tokens :] = new[rows]
                out[rows] = self.kernel(query[rows], keys, values, causal=False)
            return out

        return attend
