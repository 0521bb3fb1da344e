"""Runs the understanding expert: over whole sequences, token by token, and over images that were just drawn."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ..model import Kernel, SenseNovaU1
from ..model.grid import Grid
from .images import MEAN, STD, ReferenceImage
from .prefix import (
    BLOCK_TOKENS,
    PREFIX_CACHE_BYTES,
    Context,
    Prefix,
    ReadingAttention,
    RecentlyUsed,
)
from .prompt import TokenSequence, runs, text_positions
from .work import Attempt, at_once

EMBEDDING_CACHE_BYTES = 2**28  # the same reference as embedded tokens takes 34 MB


# A context; tokens to read into it, (tokens, hidden); their positions, (3, tokens).
Unread = tuple[Context, Tensor, Tensor]


class Reader:
    """Holds what has been read, by content, until `forget`."""

    def __init__(self, model: SenseNovaU1, kernel: Kernel, attempt: Attempt = at_once):
        self.model, self.kernel, self.attempt = model, kernel, attempt
        self.prefixes: RecentlyUsed[Prefix] = RecentlyUsed(PREFIX_CACHE_BYTES)
        self.embeddings: RecentlyUsed[Tensor] = RecentlyUsed(EMBEDDING_CACHE_BYTES)
        self.held: tuple[TokenSequence, Context] | None = None
        self.variant = ""

    @property
    def nbytes(self) -> int:
        """Of all that is held."""
        held = self.held[1].nbytes if self.held else 0
        return self.prefixes.nbytes + self.embeddings.nbytes + held

    def read_as(self, variant: str) -> None:
        """Read with weights that a name is given to, another one for others, from now on. What was read with these
        before is found again, a conversation apart."""
        if variant != self.variant:
            self.variant, self.held = variant, None

    def key(self, sequence: TokenSequence) -> str:
        """What a sequence's prefix is held by."""
        return self.variant + sequence.key

    def keep_within(self, limit: int, needed: Collection[str], conversation: bool) -> None:
        """Forget what a run does not need until no more than so many bytes are held beside what it does.

        needed: their keys. conversation: whether the run may go on with the one that is held.
        """
        if self.held and not conversation:
            if self.held[1].nbytes > limit:
                self.held = None
            else:
                limit -= self.held[1].nbytes
        self.embeddings.trim(limit, ())
        limit -= self.embeddings.nbytes
        self.prefixes.trim(min(limit + self.prefixes.nbytes_of(needed), PREFIX_CACHE_BYTES), needed)

    def forget(self) -> None:
        self.prefixes.clear()
        self.embeddings.clear()
        self.held = None

    def prefix(self, sequence: TokenSequence) -> Prefix:
        """The prefix of a sequence, read now unless it is still held."""
        return self.prefixes_of({"": sequence})[""]

    def prefixes_of(self, sequences: Mapping[str, TokenSequence]) -> dict[str, Prefix]:
        """The prefixes of sequences that are used together; all of them stay held, however large."""
        keys = {name: self.key(sequence) for name, sequence in sequences.items()}
        found = {name: self.prefixes.get(key) for name, key in keys.items()}
        unread = {keys[name]: sequences[name] for name, prefix in found.items() if prefix is None}
        for key, (context, _) in zip(unread, self.open_all([*unread.values()]), strict=True):
            self.prefixes.put(key, context.prefix(), needed=keys.values())
        return {name: prefix or self.prefixes.get(keys[name]) for name, prefix in found.items()}

    def keep(self, sequence: TokenSequence, prefix: Prefix) -> None:
        """Have `prefix` found by all who read `sequence`."""
        self.prefixes.put(self.key(sequence), prefix)

    def open(self, sequence: TokenSequence, more: int = 0) -> tuple[Context, Tensor]:
        """Read a sequence into a context with room for `more` tokens; also the last hidden state (1, hidden)."""
        return self.open_all([sequence], more)[0]

    def open_all(self, sequences: list[TokenSequence], more: int = 0) -> list[tuple[Context, Tensor]]:
        """`open` of several sequences in one pass of the layers."""
        if not sequences:
            return []

        def prepare() -> list[Unread]:
            return [self._unread(self.new_context(len(sequence.ids) + more), sequence) for sequence in sequences]

        unread = self.attempt("reading", prepare)
        return [(context, hidden) for (context, *_), hidden in zip(unread, self._extend(unread), strict=True)]

    def resume(self, sequence: TokenSequence, more: int, most: int) -> tuple[Context, Tensor]:
        """`open`, reading only what differs from the sequence that `hold` kept: the next turn of a conversation.

        most: tokens that may follow; what is held stays only if it has no more room than these need.
        """
        if self.held is None:
            return self.open(sequence, more)
        held, context = self.held
        self.held = None  # the context is about to change
        kept = min(_common_tokens(held, sequence), len(sequence.ids) - 1)
        if context.room > len(sequence.ids) + max(more, most) + BLOCK_TOKENS:
            del held, context  # the buffers of a far longer conversation
            return self.open(sequence, more)
        context.truncate(kept, int(sequence.positions[0, kept - 1]) if kept else -1)
        return context, self.read_on(context, sequence)

    def hold(self, sequence: TokenSequence, context: Context) -> None:
        """Keep a context that has read `sequence`, for `resume`."""
        self.held = sequence, context

    def new_context(self, tokens: int) -> Context:
        return Context(self.model.config.decoder, self.model.device, self.model.dtype, tokens)

    def read_on(self, context: Context, sequence: TokenSequence) -> Tensor:
        """Read what `context` lacks of `sequence`, whose beginning it holds; the last hidden state (1, hidden)."""
        unread = self.attempt("reading", lambda: self._unread(context, sequence))
        return self._extend([unread])[0]

    def _unread(self, context: Context, sequence: TokenSequence) -> Unread:
        start = context.tokens
        ids, slots = sequence.ids[start:], sequence.slots
        x = self.model.understanding.embed(ids, self.model.device, self.model.dtype)  # (tokens, hidden)
        if slots[start:].any():
            images = torch.cat([self.embed(image) for image in sequence.images])
            x[slots[start:].to(x.device)] = images[int(slots[:start].sum()) :]
        return context, x, sequence.positions[:, start:]

    def feed(self, contexts: list[Context], ids: list[int]) -> list[Tensor]:
        """Read more text tokens into each context; the last hidden states, (1, hidden) each."""
        x = self._embedded(ids)
        return self._extend([(context, x, text_positions(context.last_t + 1, len(ids))) for context in contexts])

    def feed_image(self, contexts: list[Context], embedded: Tensor, grid: Grid, ids: list[int]) -> list[Tensor]:
        """Read an image's tokens (tokens, hidden) into each context, and text after them.

        <img> must have been read before. Returns the last hidden states, (1, hidden) each.
        """
        x = torch.cat([embedded, self._embedded(ids)])
        unread = []
        for context in contexts:
            image = grid.positions(context.last_t + 1)
            text = text_positions(int(image[0, -1]) + 1, len(ids))
            unread.append((context, x, torch.cat([image, text], 1)))
        return self._extend(unread)

    def _embedded(self, ids: list[int]) -> Tensor:
        ids = torch.tensor(ids, dtype=torch.int64, device="cpu")
        return self.model.understanding.embed(ids, self.model.device, self.model.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """(1, hidden) -> float32 (vocabulary,)."""
        return self.attempt("writing", lambda: self.model.understanding.logits(hidden)[0].float())

    def embed(self, image: ReferenceImage) -> Tensor:
        """A reference image's tokens (tokens, hidden), embedded once however many sequences hold it."""
        key = self.variant + image.key
        embedded = self.embeddings.get(key)
        if embedded is None:
            embedded = self.embed_pixels(image.pixels[None], image.grid)[0]
            self.embeddings.put(key, embedded)
        return embedded

    def embed_drawn(self, pixels: Tensor, grid: Grid) -> Tensor:
        """An image as it was drawn, (1, 3, height, width) in about -1 .. 1 -> (1, tokens, hidden). Neither clamped nor
        rounded: the model reads back exactly what it drew."""

        def embed() -> Tensor:
            shown = pixels * 0.5 + 0.5
            return self.embed_pixels((shown - MEAN.to(shown.device)) / STD.to(shown.device), grid)

        return self.attempt("reading", embed)

    def embed_pixels(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Normalised (batch, 3, height, width) -> (batch, tokens, hidden)."""
        vision, pixels = self.model.understanding.vision, pixels.to(self.model.device, self.model.dtype)
        return vision(grid.image_to_patches(pixels), vision.rotary(grid, pixels.device))

    def _extend(self, unread: list[Unread]) -> list[Tensor]:
        """Read into several contexts in one pass of the layers; their last hidden states, (1, hidden) each."""

        def read() -> list[Tensor]:
            inputs = []
            for context, x, positions in unread:
                context.reserve(context.tokens + len(x))
                reading = ReadingAttention(context, runs(positions[0]), self.kernel)
                inputs.append((x[None], self.model.rotation(positions[None].to(x.device)), reading.attend_at))
            return [hidden[:, -1] for hidden in self.model.understanding.decoder.together(inputs)]

        longest = max(len(x) for _, x, _ in unread)
        last = self.attempt("reading" if longest > 1 else "writing", read)
        for context, x, positions in unread:
            context.advance(len(x), int(positions[0, -1]))
        return last


def _common_tokens(held: TokenSequence, new: TokenSequence) -> int:
    """How many tokens both begin with, cut back to before an image that they do not share."""
    length = min(len(held.ids), len(new.ids))
    same = (held.ids[:length] == new.ids[:length]) & (held.positions[:, :length] == new.positions[:, :length]).all(0)
    common = length if same.all() else int(same.logical_not().nonzero()[0])
    slots = new.slots.nonzero().flatten().split([image.grid.tokens for image in new.images])
    for index, (image, span) in enumerate(zip(new.images, slots, strict=True)):
        shared = index < len(held.images) and held.images[index].key == image.key
        if span[0] < common and not (shared and span[-1] < common):
            return int(span[0])
    return common
