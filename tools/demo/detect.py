"""What is in a picture: the background's colour, and the colour, kind and place of each shape. No model.

Kinds go by overlap with templates: moments, which need no templates, mistake small stars and rings with a rough edge.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from tools.demo.scenes import (
    COLOURS,
    KINDS,
    PLACES,
    SIZES,
    Scene,
    Shape,
    outline,
)

FAR = 75.0  # a pixel further than this from every colour is none of them
LEAST_AREA = 0.004  # of the picture, what is thicker than an edge
EDGE = 3  # pixels; of what is thinner, the colour is a mixture of those beside it
LEAST_LIKENESS = 0.76  # of a shape; what the scenes draw has 0.77 or more, an oblong has 0.75 of a circle
MOST_UNNAMED = 0.02  # of the picture
UNKNOWN = "unknown"
TEMPLATE = 32
PALETTE = np.array([*COLOURS.values()], dtype=np.float32)


@dataclass(frozen=True)
class Found:
    """All of one colour. kind: UNKNOWN unless it is one shape. x, y: centre, as parts of width and height.

    area: part of the picture. likeness: overlap with the best template, 0 .. 1.
    """

    kind: str
    colour: str
    x: float
    y: float
    area: float
    likeness: float

    @property
    def place(self) -> str:
        return min(PLACES, key=lambda name: (PLACES[name][0] - self.x) ** 2 + (PLACES[name][1] - self.y) ** 2)


@dataclass(frozen=True)
class Seen:
    """background: None where the border has none of the colours. unnamed: the part of the picture, edges left out, that
    has none of them."""

    background: str | None
    shapes: tuple[Found, ...]
    unnamed: float

    @property
    def colours(self) -> set[str]:
        return {shape.colour for shape in self.shapes}

    def shows_colours(self, scene: Scene) -> bool:
        """Whether the background and every shape's colour are there, and no other colour."""
        wanted = {shape.colour for shape in scene.shapes}
        return self.background == scene.background and self.colours == wanted and self.unnamed < MOST_UNNAMED

    def shows_kinds(self, scene: Scene) -> bool:
        """Whether every shape is there in its colour, on the background, and nothing else."""
        found = {(one.kind, one.colour) for one in self.shapes}
        return self.shows_colours(scene) and found == {(one.kind, one.colour) for one in scene.shapes}

    def shows_places(self, scene: Scene) -> bool:
        """Whether every colour stands where its shape should."""
        return {(one.colour, one.place) for one in self.shapes} == {(one.colour, one.place) for one in scene.shapes}


def seen(picture: Image.Image) -> Seen:
    values = np.asarray(picture.convert("RGB"), dtype=np.float32)
    distance = np.linalg.norm(values[:, :, None] - PALETTE, axis=-1)  # (height, width, colours)
    nearest = np.where(distance.min(-1) < FAR, distance.argmin(-1), -1)
    border = np.concatenate(
        [nearest[:3].ravel(), nearest[-3:].ravel(), nearest[:, :3].ravel(), nearest[:, -3:].ravel()]
    )
    known = border[border >= 0]
    ground = np.bincount(known, minlength=len(COLOURS)).argmax() if 2 * len(known) > len(border) else None
    shapes, thick = [], 2 * (min(picture.size) // 64) + 1  # pixels, more than an edge has
    for index, colour in enumerate(COLOURS):
        mask = _opened(nearest == index)
        if index == ground or _opened(mask, thick).mean() < LEAST_AREA:
            continue
        rows, columns = mask.nonzero()
        kind, likeness = _kind(mask)
        x, y = columns.mean() / picture.width, rows.mean() / picture.height
        shapes.append(Found(kind, colour, float(x), float(y), float(mask.mean()), likeness))
    return Seen(None if ground is None else [*COLOURS][ground], tuple(shapes), float(_opened(nearest < 0).mean()))


def _opened(mask: np.ndarray, least: int = EDGE) -> np.ndarray:
    """Without what is thinner than so many pixels, an odd number, such as the mixed colours of an edge."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.filter(ImageFilter.MinFilter(least)).filter(ImageFilter.MaxFilter(least))) > 127


def _kind(mask: np.ndarray) -> tuple[str, float]:
    cut = _framed(mask)
    likeness = {}
    for kind, templates in _templates().items():
        likeness[kind] = max(float(np.minimum(cut, one).sum() / np.maximum(cut, one).sum()) for one in templates)
    best = max(likeness, key=likeness.__getitem__)
    return best if likeness[best] >= LEAST_LIKENESS else UNKNOWN, likeness[best]


def _framed(mask: np.ndarray) -> np.ndarray:
    """A shape cut out, in the middle of a square, at the size of the templates; 0 .. 1."""
    rows, columns = mask.nonzero()
    cut = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    side = max(cut.shape)
    square = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut * 255
    return np.asarray(Image.fromarray(square).resize((TEMPLATE, TEMPLATE), Image.Resampling.BOX)) / 255.0


@cache
def _templates() -> dict[str, list[np.ndarray]]:
    """Each kind at both sizes, as it looks when it is cut out of a picture."""
    made: dict[str, list[np.ndarray]] = {}
    for kind in KINDS:
        for small, large in SIZES.values():
            mask, _ = outline(Shape(kind, "red", "", "", 0.5, 0.5, (small + large) / 2), 128, 128)
            made.setdefault(kind, []).append(_framed(_opened(np.asarray(mask) > 127)))
    return made


def covered(shape: Shape, width: int, height: int, margin: int = 3) -> np.ndarray:
    """Where a shape lies, and `margin` pixels around it: bool (height, width)."""
    mask, corner = outline(shape, width, height)
    whole = Image.new("L", (width, height))
    whole.paste(mask, corner)
    return np.asarray(whole.filter(ImageFilter.MaxFilter(2 * margin + 1))) > 0
