"""The model patcher under ComfyUI's memory management, asked directly and as a card would: see patcher.py."""

import json

import pytest

from tests.live import comfyui
from tests.live.checkpoints import DEEP_LAYERS
from tests.support.loras import matrices, write_lora

PLACEMENTS = ("mapped", "balanced", "low", "some stay", "some page-locked", "all may stay")
STREAMING = PLACEMENTS[1:]
RINGS = {"low": 2}  # buffers to stream through, where they are not three
MOST = {"balanced": 3, "low": 2, "some stay": 7, "some page-locked": 3, "all may stay": DEEP_LAYERS}
BOTH = 2 * DEEP_LAYERS  # buffers where both experts stay


@pytest.fixture(scope="module")
def seen(installation, models, tmp_path_factory) -> dict[str, dict]:
    lora = tmp_path_factory.mktemp("lora") / "x.safetensors"
    write_lora(lora, matrices(models / "deep", lambda name: ".layers." in name and "_mot_gen" in name))
    arguments = ("tests/live/patcher.py", installation.folder, models / "deep", lora)
    return json.loads(comfyui.run_python(installation, *arguments))


def test_everything_was_tried(seen):
    assert set(PLACEMENTS) < set(seen)


def test_one_picture_wherever_weights_are_and_went(seen):
    assert len({picture for part in seen.values() if "pictures" in part for picture in part["pictures"]}) == 1


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_loading_takes_weights_in_and_loading_again_changes_nothing(seen, placement):
    part = seen[placement]
    assert (part["at first"], part["at first on"]) == (0, "cpu")
    assert part["size"] and part["kept when ready again"] and part["kept by bookkeeping"]


@pytest.mark.parametrize("placement", STREAMING)
def test_what_is_counted_is_what_there_is(seen, placement):
    assert seen[placement]["counted"]


@pytest.mark.parametrize("placement", STREAMING)
def test_what_is_allowed_limits_what_stays(seen, placement):
    for allowed, gained_as_told, taken, staying in seen[placement]["allowed"]:
        ring = RINGS.get(placement, 3)
        most = min(max(ring, allowed), MOST[placement])
        assert gained_as_told and taken == most
        assert staying == (max(0, most - ring) if most < DEEP_LAYERS else DEEP_LAYERS)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_freeing_frees_enough_and_tells_how_much(seen, placement):
    assert seen[placement]["freed"]
    for told_the_truth, enough, counted in seen[placement]["freed"]:
        assert told_the_truth and enough and counted


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_detached_it_holds_nothing(seen, placement):
    part = seen[placement]
    assert part["host buffers"] == (DEEP_LAYERS if placement == "some page-locked" else 0)
    assert part["detached"] == [0, 0, 0, 0] and part["detached from"] == "cpu"
    assert part["unloaded"] == [0, 0, 0]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_dropped_it_is_forgotten_at_once(seen, placement):
    assert seen[placement]["dropped"] == {"known": [1, 0], "alive": [], "threads": []}


@pytest.mark.parametrize(
    "state, taken",
    [
        ("NORMAL_VRAM", {0: 3, 1: 3, 3: 3, 8: 8, 12: DEEP_LAYERS, 100: BOTH}),  # a ring of three is the least
        ("LOW_VRAM", {0: 3, 1: 3, 3: 3, 8: 8, 12: DEEP_LAYERS, 100: BOTH}),
        ("NO_VRAM", dict.fromkeys((0, 1, 3, 8, 12, 100), 3)),
        ("HIGH_VRAM", dict.fromkeys((0, 1, 3, 8, 12, 100), BOTH)),
    ],
)
def test_a_card_with_room_for_so_many(seen, state, taken):
    """The same in the first run and in those that follow, and after a card with more room."""
    rows = seen[state]["rows"]
    assert [room for room, *_ in rows] == [0, 1, 3, 8, 12, 100, 8]
    for room, *found in rows:
        most = taken[room]
        assert found == [[most], [max(0, most - 3) if most < DEEP_LAYERS else DEEP_LAYERS]]


def test_what_needs_more_beside_the_weights_leaves_fewer_of_them(seen):
    assert seen["larger picture"] == [8, 5]


@pytest.mark.parametrize("needs, lost", [("some", 5), ("all", BOTH)])
def test_makes_room_for_another_and_comes_back(seen, needs, lost):
    part = seen[f"another needs {needs}"]
    assert (part["had"], part["lost"], part["left"]) == (BOTH, lost, lost < BOTH)
    assert part["fits"] and part["fits again"] and part["other"] == [True, True]
    assert part["unloaded"] == [0, 0, 0]


def test_wires_with_and_without_a_lora_take_turns(seen):
    """Weights are dropped when the LoRA is first used, and no more; without it the picture is what it ever was."""
    part = seen["taking turns"]
    first, *later = part["dropped"]
    assert later == [first + 1] * 5 and all(part["within"]) and part["unloaded"] == [0, 0, 0]
    (off,), (on,) = part["drawn"]["off"], part["drawn"]["on"]
    assert on != off and seen["balanced"]["pictures"] == [off]
