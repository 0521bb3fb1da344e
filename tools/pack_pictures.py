"""Draw the pack's icon and banner: shapes that come out of noise, mixed as the model mixes them.

python -m tools.pack_pictures docs
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.demo.scenes import Scene, Shape, draw

ICON = (400, 400)
BANNER = (1260, 540)  # 21:9
TILE = 20  # pixels
SEED = 42
CLEAR = (0.08, 0.62)  # where noise begins to give way, and where none is left, as parts of the width
NAME, WORDS = "SenseNova U1", "reads, thinks and draws in pixel space"
NIGHT, PAPER = (20, 26, 58), (244, 246, 255)
ICON_SHAPES = (Shape("star", "yellow", "big", "right", 0.56, 0.52, 0.37),)
BANNER_SHAPES = (
    Shape("circle", "red", "big", "left", 0.38, 0.40, 0.19),
    Shape("star", "yellow", "big", "middle", 0.61, 0.40, 0.24),
    Shape("heart", "white", "big", "right", 0.86, 0.40, 0.18),
)


def icon() -> Image.Image:
    return out_of_noise(scene(ICON_SHAPES, ICON))


def banner() -> Image.Image:
    picture = out_of_noise(scene(BANNER_SHAPES, BANNER))
    pen = ImageDraw.Draw(picture)
    for text, top, size in ((NAME, 0.70, 64), (WORDS, 0.84, 30)):
        pen.text((0.97 * BANNER[0], top * BANNER[1]), text, PAPER, ImageFont.load_default(size), anchor="ra")
    return picture


def scene(shapes: tuple[Shape, ...], size: tuple[int, int]) -> Image.Image:
    """The demo's shapes on a night sky: drawn on black, of which no shape has any."""
    picture = np.array(draw(Scene(shapes, "black"), *size))
    black = np.array(draw(Scene((), "black"), 1, 1))
    picture[(picture == black).all(axis=-1)] = NIGHT
    return Image.fromarray(picture)


def out_of_noise(picture: Image.Image) -> Image.Image:
    """z = t * picture + (1 - t) * noise, with t from 0 at the left to 1 at the right, tile by tile."""
    width, height = picture.size
    rows, columns = height // TILE, width // TILE
    noise = np.random.default_rng(SEED).integers(0, 256, (rows, columns, 3))
    begin, end = CLEAR
    t = np.clip(((np.arange(columns) + 0.5) / columns - begin) / (end - begin), 0, 1)[None, :, None]
    noise, t = (np.repeat(np.repeat(part, TILE, axis=1), TILE, axis=0) for part in (noise, t))
    t = np.repeat(t, rows, axis=0)
    return Image.fromarray((t * np.asarray(picture) + (1 - t) * noise).round().astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where icon.png and banner.png go")
    folder = parser.parse_args().folder
    for name, picture in (("icon", icon()), ("banner", banner())):
        picture.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
