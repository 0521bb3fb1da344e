"""What the built-in demo draws, edits, answers and tells: a part of `make demo-eval`, but in float32."""

import re
from collections.abc import Callable
from functools import cache
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
    "sizes": (12, {"colours": (0.6, 1.0)}),
    "edits": (15, {"difference": (0.0, 0.06), "kept": (0.9, 1.0), "colours": (0.75, 1.0), "done": (0.5, 1.0)}),
    "merges": (4, {"difference": (0.0, 0.06)}),
    "questions": (48, {"exact": (0.85, 1.0)}),
    "thoughts": (12, {"names_the_scene": (0.9, 1.0), "ends": (1.0, 1.0), "colours": (0.9, 1.0)}),
    "stories": (3, {"asked_number": (1.0, 1.0)}),
}


@pytest.fixture(scope="module")
def engine() -> sensenova_core.Engine:
    return sensenova_core.load(sensenova_core.DEMO, dtype="float32")


@pytest.fixture(scope="module")
def measured(engine) -> Callable[[str], dict[str, float]]:
    """A task of PARTS -> what was found."""

    @cache
    def of(task: str) -> dict[str, float]:
        return evaluate.TASKS[task][0](engine, PARTS[task][0]).means()

    return of


@pytest.mark.parametrize("task", PARTS)
def test_scenes_that_were_not_trained_on(measured, task):
    _, limits = PARTS[task]
    found = measured(task)
    outside = {name: found[name] for name, (least, most) in limits.items() if not least <= found[name] <= most}
    assert outside == {}, found


def test_guidance_brings_what_is_asked_for(engine, measured):
    assert measured("captions")["kinds"] > evaluate.captions(engine, 24, cfg=1.0).means()["kinds"] + 0.3


def test_guidance_by_the_image_keeps_to_it(engine, measured):
    closely = evaluate.edits(engine, PARTS["edits"][0], img_cfg=evaluate.IMG_CFG).means()
    assert measured("edits")["moved"] > closely["moved"]


def test_the_picture_of_make_demo(tmp_path):
    """What a newcomer sees first, at the command line's own settings."""
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    prompt = re.search(r"^PROMPT := (.*)$", makefile, re.MULTILINE)[1]
    assert prompt == "a big yellow star to the left of a small red circle on a blue background"
    assert main(["generate", "--model", "demo", "--prompt", prompt, "--output", str(tmp_path / "demo.png")]) == 0
    found = seen(Image.open(tmp_path / "demo.png"))
    assert len(found.shapes) == 2, found
    star, circle = sorted(found.shapes, key=lambda shape: shape.x)
    assert found.background == "blue" and found.unnamed < MOST_UNNAMED
    assert (star.kind, star.colour, circle.kind, circle.colour) == ("star", "yellow", "circle", "red")
    assert star.area > circle.area  # a big star covers 1.3 times as much as a small circle
