"""What the built-in demo draws, edits, answers and tells: a part of what `make demo-eval` measures."""

import pytest

import sensenova_core
from tools.demo import evaluate

# Least and most of each measure on the part measured here; the whole has the targets of the model card.
PARTS = {
    "captions": (24, {"colours": (0.85, 1.0), "kinds": (0.7, 1.0)}),
    "edits": (10, {"done": (0.6, 1.0), "difference": (0.0, 0.06)}),
    "questions": (40, {"exact": (0.8, 1.0)}),
    "thoughts": (6, {"names_the_scene": (0.8, 1.0), "ends": (1.0, 1.0), "kinds": (0.6, 1.0)}),
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


def test_guidance_makes_pictures_follow_their_captions(engine):
    guided, unguided = (evaluate.captions(engine, 16, cfg).means()["kinds"] for cfg in (4.0, 1.0))
    assert guided > unguided


def test_guidance_by_the_image_keeps_more_of_it(engine):
    strong, weak = (evaluate.edits(engine, 8, img_cfg).means()["difference"] for img_cfg in (2.0, 0.5))
    assert strong < weak
