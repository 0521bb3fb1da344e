"""Draw the README's picture of what the demo can do.

python -m tools.demo.gallery FOLDER PICTURE.png
"""

import argparse
from pathlib import Path

from PIL import Image

import sensenova_core
from sensenova_core.document import DocumentSettings, Drawing
from sensenova_core.sampling import SamplingSettings

from .evaluate import SIDE, STEPS, as_picture, picture_of, sheet
from .scenes import Scene, Shape, draw

PROMPTS = (
    "A big yellow star to the left of a small red circle on a blue background.",
    "a purple ring in the middle on a black background",
    "a white heart on a red background",
    "a green square on the left and an orange triangle on the right on white",
    "红色背景上的一个白色圆形",
    "a small black star above a big green heart, yellow background",
)
BEFORE = Scene(
    (Shape("circle", "red", "big", "left", 0.27, 0.5, 0.19), Shape("star", "blue", "big", "right", 0.73, 0.5, 0.19)),
    "white",
)
EDITS = ("change the background to yellow", "make the circle purple")
STORY = "Tell a story about a red circle on a white background in three pictures."
SEED = 42


def gallery(engine: sensenova_core.Engine) -> Image.Image:
    shown = [(prompt, [picture_of(engine, engine.encode(prompt), SEED)]) for prompt in PROMPTS]
    for asked in EDITS:
        before = draw(BEFORE, SIDE, SIDE)
        shown.append((asked, [before, picture_of(engine, engine.encode(asked, [before]), SEED)]))
    return sheet(shown, columns=4)


def story(engine: sensenova_core.Engine) -> list[Image.Image]:
    events = engine.interleave(STORY, settings=DocumentSettings(SamplingSettings(SIDE, SIDE, STEPS, seed=SEED)))
    drawings = [event.step for event in events if isinstance(event, Drawing)]
    return [as_picture(step.image()[0]) for step in drawings if step.index + 1 == step.total]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    gallery(sensenova_core.load(arguments.folder, dtype="float32")).save(arguments.picture)


if __name__ == "__main__":
    main()
