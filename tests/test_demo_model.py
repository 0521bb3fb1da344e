"""What the built-in demo draws, edits, answers and tells: a part of what `make demo-eval` measures."""

import re
from pathlib import Path

import pytest
from PIL import Image

import sensenova_core
from sensenova_core.cli import main
from tools.demo import evaluate
from tools.demo.detect import MOST_UNNAMED, seen

# How many scenes, and least and most of each measure.
PARTS = {
    "captions": (64, {"colours": (0.9, 1.0), "kinds": (0.75, 1.0)}),
    "sizes": (6, {"colours": (0.8, 1.0)}),
    "edits": (15, {"difference": (0.0, 0.06), "kept": (0.9, 1.0), "colours": (0.75, 1.0), "done": (0.5, 1.0)}),
    "merges": (4, {"difference": (0.0, 0.06)}),
    "questions": (48, {"exact": (0.85, 1.0)}),
    "thoughts": (6, {"names_the_scene": (0.9, 1.0), "ends": (1.0, 1.0), "colours": (0.8, 1.0)}),
    "stories": (3, {"asked_number": (1.0, 1.0)}),
}


@pytest.fixture(scope="module")
def engine() -> sensenova_core.Engine:
    return sensenova_core.load(sensenova_core.DEMO, dtype="float32")


@pytest.mark.parametrize("task", PARTS)
def test_scenes_that_were_not_trained_on(engine, task):
    count, limits = PARTS[task]
    measure, _ = evaluate.TASKS[task]
    found = measure(engine, count).means()
    outside = {name: found[name] for name, (least, most) in limits.items() if not least <= found[name] <= most}
    assert outside == {}, found


def test_guidance_brings_what_is_asked_for(engine):
    guided, unguided = (evaluate.captions(engine, 12, cfg).means()["kinds"] for cfg in (4.0, 1.0))
    assert guided > unguided


def test_guidance_by_the_image_keeps_to_it(engine):
    freely, closely = (evaluate.edits(engine, 12, img_cfg=scale).means()["moved"] for scale in (1.0, evaluate.IMG_CFG))
    assert freely > closely


def test_the_picture_of_make_demo(tmp_path):
    """What a newcomer sees first, at the command line's own settings."""
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    prompt = re.search(r"^PROMPT := (.*)$", makefile, re.MULTILINE)[1]
    assert prompt == "a big yellow star to the left of a small red circle on a blue background"
    assert main(["generate", "--model", "demo", "--prompt", prompt, "--output", str(tmp_path / "demo.png")]) == 0
    found = seen(Image.open(tmp_path / "demo.png"))
    star, circle = sorted(found.shapes, key=lambda shape: shape.x)
    assert found.background == "blue" and found.unnamed < MOST_UNNAMED
    assert (star.kind, star.colour, circle.kind, circle.colour) == ("star", "yellow", "circle", "red")
