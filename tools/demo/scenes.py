"""Scenes of one to three simple shapes: made from a seed, drawn with soft edges, some of them held out of training."""

import math
import random
import zlib
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (50, 165, 75),
    "blue": (45, 90, 220),
    "purple": (140, 60, 180),
    "white": (250, 250, 250),
    "black": (25, 25, 25),
}
KINDS = ("circle", "square", "triangle", "star", "ring", "heart")
SIZES = {"small": (0.115, 0.135), "big": (0.18, 0.205)}  # radius, as a part of the picture's shorter side
PLACES = {"left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.27), "bottom": (0.5, 0.73), "middle": (0.5, 0.5)}
OPPOSITE = (("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top"))
AROUND = ("left", "right", "top", "bottom")
USUAL_PLACES = {1: ("middle",), 2: ("left", "right"), 3: ("left", "right", "top")}  # of so many shapes
JITTER = 0.02  # of a shape's centre around its place
HELD_OUT_ONE_IN = 8
OVERSAMPLING = 4  # along each side, for soft edges


@dataclass(frozen=True)
class Shape:
    """kind, colour, size, place: names. x, y: centre, as parts of width and height. radius: of the shorter side."""

    kind: str
    colour: str
    size: str
    place: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One to three shapes, no two of a kind or a colour, on a plain background."""

    shapes: tuple[Shape, ...]
    background: str

    @property
    def held_out(self) -> bool:
        """Whether it shows one of the combinations that are never trained on."""
        return any(is_held_out(shape.colour, shape.kind, self.background) for shape in self.shapes)

    def of_kind(self, kind: str) -> Shape | None:
        return next((shape for shape in self.shapes if shape.kind == kind), None)

    def with_shapes(self, *shapes: Shape) -> "Scene":
        return replace(self, shapes=shapes)

    def with_changed(self, old: Shape, **changes) -> "Scene":
        """The same with one shape changed."""
        return self.with_shapes(*(replace(shape, **changes) if shape == old else shape for shape in self.shapes))

    def is_proper(self) -> bool:
        """Whether kinds and colours are all different, and every shape stands out."""
        kinds, colours = ({getattr(shape, name) for shape in self.shapes} for name in ("kind", "colour"))
        return len(kinds) == len(colours) == len(self.shapes) and self.background not in colours


def is_held_out(colour: str, kind: str, background: str) -> bool:
    """One colour, shape and background in eight are kept from training, by a hash that no seed changes."""
    return zlib.crc32(f"{colour} {kind} on {background}".encode()) % HELD_OUT_ONE_IN == 0


def new_shape(rng: random.Random, kind: str, colour: str, size: str, place: str) -> Shape:
    x, y = (centre + rng.uniform(-JITTER, JITTER) for centre in PLACES[place])
    return Shape(kind, colour, size, place, x, y, rng.uniform(*SIZES[size]))


def layout(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """(size, place) of each of `count` shapes, so that few touch and none hides another."""
    if count == 1:
        return [(rng.choice([*SIZES]), rng.choice([*PLACES]))]
    if count == 2 and rng.random() < 0.7:
        return [(rng.choice([*SIZES]), place) for place in rng.choice(OPPOSITE)]
    return [("small", place) for place in rng.sample(AROUND, count)]


def scene(rng: random.Random, count: int, held_out: bool = False, background: str | None = None) -> Scene:
    """A random scene of `count` shapes, of those that are held out or of those that are not."""
    while True:
        names = rng.sample([*COLOURS], count + 1)
        if background is not None:
            names = [background, *rng.sample([name for name in COLOURS if name != background], count)]
        kinds = rng.sample(KINDS, count)
        places = layout(rng, count)
        shapes = tuple(
            new_shape(rng, kind, colour, *where) for kind, colour, where in zip(kinds, names[1:], places, strict=True)
        )
        made = Scene(shapes, names[0])
        if made.held_out == held_out:
            return made


def as_usual(rng: random.Random, scene: Scene, size: bool = False, place: bool = False) -> Scene:
    """The same shapes and colours where they stand if nothing is said of it, and as large. size, place: what is said.

    What a caption leaves open is always the same, but for a little jitter: of many possibilities a model this small
    would draw the mean.
    """
    count = len(scene.shapes)
    places = [shape.place for shape in scene.shapes] if place else [*USUAL_PLACES[count]]
    roomy = count == 1 or (count == 2 and tuple(places) in OPPOSITE)
    sizes = [shape.size for shape in scene.shapes] if size else ["big" if roomy else "small"] * count
    where = zip(scene.shapes, sizes, places, strict=True)
    return scene.with_shapes(*(new_shape(rng, shape.kind, shape.colour, *one) for shape, *one in where))


def draw(scene: Scene, width: int = 128, height: int = 128) -> Image.Image:
    """The picture of a scene, RGB."""
    picture = Image.new("RGB", (width, height), COLOURS[scene.background])
    for shape in scene.shapes:
        mask, corner = outline(shape, width, height)
        picture.paste(COLOURS[shape.colour], (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
    return picture


def outline(shape: Shape, width: int, height: int) -> tuple[Image.Image, tuple[int, int]]:
    """How much of each pixel a shape covers, as a picture of its surroundings, and where its upper left corner lies."""
    radius = shape.radius * min(width, height)
    x, y = shape.x * width, shape.y * height
    reach = math.ceil(1.3 * radius) + 1
    left, top = math.floor(x) - reach, math.floor(y) - reach
    mask = Image.new("L", ((2 * reach + 1) * OVERSAMPLING,) * 2)
    centre = ((x - left) * OVERSAMPLING, (y - top) * OVERSAMPLING)
    _paint(ImageDraw.Draw(mask), shape.kind, *centre, radius * OVERSAMPLING)
    return mask.reduce(OVERSAMPLING), (left, top)


def _paint(pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, radius: float) -> None:
    if kind in ("circle", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if kind == "ring":
            hole = 0.55 * radius
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return
    pen.polygon([(x + radius * across, y + radius * down) for across, down in CORNERS[kind]], fill=255)


def _around(count: int, *radii: float, down: float = 0.0) -> list[tuple[float, float]]:
    """Corners on a circle, the first at the top; radii are taken in turn."""
    angles = [2 * math.pi * index / count for index in range(count)]
    lengths = [radii[index % len(radii)] for index in range(count)]
    return [
        (length * math.sin(angle), down - length * math.cos(angle))
        for length, angle in zip(lengths, angles, strict=True)
    ]


def _heart(points: int = 48) -> list[tuple[float, float]]:
    corners = []
    for index in range(points):
        a = 2 * math.pi * index / points
        height = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        corners.append((math.sin(a) ** 3 * 1.05, -(height + 2.5) / 15.0))
    return corners


# Corners of each kind around (0, 0), for a radius of 1.
CORNERS = {
    "square": [(-0.87, -0.87), (0.87, -0.87), (0.87, 0.87), (-0.87, 0.87)],
    "triangle": _around(3, 1.2, down=0.2),
    "star": _around(10, 1.2, 0.5),
    "heart": _heart(),
}
