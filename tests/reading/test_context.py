"""What has been read: buffers that grow in blocks, what is taken from them, and what is kept for how long."""

from functools import partial

import pytest
import torch

from sensenova_core.model.decoder import LAST_TOKENS
from sensenova_core.model.grid import Grid
from sensenova_core.reading.prefix import BLOCK_TOKENS, Context
from sensenova_core.reading.prompt import runs, text_positions
from sensenova_core.reading.remembered import RecentlyUsed
from tests.support.golden_set import relative_error
from tests.support.on_card import NoWaits, OnCard
from tests.support.pictures import picture

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def context(engines) -> Context:
    return engines("tiny-u15").reader.new_context(10)


def write(context: Context, tokens: int, seed: int) -> torch.Tensor:
    """Random keys and values behind what is there, the same for all layers; returns (2, tokens, heads, head_dim)."""
    random = torch.Generator().manual_seed(seed)
    kv = torch.randn(2, 1, tokens, *context.prefix().keys[0].shape[2:], generator=random)
    context.reserve(context.tokens + tokens)
    for layer in range(len(context.prefix().keys)):
        context.write(layer, *kv)
    context.advance(tokens, context.last_t + tokens)
    return kv[:, 0]


def held(prefix) -> torch.Tensor:
    """(layers, 2, tokens, heads, head_dim)."""
    return torch.stack([torch.cat(pair) for pair in zip(prefix.keys, prefix.values, strict=True)])


def test_buffers_grow_in_blocks(context):
    rooms = []
    for tokens in (1, 10, 11, BLOCK_TOKENS, BLOCK_TOKENS + 1, 5 * BLOCK_TOKENS - 1, 7):
        context.reserve(tokens)
        rooms.append(context.room)
    assert rooms == [10, 10, BLOCK_TOKENS, BLOCK_TOKENS, 2 * BLOCK_TOKENS, 5 * BLOCK_TOKENS, 5 * BLOCK_TOKENS]
    assert context.tokens == 0 and context.prefix().tokens == 0


def test_nothing_moves_while_there_is_room(context):
    write(context, 4, seed=0)
    before = [part.data_ptr() for part in context.prefix().keys]
    write(context, 6, seed=1)
    assert [part.data_ptr() for part in context.prefix().keys] == before
    write(context, 1, seed=2)
    assert [part.data_ptr() for part in context.prefix().keys] != before


def test_what_is_written_is_what_is_read(context):
    parts = [write(context, tokens, seed) for seed, tokens in enumerate((3, 7, 1, 600, 2))]
    assert all(torch.equal(layer, torch.cat(parts, 1)) for layer in held(context.prefix()))
    assert context.tokens == 613 and context.last_t == 612


def test_writing_returns_all_that_a_layer_holds(context):
    first = write(context, 3, seed=0)
    second = torch.randn(2, 1, 2, *first.shape[2:])
    keys, values = context.write(1, *second)
    assert torch.equal(torch.cat([keys, values]), torch.cat([first, second[:, 0]], 1))
    assert context.tokens == 3  # until all layers have


@pytest.mark.parametrize("more", [1, 7, 600], ids=["in its room", "to its end", "after growing"])
def test_a_prefix_stays_true_while_its_context_goes_on(context, more):
    write(context, 3, seed=0)
    prefix = context.prefix()
    before = held(prefix).clone()
    write(context, more, seed=1)
    assert prefix.tokens == 3 and prefix.last_t == 2
    assert torch.equal(held(prefix), before)


def test_a_prefix_is_no_copy(context):
    write(context, 3, seed=0)
    prefix = context.prefix()
    assert [part.data_ptr() for part in prefix.keys] == [part.data_ptr() for part in context.prefix().keys]
    assert prefix.nbytes == sum(part.nbytes for part in (*prefix.keys, *prefix.values)) < context.nbytes


def test_truncating_and_going_on(context):
    kept, _ = write(context, 4, seed=0), write(context, 20, seed=1)
    room = context.room
    context.truncate(4, 3)
    new = write(context, 2, seed=2)
    assert all(torch.equal(layer, torch.cat([kept, new], 1)) for layer in held(context.prefix()))
    assert (context.tokens, context.last_t, context.room) == (6, 5, room)


@pytest.mark.parametrize("name", ["tiny-u15", "tiny-a3b"])
def test_reading_token_by_token_is_reading_at_once(engines, name):
    engine = engines(name)
    reader = engine.reader
    whole, hidden = reader.open(engine.conversation("what is it?"))
    sequence = engine.conversation("what is it?")
    context = reader.new_context(1)
    for token in sequence.ids.tolist():
        last = reader.feed([context], [token])[0]
    assert relative_error(last, hidden) < TOLERANCE
    assert relative_error(held(context.prefix()), held(whole.prefix())) < TOLERANCE
    assert context.last_t == whole.last_t == sequence.last_t


def test_feeding_an_image_is_reading_it(engines):
    """As documents do, piece by piece, and as prompts do, in one go."""
    engine = engines("tiny-u15")
    reader, ids = engine.reader, engine.tokenizer.ids
    sequence = engine.conversation("a <image> b", [picture()])
    (image,) = sequence.images
    whole, hidden = reader.open(sequence)
    before, after = sequence.ids.tolist().index(ids["<img>"]), sequence.ids.tolist().index(ids["</img>"])
    context = reader.new_context(5)
    reader.feed([context], sequence.ids[: before + 1].tolist())
    following = sequence.ids[after:].tolist()
    last = reader.feed_image([context], reader.embed(image), image.grid, ids=following)[0]
    assert relative_error(last, hidden) < TOLERANCE and context.last_t == whole.last_t
    assert relative_error(held(context.prefix()), held(whole.prefix())) < TOLERANCE


@pytest.mark.parametrize("cut", [0, 1, 20, 70, -1])
def test_going_on_from_a_beginning(engines, cut):
    """At text, at the start of an image, after it, and before the last token."""
    engine = engines("tiny-u15")
    reader = engine.reader
    sequence = engine.conversation("<image> what?", [picture()], max_pixels=65_536)
    slot = engine.tokenizer.ids["<IMG_CONTEXT>"]
    inside = [index for index, token in enumerate(sequence.ids.tolist()) if token == slot]
    cut = {20: inside[0], 70: inside[-1] + 1, -1: len(sequence.ids) - 1}.get(cut, cut)
    whole, hidden = reader.open(sequence)
    context, _ = reader.open(sequence)
    context.truncate(cut, int(sequence.positions[0, cut - 1]) if cut else -1)
    assert relative_error(reader.read_on(context, sequence), hidden) < TOLERANCE
    assert relative_error(held(context.prefix()), held(whole.prefix())) < TOLERANCE


def test_runs():
    text, image, dot = text_positions(0, 3)[0], Grid(2, 3, 32).positions(4)[0], Grid(1, 1, 32).positions(12)[0]
    assert runs(text) == ((3, False),)
    assert runs(image) == ((6, True),)
    assert runs(torch.cat([text, image, text + 5, image + 7])) == ((3, False), (9, True), (12, False), (18, True))
    assert runs(torch.cat([image, image + 1])) == ((6, True), (12, True))
    assert runs(dot) == ((1, False),)  # sees itself either way
    assert runs(torch.cat([text, dot, text + 13])) == ((7, False),)


class Sized:
    def __init__(self, nbytes: int):
        self.nbytes = nbytes


def test_the_least_recently_used_goes_first():
    held = RecentlyUsed(10)
    for key in "abc":
        held.put(key, Sized(3))
    held.get("a")
    held.put("d", Sized(3))
    assert [key for key in "abcd" if held.get(key)] == ["a", "c", "d"] and held.nbytes == 9
    held.put("e", Sized(7))
    assert [key for key in "abcde" if held.get(key)] == ["d", "e"] and held.nbytes == 10


def test_one_that_is_over_the_limit_alone_is_kept():
    """Else a long prompt would be read again for every picture."""
    held = RecentlyUsed(10)
    held.put("a", Sized(3))
    held.put("b", Sized(11))
    assert held.get("a") is None and held.get("b") and held.nbytes == 11
    held.clear()
    assert held.nbytes == 0 and held.get("b") is None


def test_putting_again_replaces():
    held = RecentlyUsed(10)
    held.put("a", Sized(8))
    held.put("a", Sized(5))
    assert held.nbytes == 5


def test_images_take_their_places_without_a_mask(engines):
    """For the indexes of a mask, and how many they are, a card would be waited for."""
    engine = engines("tiny-u15")
    sequence = engine.conversation("<image> and <image>?", [picture(64, 64), picture(96, 64, 1)])
    embedded = torch.cat([engine.reader.embed(image) for image in sequence.images])
    for start in (0, 3, int(sequence.slots.nonzero()[-1]) + 1, len(sequence.ids) - 1):
        context = engine.reader.new_context(len(sequence.ids))
        context.tokens = start
        with NoWaits():
            _, x, _ = engine.reader.run("reading", partial(engine.reader._unread, context, sequence))
        text = engine.reader.run("reading", partial(engine.reader._embedded, sequence.ids[start:]))
        slots, before = sequence.slots[start:], int(sequence.slots[:start].sum())
        assert torch.equal(x[slots], embedded[before:]) and torch.equal(x[~slots], text[~slots])


@pytest.mark.parametrize("name", ["tiny-u15", "tiny-a3b"])
def test_on_a_card_the_last_layer_feeds_forward_no_more_tokens_than_are_wanted(engines, name):
    engine = engines(name)
    decoder, tokens = engine.model.understanding.decoder, 3 * LAST_TOKENS
    x = torch.randn(1, tokens, engine.config.decoder.hidden_size, generator=torch.Generator().manual_seed(0))
    rotation = engine.model.rotation(text_positions(0, tokens)[None])
    fed: list[int] = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, given: fed.append(given[0].shape[1])) for layer in decoder.layers
    ]

    def read(x: torch.Tensor, *, last: bool) -> torch.Tensor:
        fed.clear()
        groups = engine.config.decoder.num_heads // engine.config.decoder.num_kv_heads
        attend = [(x, rotation, lambda layer: lambda query, key, value: value.repeat_interleave(groups, 2))]
        return decoder.together(attend, decoder.layers, last=last)[0].as_subclass(torch.Tensor)

    try:
        whole = read(x.as_subclass(OnCard), last=False)
        assert fed == [tokens] * len(decoder.layers)
        for here in (x, x.as_subclass(OnCard)):
            last = read(here, last=True)[:, -1]
            assert torch.equal(last, whole[:, -1])
            dense = here is not x and name != "tiny-a3b"
            assert fed[-1] == (LAST_TOKENS if dense else tokens) and set(fed[:-1]) == {tokens}
    finally:
        for hook in hooks:
            hook.remove()
