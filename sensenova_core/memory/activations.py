"""What a task needs on the device beside the weights: keys, values and activations, estimated from above."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..model.attention import BLOCK_TOKENS, PORTION
from ..model.config import ModelConfig
from ..model.feed_forward import ROWS
from ..model.int8 import ROWS as INT8_ROWS
from ..settings import (
    UNCONDITIONAL,
    USUAL_PROMPT,
    DocumentSettings,
    SamplingSettings,
    edit_pixel_limits,
    understanding_pixel_limits,
)
from .plan import Task, Work

USUAL_TEXT = 1024  # tokens between two pictures of a document
# Beside a picture being drawn, in pictures of float32: with a mask its image as pixels and as tokens, noise, mask, and
# which pixels are kept; with another solver z and guesses as it remembers them, and what it makes of them.
PAINTING, SOLVING = 5, 8
GROWING = 10  # one part in so many is lost where keys and values grew out of smaller places


@dataclass(frozen=True)
class Activations:
    """Of one model. itemsize: bytes of a number that it computes with. int8: whether its products are of INT8.

    repeats: whether attention repeats heads of keys and values for want of a kernel. captured: bytes that captured
    tokens take while text is written. compiled: whether layers are.
    """

    config: ModelConfig
    itemsize: int
    int8: bool = False
    repeats: bool = False
    captured: int = 0
    compiled: bool = False

    def drawing(
        self,
        settings: SamplingSettings,
        prefix_tokens: Mapping[str, int],
        *,
        unread: bool,
        images: int = 0,
        beside: int = 0,
    ) -> Task:
        """One batch from a prompt. prefix_tokens: of each branch. unread: whether some branch has to be read first.

        images: how many are edited. beside: pictures that are kept beside the one being drawn: PAINTING, SOLVING.
        """
        tokens = sum(prefix_tokens.values())
        states = tokens * self.state_bytes  # all branches go through a layer one after the other
        reading = self.kv_bytes(tokens) + self.layer_bytes(self._portion(max(prefix_tokens.values()))) + states
        stays = self._kept(*prefix_tokens.values())
        name = f"an edit of {_counted(images, 'image')}," if images else "a picture of"
        size = (
            f"{settings.width} x {settings.height}, batch of {settings.batch_size}, {_counted(settings.steps, 'step')}"
        )
        drawing = Work(self.drawing_bytes(settings, prefix_tokens, beside), settings.steps, stays)
        return Task(f"{name} {size}", Work(reading, int(unread), stays), drawing=drawing)

    def writing(self, tokens: int, more: int, name: str) -> Task:
        """Up to `more` tokens of text after `tokens`: their keys and values, of which a growing layer exists twice."""
        total = max(_blocks(tokens + more), tokens + BLOCK_TOKENS)  # it begins with room for a block of text
        layer = max(self.reading_bytes(tokens), self._repeated(total))
        reading = self.kv_bytes(total) + self._one_layer(total) + layer + self.captured
        work = Work(reading, stays=self._kept(total), uneven=True)
        return Task(f"{name} up to {more} tokens after {tokens}", work, writes=True)

    def document(
        self,
        settings: DocumentSettings,
        written: Mapping[str, int],
        index: int,
        *,
        unconditional: bool,
        name: str = "a document",
    ) -> Task:
        """A document as far as its next picture, the one of that index: it is planned anew before each.

        written: tokens of each growing context so far, by guidance branch. unconditional: whether there is such a
        branch too. name: what the document is.
        """
        if settings.max_images == 0:
            return self.writing(max(written.values()), settings.decoding.max_tokens, "a document of")
        sampling = settings.of_image(min(index, settings.max_images - 1))
        drawn = self.config.grid(width=sampling.width, height=sampling.height).tokens
        grown = {name: _blocks(tokens + drawn + USUAL_TEXT) for name, tokens in written.items()}
        kept = self.kv_bytes(sum(grown.values()))
        reading = kept + kept // GROWING + self._one_layer(max(grown.values()))
        layer = max(self.reading_bytes(max(written.values())), self.layer_bytes(drawn))
        reading += max(layer, self._repeated(max(grown.values()))) + self.captured
        prefixes = grown | ({UNCONDITIONAL: USUAL_PROMPT} if unconditional else {})
        drawn_as = f"picture {index + 1} of {name}, {sampling.width} x {sampling.height}"
        drawing = Work(self.drawing_bytes(sampling, prefixes), sampling.steps, self._kept(*prefixes.values()))
        return Task(
            drawn_as, Work(reading, stays=self._kept(*grown.values()), uneven=True), writes=True, drawing=drawing
        )

    def documents(
        self,
        settings: DocumentSettings,
        written: Mapping[str, int],
        index: int,
        *,
        unconditional: bool,
        name: str = "a document",
    ) -> list[Task]:
        """`document` as far as the picture of that index and as far as each later one, of which each takes more: with
        usual text between them, as long as a context has room."""
        tasks, tokens = [], dict(written)
        for each in range(index, max(index + 1, settings.max_images)):
            tasks.append(self.document(settings, tokens, each, unconditional=unconditional, name=name))
            if settings.max_images == 0:
                break
            drawn = settings.of_image(min(each, settings.max_images - 1))
            grown = self.config.grid(width=drawn.width, height=drawn.height).tokens + USUAL_TEXT
            tokens = {branch: count + grown for branch, count in tokens.items()}
            if max(tokens.values()) > self.config.decoder.max_positions:
                break
        return tasks

    def usual_tokens(self, images: int, prompt: int = USUAL_PROMPT) -> int:
        """Of a prompt with so many images, each of the largest size that is read."""
        return prompt + images * (edit_pixel_limits(images, self.config.best_area)[1] // self.config.token_pixels**2)

    def reading_bytes(self, tokens: int) -> int:
        """What goes through the layers while a sequence is read: portion by portion, but for the states of all."""
        portion = self._portion(tokens)
        return self.layer_bytes(portion) + (tokens - portion) * self.state_bytes

    def _portion(self, tokens: int) -> int:
        """Most tokens of a sequence that go through a layer at once: an image stays whole."""
        areas = edit_pixel_limits(1, self.config.best_area), understanding_pixel_limits(self.config.best_area)
        image = max(most for _, most in areas) // self.config.token_pixels**2
        return min(tokens, max(PORTION, image))

    def kv_bytes(self, tokens: int) -> int:
        """Keys and values of `tokens` in all layers."""
        decoder = self.config.decoder
        return tokens * 2 * decoder.num_kv_heads * decoder.head_dim * self.itemsize * decoder.num_layers

    def drawing_bytes(self, settings: SamplingSettings, prefix_tokens: Mapping[str, int], beside: int = 0) -> int:
        """Prefixes, the buffers that attention uses, one layer's activations, and the picture in float32.

        beside: further pictures, see `drawing`.
        """
        images = settings.batch_size
        tokens = self.config.grid(width=settings.width, height=settings.height).tokens * images
        buffers = sum(prefix * images + tokens for prefix in prefix_tokens.values())
        # Noise, z, guesses, velocities, and the picture itself.
        picture = (6 + beside) * 4 * self.config.token_values * tokens
        attention = self.kv_bytes(sum(prefix_tokens.values())) + self._one_layer(buffers)
        return attention + self.layer_bytes(len(prefix_tokens) * tokens) + picture

    @property
    def state_bytes(self) -> int:
        """What a token takes all the way through the layers: its state before and after one, and its turning tables."""
        return 2 * self.config.decoder.hidden_size * self.itemsize + 8 * 4 * self.config.decoder.head_dim

    def layer_bytes(self, rows: int) -> int:
        """One layer's activations for so many tokens: of its attention or its feed-forward layer, whichever takes
        more."""
        decoder, itemsize = self.config.decoder, self.itemsize
        hidden, experts = decoder.hidden_size, decoder.generation_experts[0]
        attention = rows * decoder.num_heads * decoder.head_dim * (2 * itemsize + 3 * 4)  # turned in float32
        if experts is None:
            beside = 3 if self.compiled else 2  # gate and up, and of compiled layers their product
            feed_forward = min(rows, ROWS) * beside * decoder.intermediate_size * itemsize
        else:
            values = hidden + experts.width + max(hidden, experts.width)  # gathered, and made of it
            places = 6 * 8  # where each row belongs
            feed_forward = min(rows, ROWS) * experts.per_token * (values * itemsize + places)
        feed_forward += rows * 2 * hidden * itemsize
        if self.int8:
            inner, places = (decoder.intermediate_size, 1) if experts is None else (experts.width, experts.per_token)
            attention += _quantising_bytes(rows, max(hidden, decoder.num_heads * decoder.head_dim))
            feed_forward += _quantising_bytes(min(rows, ROWS) * places, max(hidden, inner))
        return rows * self.state_bytes + max(attention, feed_forward)

    def _kept(self, *tokens: int) -> tuple[int, int]:
        """Bytes of the keys and values of contexts of so many tokens, and how many tensors they are."""
        return self.kv_bytes(sum(tokens)), 2 * self.config.decoder.num_layers * len(tokens)

    def _repeated(self, tokens: int) -> int:
        """What attention to so many tokens takes where a card has no kernel for fewer heads of keys and values."""
        decoder = self.config.decoder
        return self._one_layer(tokens) * decoder.num_heads // decoder.num_kv_heads if self.repeats else 0

    def _one_layer(self, tokens: int) -> int:
        return self.kv_bytes(tokens) // self.config.decoder.num_layers


def _blocks(tokens: int) -> int:
    """Room for so many tokens, as a context takes it."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _quantising_bytes(rows: int, width: int) -> int:
    """What products of INT8 take beside their inputs and results: the inputs as whole numbers, and, of a few rows at a
    time, numbers while they are quantised, or sums while they are scaled."""
    return rows * width + min(rows, INT8_ROWS) * 16 * width


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
