"""Long texts are read in portions: the same numbers, in one pass of the layers, with less at once."""

from functools import partial

import pytest
import torch

from sensenova_core.model.rope import rotation
from sensenova_core.reading.portions import portions
from sensenova_core.reading.prompt import text_positions
from sensenova_core.reading.text_rows import TextRows
from tests.support.each import each
from tests.support.golden_set import relative_error
from tests.support.pictures import picture
from tests.support.watch import inputs

TOLERANCE = 1e-5
TEXT, IMAGE = False, True


def read(runs, most: int) -> list[tuple[int, int, bool]]:
    """(first, stop, is_image) of each part, once portions and runs are told apart no more."""
    parts = []
    for began, stretches in portions(runs, most):
        start = 0
        for stop, is_image in stretches:
            parts.append((began + start, began + stop, is_image))
            start = stop
    return parts


def test_short_ones_are_read_at_once():
    runs = ((3, TEXT), (9, IMAGE), (12, TEXT))
    assert portions(runs, 12) == [(0, runs)] and portions(((4096, TEXT),)) == [(0, ((4096, TEXT),))]


def test_text_is_cut_and_images_are_not():
    assert portions(((25, TEXT),), 10) == [(0, ((10, TEXT),)), (10, ((10, TEXT),)), (20, ((5, TEXT),))]
    assert portions(((3, TEXT), (9, IMAGE), (12, TEXT)), 8) == [
        (0, ((3, TEXT),)),
        (3, ((6, IMAGE), (8, TEXT))),
        (11, ((1, TEXT),)),
    ]
    assert portions(((3, TEXT), (33, IMAGE), (36, TEXT)), 8) == [
        (0, ((3, TEXT),)),
        (3, ((30, IMAGE),)),
        (33, ((3, TEXT),)),
    ]
    assert portions(((30, IMAGE),), 8) == [(0, ((30, IMAGE),))]


@each("seed", range(10))
def test_all_is_read_once_and_in_order(seed):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (8,), generator=random).cumsum(0).tolist()
    runs = tuple((stop, bool(index % 2)) for index, stop in enumerate(lengths))
    most = int(torch.randint(1, 25, (1,), generator=random))
    parts = read(runs, most)
    assert [first for first, *_ in parts] == [0, *(stop for _, stop, _ in parts[:-1])] and parts[-1][1] == lengths[-1]
    images = [(first, stop) for first, stop, is_image in parts if is_image]
    starts = [0, *lengths]
    assert images == [(starts[index], lengths[index]) for index in range(1, 8, 2)]
    largest = max(stop - first for first, stop in images)
    assert all(stretches[-1][0] <= max(most, largest) for _, stretches in portions(runs, most))


@pytest.mark.parametrize("most", [1, 7, 50])
@pytest.mark.parametrize("name", ["tiny-u15", "tiny-a3b"])
def test_portions_give_the_same_numbers(engines, monkeypatch, most, name):
    """Two sequences at once, with images; and what follows on a beginning."""
    reader = engines(name).reader
    told = engines(name).conversation("what is <image>, and what <image>?", [picture(), picture(96, 64)], 16_384)
    text = engines(name).conversation("a long text. " * 9)
    with torch.inference_mode():
        whole = reader.open_all([told, text])
        monkeypatch.setattr("sensenova_core.reading.reader.portions", partial(portions, most=most))
        with inputs(reader.model.understanding.decoder.layers[-1], lambda x: x.shape[1]) as rows:
            parts = reader.open_all([told, text])
        begun, _ = reader.open(told)
        begun.truncate(5, int(told.positions[0, 4]))
        parts.append((begun, reader.read_on(begun, told)))
    assert len(rows) > 2 and sum(rows) == len(told.ids) + len(text.ids)
    assert max(rows) <= max(most, *(image.grid.tokens for image in told.images))
    for (new, hidden), (old, expected) in zip(parts, [*whole, whole[0]], strict=True):
        assert relative_error(hidden, expected) < TOLERANCE and (new.tokens, new.last_t) == (old.tokens, old.last_t)
        for made, right in zip(
            (*new.prefix().keys, *new.prefix().values), (*old.prefix().keys, *old.prefix().values), strict=True
        ):
            assert relative_error(made, right) < TOLERANCE


def test_layers_that_stream_come_once_for_all_portions(engines, monkeypatch):
    engine, passes = engines("tiny-u15"), []
    sequence, real = engine.conversation("a long text. " * 9), engine.memory.residency.layers
    engine.place()
    monkeypatch.setattr(engine.memory.residency, "layers", lambda expert: passes.append(expert) or real(expert))
    monkeypatch.setattr("sensenova_core.reading.reader.portions", partial(portions, most=7))
    with torch.inference_mode():
        engine.reader.open(sequence)
    assert passes == ["understanding"]


def test_rows_of_a_block_are_those_of_each_token(engines):
    """To the bit: what is made once for many turns a token as what is made for it alone."""
    model = engines("tiny-u15").model
    decoder, rows = model.config.decoder, TextRows(model)
    for t in (0, 1, 2, 510, 511, 512, 513, 100_000, 7):
        alone = rotation(
            text_positions(t, 1)[None],
            head_dim=decoder.head_dim,
            theta=decoder.rope_theta,
            theta_hw=decoder.rope_theta_hw,
        )
        assert torch.equal(rows.at(t).cos, alone.cos) and torch.equal(rows.at(t).sin, alone.sin)
