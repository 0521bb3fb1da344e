"""What tells shapes and colours apart in a picture, and which cells a shape covers."""

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tools.demo.cells import kinds_in_cells
from tools.demo.detect import UNKNOWN, seen
from tools.demo.scenes import (
    COLOURS,
    KINDS,
    Scene,
    Shape,
    draw,
    scene,
)


@pytest.mark.parametrize("size", [(128, 128), (256, 256), (160, 128)])
def test_detectors_see_what_was_drawn(size):
    rng = random.Random(2)
    for index in range(30):
        made = scene(rng, 1 + index % 3, held_out=index % 2 == 0)
        found = seen(draw(made, *size))
        assert found.shows_colours(made)
        assert found.shows_kinds(made)


@pytest.mark.parametrize(
    "boxes", [[(20, 52, 44, 76), (84, 52, 108, 76)], [(14, 50, 114, 78)], [(50, 50, 78, 78), (10, 10, 30, 30)]]
)
def test_detectors_take_no_blots_for_shapes(boxes):
    """Two of a colour, one that is far too flat, one with something beside it."""
    picture = Image.new("RGB", (128, 128), COLOURS["white"])
    for box in boxes:
        ImageDraw.Draw(picture).ellipse(box, fill=COLOURS["red"])
    found = seen(picture)
    assert [(one.kind, one.colour) for one in found.shapes] == [(UNKNOWN, "red")] and found.background == "white"


def test_detectors_see_nothing_in_grey():
    found = seen(Image.new("RGB", (128, 128), (128, 128, 128)))
    assert found.background is None and not found.shapes


@pytest.mark.parametrize("box, colour", [((96, 0, 128, 32), (128, 128, 128)), ((100, 10, 112, 22), COLOURS["red"])])
def test_detectors_see_what_does_not_belong_there(box, colour):
    """A grey block, and a small blot of another colour."""
    made = Scene((Shape("circle", "blue", "big", "middle", 0.5, 0.5, 0.19),), "white")
    picture = draw(made)
    assert seen(picture).shows_kinds(made)
    picture.paste(colour, box)
    assert not seen(picture).shows_colours(made)


def test_detectors_take_no_other_outline_for_a_circle():
    outlines = {
        "oblong": [(0.5 + 0.2 * np.cos(a), 0.5 + 0.13 * np.sin(a)) for a in np.linspace(0, 6.2, 60)],
        "diamond": [(0.5, 0.3), (0.7, 0.5), (0.5, 0.7), (0.3, 0.5)],
        "egg": [(0.5 + 0.14 * np.cos(a), 0.5 + 0.2 * np.sin(a)) for a in np.linspace(0, 6.2, 60)],
    }
    for name, corners in outlines.items():
        picture = Image.new("RGB", (512, 512), COLOURS["white"])
        ImageDraw.Draw(picture).polygon([(512 * x, 512 * y) for x, y in corners], fill=COLOURS["red"])
        assert [one.kind for one in seen(picture.resize((128, 128))).shapes] == [UNKNOWN], name


def test_detectors_tell_every_kind_from_the_others():
    rng, found = random.Random(3), {}
    while len(found) < len(KINDS):
        made = scene(rng, 1)
        found[made.shapes[0].kind] = seen(draw(made)).shapes[0]
    assert all(one.kind == kind and one.likeness > 0.9 for kind, one in found.items())


def test_cells_are_named_after_the_shape_that_covers_them():
    star, ring = KINDS.index("star") + 1, KINDS.index("ring") + 1
    shapes = (
        Shape("star", "red", "big", "left", 0.25, 0.5, 0.19),
        Shape("ring", "blue", "big", "right", 0.75, 0.5, 0.19),
    )
    row = [star, star, ring, ring]
    assert kinds_in_cells(Scene(shapes, "white"), (128, 128), 32) == [0] * 4 + row + row + [0] * 4
