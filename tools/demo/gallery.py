"""Draw the README's picture of what the demo can do, or the example pictures that the workflows start from.

python -m tools.demo.gallery sensenova_core/demo docs/demo.png
python -m tools.demo.gallery --examples workflows/pictures
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

import sensenova_core
from sensenova_core import DocumentSettings, Drawing, Engine, SamplingSettings
from tools.demo.evaluate import SIDE, STEPS, as_picture, picture_of
from tools.demo.scenes import Scene, Shape, draw
from tools.demo.sheet import sheet

PROMPTS = (
    "A big yellow star to the left of a small red circle on a blue background.",
    "a purple ring in the middle on a black background",
    "a white heart on a red background",
    "a green square on the left and an orange triangle on the right on white",
    "红色背景上的一个白色圆形",
    "a small black star above a big green heart, yellow background",
    "a red circle, a blue square and a green star",
)
EXAMPLES = (
    Scene(
        (
            Shape("circle", "red", "big", "left", 0.27, 0.5, 0.19),
            Shape("star", "blue", "big", "right", 0.73, 0.5, 0.19),
        ),
        "white",
    ),
    Scene((Shape("heart", "yellow", "big", "middle", 0.5, 0.5, 0.19),), "green"),
)
EDITS = ("make the circle purple", "remove the star")
MERGE = "Use the background of Image-2 for Image-1."
STORY = "Tell a story about a red circle on a white background in three pictures."
SEED = 42


def gallery(engine: Engine) -> Iterator[tuple[str, list[Image.Image]]]:
    """What was asked, with the pictures that were given and drawn."""
    examples = [draw(scene, SIDE, SIDE) for scene in EXAMPLES]
    for prompt in PROMPTS:
        yield prompt, [picture_of(engine, engine.encode(prompt), SEED)]
    for asked, given in (*((edit, examples[:1]) for edit in EDITS), (MERGE, examples)):
        yield asked, [*given, picture_of(engine, engine.encode(asked, given), SEED)]
    settings = DocumentSettings(SamplingSettings(SIDE, SIDE, STEPS, seed=SEED))
    drawings = [event.step for event in engine.interleave(STORY, (), settings=settings) if isinstance(event, Drawing)]
    yield STORY, [as_picture(step) for step in drawings if step.index + 1 == step.total]


def hole() -> Image.Image:
    """Transparent where the first example's circle is, as ComfyUI's mask editor leaves what is to be drawn anew."""
    alpha = Image.new("L", (SIDE, SIDE), 255)
    ImageDraw.Draw(alpha).ellipse((4, 33, 64, 95), 0)
    return alpha


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a checkpoint, or with --examples where they go")
    parser.add_argument("picture", type=Path, nargs="?", default=Path("gallery.png"))
    parser.add_argument("--examples", action="store_true")
    arguments = parser.parse_args()
    if arguments.examples:
        for number, scene in enumerate(EXAMPLES, 1):
            draw(scene, SIDE, SIDE).save(arguments.folder / f"sensenova_scene_{number}.png")
        masked = draw(EXAMPLES[0], SIDE, SIDE)
        masked.putalpha(hole())
        masked.save(arguments.folder / "sensenova_scene_1_masked.png")
    else:
        sheet([*gallery(sensenova_core.load(arguments.folder))]).save(arguments.picture)


if __name__ == "__main__":
    main()
