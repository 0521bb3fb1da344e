"""Runs the understanding expert: over whole sequences, token by token, and over images that were just drawn."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..model import UNDERSTANDING, InModule, Kernel, Runner, SenseNovaU1, Weights
from ..model.capture import Capture
from ..model.grid import Grid
from ..model.rope import Rotation
from .images import MEAN, STD, ReferenceImage
from .portions import portions
from .prefix import BLOCK_TOKENS, Context, Prefix, ReadingAttention
from .prompt import TokenSequence, runs, text_positions
from .remembered import Remembered
from .text_rows import TextRows

# A context; tokens to read into it, (tokens, hidden); their positions, (3, tokens).
Unread = tuple[Context, Tensor, Tensor]


class Reader:
    """Reads with the weights of one model, and remembers what it has read. run: see model.Runner."""

    def __init__(
        self, model: SenseNovaU1, kernel: Kernel, *, run: Runner | None = None, remembered: Remembered | None = None
    ):
        self.model, self.kernel = model, kernel
        self.run = run or InModule(model).run
        self.remembered = remembered or Remembered()
        self.variant = ""
        self.capture: Capture | None = None  # how tokens are captured that are written with these weights

    def read_as(self, variant: str) -> None:
        """Read with weights that a name is given to, another one for others, from now on. What was read with these
        before is found again, a conversation apart."""
        if variant != self.variant:
            self.variant, self.remembered.conversation = variant, None

    def key(self, sequence: TokenSequence) -> str:
        """What a sequence's prefix is remembered by."""
        return self.variant + sequence.key

    def prefix(self, sequence: TokenSequence) -> Prefix:
        """The prefix of a sequence, read now unless it is remembered."""
        return self.prefixes_of({"": sequence})[""]

    def prefixes_of(self, sequences: Mapping[str, TokenSequence]) -> dict[str, Prefix]:
        """The prefixes of sequences that are used together; all of them stay, however large."""
        keys = {name: self.key(sequence) for name, sequence in sequences.items()}
        prefixes = self.remembered.prefixes
        found = {key: prefix for key in keys.values() if (prefix := prefixes.get(key)) is not None}
        unread = {keys[name]: sequence for name, sequence in sequences.items() if keys[name] not in found}
        for key, (context, _) in zip(unread, self.open_all([*unread.values()]), strict=True):
            found[key] = context.prefix()
            prefixes.put(key, found[key], needed=keys.values())
        return {name: found[key] for name, key in keys.items()}

    def open(self, sequence: TokenSequence, more: int = 0) -> tuple[Context, Tensor]:
        """Read a sequence into a context with room for `more` tokens; also the last hidden state (1, hidden)."""
        return self.open_all([sequence], more)[0]

    def open_all(self, sequences: list[TokenSequence], more: int = 0) -> list[tuple[Context, Tensor]]:
        """`open` of several sequences in one pass of the layers."""
        if not sequences:
            return []

        def prepare(weights: Weights) -> list[Unread]:
            contexts = [self.new_context(len(sequence.ids) + more) for sequence in sequences]
            return [self._unread(context, each, weights) for context, each in zip(contexts, sequences, strict=True)]

        unread = self.run("reading", prepare)
        return [(context, hidden) for (context, *_), hidden in zip(unread, self._extend(unread), strict=True)]

    def resume(self, sequence: TokenSequence, more: int, most: int) -> tuple[Context, Tensor]:
        """`open`, reading only what differs from the conversation that is remembered: of its next turn.

        most: tokens that may follow; what is remembered is of use only if it has no more room than these need.
        """
        if self.remembered.conversation is None:
            return self.open(sequence, more)
        before, context = self.remembered.conversation
        self.remembered.conversation = None  # the context is about to change
        common = min(_common_tokens(before, sequence), len(sequence.ids) - 1)
        if context.room > len(sequence.ids) + max(more, most) + BLOCK_TOKENS:
            del before, context  # the buffers of a far longer conversation
            return self.open(sequence, more)
        context.truncate(common, int(sequence.positions[0, common - 1]) if common else -1)
        return context, self.read_on(context, sequence)

    def new_context(self, tokens: int) -> Context:
        model = self.model
        return Context(model.config.decoder, device=model.device, dtype=model.dtype, tokens=tokens)

    def read_on(self, context: Context, sequence: TokenSequence) -> Tensor:
        """Read what `context` lacks of `sequence`, whose beginning it has; the last hidden state (1, hidden)."""
        unread = self.run("reading", lambda weights: self._unread(context, sequence, weights))
        return self._extend([unread])[0]

    def _unread(self, context: Context, sequence: TokenSequence, weights: Weights) -> Unread:
        start = context.tokens
        ids, slots = sequence.ids[start:], sequence.slots
        x = self._embedded(ids, weights)
        places = slots.nonzero().flatten().split([image.grid.tokens for image in sequence.images])
        for image, place in zip(sequence.images, places, strict=True):
            first, stop = int(place[0]), int(place[-1]) + 1  # an image's tokens follow each other
            if stop > start:
                unread = max(first, start)
                x[unread - start : stop - start] = self.embed(image)[unread - first :]
        return context, x, sequence.positions[:, start:]

    def feed_token(self, context: Context, token: int, rows: TextRows) -> Tensor:
        """`feed` of one token into one context, with tables that were made before."""
        x = self._text("writing", [token])
        t = context.last_t + 1
        return self._extend([(context, x, text_positions(t, 1))], rows.at(t))[0]

    def feed(self, contexts: list[Context], ids: list[int]) -> list[Tensor]:
        """Read more text tokens into each context; the last hidden states, (1, hidden) each."""
        x = self._text("reading" if len(ids) > 1 else "writing", ids)
        return self._extend([(context, x, text_positions(context.last_t + 1, len(ids))) for context in contexts])

    def feed_image(self, contexts: list[Context], embedded: Tensor, grid: Grid, *, ids: list[int]) -> list[Tensor]:
        """Read an image's tokens (tokens, hidden) into each context, and text after them.

        <img> must have been read before. Returns the last hidden states, (1, hidden) each.
        """
        x = torch.cat([embedded, self._text("reading", ids)])
        unread = []
        for context in contexts:
            image = grid.positions(context.last_t + 1)
            after = text_positions(int(image[0, -1]) + 1, len(ids))
            unread.append((context, x, torch.cat([image, after], 1)))
        return self._extend(unread)

    def _text(self, phase: str, ids: list[int]) -> Tensor:
        """Token ids -> (tokens, hidden), as work of a phase."""
        return self.run(phase, lambda weights: self.embedded(ids, weights))

    def embedded(self, ids: list[int], weights: Weights) -> Tensor:
        """Token ids -> (tokens, hidden)."""
        return self._embedded(torch.tensor(ids, dtype=torch.int64, device="cpu"), weights)

    def _embedded(self, ids: Tensor, weights: Weights) -> Tensor:
        """Token ids (tokens,) -> (tokens, hidden)."""
        # The host need not wait: CUDA has taken what is not page-locked before it goes on.
        return weights.embed(ids).to(self.model.device, self.model.dtype, non_blocking=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """(1, hidden) -> float32 (vocabulary,)."""
        understanding = self.model.understanding
        return self.run("writing", lambda weights: understanding.logits(hidden, weights.head())[0].float())

    def embed(self, image: ReferenceImage) -> Tensor:
        """A reference image's tokens (tokens, hidden), embedded once however many sequences show it."""
        key = self.variant + image.key
        embedded = self.remembered.embeddings.get(key)
        if embedded is None:
            embedded = self.embed_pixels(image.pixels[None], image.grid)[0]
            self.remembered.embeddings.put(key, embedded)
        return embedded

    def embed_drawn(self, pixels: Tensor, grid: Grid) -> Tensor:
        """An image as it was drawn, (1, 3, height, width) in about -1 .. 1 -> (1, tokens, hidden). Neither clamped nor
        rounded: the model reads back exactly what it drew."""

        def embed(weights: Weights) -> Tensor:
            shown = pixels * 0.5 + 0.5
            return self.embed_pixels((shown - MEAN.to(shown.device)) / STD.to(shown.device), grid)

        return self.run("reading", embed)

    def embed_pixels(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Normalised (batch, 3, height, width) -> (batch, tokens, hidden)."""
        vision, pixels = self.model.understanding.vision, pixels.to(self.model.device, self.model.dtype)
        return vision(grid.image_to_patches(pixels), vision.rotary(grid, pixels.device))

    def _extend(self, unread: list[Unread], rotation: Rotation | None = None) -> list[Tensor]:
        """Read into several contexts in one pass of the layers; their last hidden states, (1, hidden) each.

        rotation: of all of them, where it was made before.
        """

        def read(weights: Weights) -> list[Tensor]:
            inputs, lasts = [], []
            for context, x, positions in unread:
                context.reserve(context.tokens + len(x))
                turned = rotation or self.model.rotation(positions[None].to(x.device))
                for start, stretches in portions(runs(positions[0])):
                    stop = start + stretches[-1][0]
                    reading = ReadingAttention(context, stretches, self.kernel, after=start)
                    inputs.append((x[None, start:stop], turned.of(start, stop), reading.attend_at))
                lasts.append(len(inputs) - 1)
            read_in = self.model.understanding.decoder.together(inputs, weights.layers(UNDERSTANDING), last=True)
            return [read_in[index][:, -1] for index in lasts]

        longest = max(len(x) for _, x, _ in unread)
        last = self.run("reading" if longest > 1 else "writing", read)
        for context, x, positions in unread:
            context.advance(len(x), int(positions[0, -1]))
        return last


def _common_tokens(before: TokenSequence, new: TokenSequence) -> int:
    """How many tokens both begin with, cut back to before an image that they do not share."""
    length = min(len(before.ids), len(new.ids))
    same = (before.ids[:length] == new.ids[:length]) & (before.positions[:, :length] == new.positions[:, :length]).all(
        0
    )
    common = length if same.all() else int(same.logical_not().nonzero()[0])
    slots = new.slots.nonzero().flatten().split([image.grid.tokens for image in new.images])
    for index, (image, span) in enumerate(zip(new.images, slots, strict=True)):
        shared = index < len(before.images) and before.images[index].key == image.key
        if span[0] < common and not (shared and span[-1] < common):
            return int(span[0])
    return common
