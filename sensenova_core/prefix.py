"""What has been read, as the attention sees it: every layer's keys and values. Immutable."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from .model.attention import Attend, Kernel


@dataclass(frozen=True, eq=False)
class Prefix:
    """keys, values: per layer (1, tokens, kv_heads, head_dim), keys after norm and rotation. last_t: the time position
    of the last token."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    last_t: int

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (*self.keys, *self.values))


class Reading:
    """Attention while the understanding expert reads: text sees what came before, an image also all of itself.

    Collects the keys and values of every layer. runs: (stop, is_image) of each stretch of new tokens, in order;
    attending run by run needs no mask over the whole sequence.
    """

    def __init__(self, runs: tuple[tuple[int, bool], ...], kernel: Kernel, past: Prefix | None = None):
        self.runs, self.kernel, self.past = runs, kernel, past
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend_at(self, layer: int) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if self.past is not None:
                key = torch.cat([self.past.keys[layer], key], 1)
                value = torch.cat([self.past.values[layer], value], 1)
            self.keys.append(key)
            self.values.append(value)
            before, start, parts = key.shape[1] - query.shape[1], 0, []
            for stop, is_image in self.runs:
                seen = before + stop
                parts.append(self.kernel(query[:, start:stop], key[:, :seen], value[:, :seen], not is_image))
                start = stop
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        return attend

    def prefix(self, last_t: int) -> Prefix:
        return Prefix(tuple(self.keys), tuple(self.values), last_t)


class Drawing:
    """Attention while the generation expert draws: every image token sees its branch's prefix and the whole image.

    The linear layers see all branches as one batch of (branches * images) rows, branch by branch; here each branch
    attends with its own prefix, so nothing is padded or masked. A branch's buffers serve all layers and steps.
    """

    def __init__(self, prefixes: tuple[Prefix, ...], images: int, tokens: int, kernel: Kernel):
        self.prefixes, self.images, self.kernel = prefixes, images, kernel
        self.buffers = [
            tuple(like.new_empty(images, prefix.tokens + tokens, *like.shape[2:]) for _ in range(2))
            for prefix in prefixes
            for like in prefix.keys[:1]
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
                out[rows] = self.kernel(query[rows], keys, values, False)
            return out

        return attend


class PrefixCache:
    """The most recently used prefixes, by what was read. Dropped whole by its owner when memory is wanted back."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[str, Prefix] = OrderedDict()

    def get(self, key: str) -> Prefix | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: str, prefix: Prefix) -> None:
        """Keep `prefix`, forgetting the least recently used while more than the limit is held."""
        self._held[key] = prefix
        while len(self._held) > 1 and self.nbytes > self.limit_bytes:
            self._held.popitem(last=False)

    @property
    def nbytes(self) -> int:
        return sum(prefix.nbytes for prefix in self._held.values())

    def clear(self) -> None:
        self._held.clear()
