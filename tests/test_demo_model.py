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


def test_guidance_makes_pictures_follow_their_captions(engine):
    guided, unguided = (evaluate.captions(engine, 16, cfg).means()["kinds"] for cfg in (4.0, 1.0))
    assert guided > unguided


def test_guidance_by_the_image_keeps_more_of_it(engine):
    by_text, by_both = (evaluate.edits(engine, 12, img_cfg=img_cfg).means()["difference"] for img_cfg in (1.0, 2.0))
    assert by_both < by_text


def test_pictures_follow_a_thought(engine):
    """What only the reasoning says, a place, is where the shape is drawn; without reasoning it is in the middle."""
    prompt, thought = "a red heart on a yellow background", "There is one shape: a small red heart {}. "
    thoughts = [
        None,
        *(thought.format(place) + "The background is yellow.</think>" for place in ("at the top", "on the left")),
    ]
    drawn = [evaluate.picture_of(engine, engine.encode(prompt, think_text=one), seed=1) for one in thoughts]
    assert [evaluate.seen(picture).shapes[0].place for picture in drawn] == ["middle", "top", "left"]
