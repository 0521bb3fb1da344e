"""What a task needs on the device beside the weights: keys, values and activations, estimated from above."""

from ..model.attention import BLOCK_TOKENS
from ..model.config import ModelConfig
from ..model.feed_forward import ROWS
from ..settings import UNCONDITIONAL, USUAL_PROMPT, DocumentSettings, SamplingSettings, edit_pixel_limits
from .plan import Task, Work

USUAL_TEXT = 1024  # tokens between two pictures of a document


def drawing(
    config: ModelConfig,
    settings: SamplingSettings,
    prefix_tokens: dict[str, int],
    itemsize: int,
    unread: bool,
    name: str,
) -> Task:
    """One batch from a prompt. prefix_tokens: of each branch. unread: whether some branch has to be read first."""
    tokens = sum(prefix_tokens.values())
    states = tokens * state_bytes(config, itemsize)  # all branches go through a layer one after the other
    reading = (
        kv_bytes(config, tokens, itemsize) + activation_bytes(config, max(prefix_tokens.values()), itemsize) + states
    )
    steps = f"{settings.steps} step{'s' * (settings.steps > 1)}"
    size = f"{settings.width} x {settings.height}, batch of {settings.batch_size}, {steps}"
    return Task(
        f"{name} {size}",
        Work(reading, int(unread)),
        drawing=Work(drawing_bytes(config, settings, prefix_tokens, itemsize), settings.steps),
    )


def writing(config: ModelConfig, tokens: int, more: int, itemsize: int, name: str) -> Task:
    """Up to `more` tokens of text after `tokens`."""
    return Task(
        f"{name} up to {more} tokens after {tokens}", Work(reading_bytes(config, tokens, more, itemsize)), writes=True
    )


def document(
    config: ModelConfig,
    settings: DocumentSettings,
    written: dict[str, int],
    index: int,
    itemsize: int,
    *,
    unconditional: bool,
) -> Task:
    """A document as far as its next picture, the one of that index: it is planned anew before each.

    written: tokens of each growing context so far, by guidance branch. unconditional: whether there is such a branch
    too.
    """
    if settings.max_images == 0:
        return writing(config, max(written.values()), settings.decoding.max_tokens, itemsize, "a document of")
    sampling = settings.of_image(min(index, settings.max_images - 1))
    drawn = config.grid(width=sampling.width, height=sampling.height).tokens
    grown = {name: _blocks(tokens + drawn + USUAL_TEXT) for name, tokens in written.items()}
    read, longest = kv_bytes(config, sum(grown.values()), itemsize), max(grown.values())
    reading = (
        read + _one_layer(config, longest, itemsize) + activation_bytes(config, max(*written.values(), drawn), itemsize)
    )
    prefixes = grown | ({UNCONDITIONAL: USUAL_PROMPT} if unconditional else {})
    return Task(
        f"picture {index + 1} of a document, {sampling.width} x {sampling.height}",
        Work(reading),
        writes=True,
        drawing=Work(drawing_bytes(config, sampling, prefixes, itemsize), sampling.steps),
    )


def picture_name(images: int) -> str:
    """What a task that draws is called, before its size."""
    return f"an edit of {images} image{'s' * (images > 1)}," if images else "a picture of"


def usual_tokens(config: ModelConfig, images: int, prompt: int = USUAL_PROMPT) -> int:
    """Of a prompt with so many images, each of the largest size that is read."""
    return prompt + (
        images * (edit_pixel_limits(images, config.best_area)[1] // config.token_pixels**2) if images else 0
    )


def kv_bytes(config: ModelConfig, tokens: int, itemsize: int) -> int:
    """Keys and values of `tokens` in all layers."""
    decoder = config.decoder
    return tokens * 2 * decoder.num_kv_heads * decoder.head_dim * itemsize * decoder.num_layers


def reading_bytes(config: ModelConfig, tokens: int, more: int, itemsize: int) -> int:
    """Reading `tokens` and then writing `more`: their keys and values, of which a growing layer exists twice."""
    total = _blocks(tokens + more)
    return (
        kv_bytes(config, total, itemsize)
        + _one_layer(config, total, itemsize)
        + activation_bytes(config, tokens, itemsize)
    )


def drawing_bytes(config: ModelConfig, settings: SamplingSettings, prefix_tokens: dict[str, int], itemsize: int) -> int:
    """Prefixes, the buffers that attention uses, one layer's activations, and the picture in float32."""
    images = settings.batch_size
    tokens = config.grid(width=settings.width, height=settings.height).tokens * images
    buffers = sum(prefix * images + tokens for prefix in prefix_tokens.values())
    picture = 6 * 4 * config.token_values * tokens  # noise, z, guesses, velocities, and the picture itself
    return (
        kv_bytes(config, sum(prefix_tokens.values()), itemsize)
        + _one_layer(config, buffers, itemsize)
        + activation_bytes(config, len(prefix_tokens) * tokens, itemsize)
        + picture
    )


def state_bytes(config: ModelConfig, itemsize: int) -> int:
    """What a token takes all the way through the layers: its state before and after one, and its turning tables."""
    return 2 * config.decoder.hidden_size * itemsize + 8 * 4 * config.decoder.head_dim


def activation_bytes(config: ModelConfig, rows: int, itemsize: int) -> int:
    """One layer's activations for so many tokens: of its attention or its feed-forward layer, whichever takes more."""
    decoder, experts = config.decoder, config.decoder.generation_experts[0]
    attention = rows * decoder.num_heads * decoder.head_dim * (2 * itemsize + 5 * 4)  # turned in float32
    if experts is None:
        feed_forward = min(rows, ROWS) * 3 * decoder.intermediate_size * itemsize
    else:
        values = (
            decoder.hidden_size + experts.width + max(decoder.hidden_size, experts.width)
        )  # gathered, and made of it
        feed_forward = min(rows, ROWS) * experts.per_token * (values * itemsize + 6 * 8)  # and where each row belongs
    return rows * state_bytes(config, itemsize) + max(
        attention, feed_forward + rows * 2 * decoder.hidden_size * itemsize
    )


def _blocks(tokens: int) -> int:
    """Room for so many tokens, as a context takes it."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _one_layer(config: ModelConfig, tokens: int, itemsize: int) -> int:
    return kv_bytes(config, tokens, itemsize) // config.decoder.num_layers
