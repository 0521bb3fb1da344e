"""What the built-in demo draws, edits, answers and tells: a part of what `make demo-eval` measures."""

import pytest

import sensenova_core
from tools.demo import evaluate

# How many scenes, and least and most of each measure.
PARTS = {
    "captions": (24, {"colours": (0.8, 1.0), "kinds": (0.65, 1.0)}),
    "edits": (12, {"difference": (0.0, 0.06), "colours": (0.6, 1.0)}),
    "questions": (48, {"exact": (0.8, 1.0)}),
    "thoughts": (6, {"names_the_scene": (0.8, 1.0), "ends": (1.0, 1.0), "colours": (0.6, 1.0)}),
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


def test_guidance_by_the_prompt_makes_it_stronger(engine):
    guided, unguided = (evaluate.captions(engine, 12, cfg).means()["contrast"] for cfg in (4.0, 1.0))
    assert guided > 1.02 * unguided


def test_guidance_by_the_image_keeps_it(engine):
    """Led by the image instead of by the prompt, what is asked for happens less often."""
    by_prompt, by_image = (
        evaluate.edits(engine, 12, *scales).means()["colours"] for scales in ((4.0, 1.0), (1.0, 3.0))
    )
    assert by_prompt > by_image
