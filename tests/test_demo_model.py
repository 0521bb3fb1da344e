"""What the built-in demo draws, edits, answers and tells: a part of what `make demo-eval` measures."""

import pytest

import sensenova_core
from tools.demo import evaluate

# Least and most of each measure. They hold what this early state of the model can do; its model card has what is meant.
PARTS = {
    "captions": (24, {"colours": (0.6, 1.0), "kinds_of_1": (0.4, 1.0)}),
    "edits": (10, {"difference": (0.0, 0.06)}),
    "questions": (40, {"exact": (0.4, 1.0), "exact_ground": (0.9, 1.0)}),
    "stories": (3, {"asked_number": (0.6, 1.0)}),
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
    guided, unguided = (evaluate.captions(engine, 16, cfg).means()["colours"] for cfg in (4.0, 1.0))
    assert guided > unguided
