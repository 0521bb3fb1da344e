"""The shipped workflows as they are saved: names, thumbnails, and what can be seen of them at a glance."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tools.workflows import wires

FOLDER = Path(__file__).parents[1] / "workflows"
FILES = sorted(FOLDER.glob("*.json"))
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}
MOST_NOTES, MOST_LETTERS = 1, 300
LEAST_SCALE = 0.7  # at which text is read without effort
LEAST_SHOWN = {"PreviewAny": (360, 280), "SaveImage": (360, 400)}  # what can be read and looked at unscaled


@pytest.fixture(params=WORKFLOWS)
def workflow(request) -> dict:
    return WORKFLOWS[request.param]


def _notes(workflow: dict) -> list[str]:
    return [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]


def test_no_other_pack_has_these_names():
    """ComfyUI's search of templates breaks for everybody where two packs have one of the same name."""
    assert FILES and all(re.fullmatch(r"sensenova_u1_[a-z0-9_]+", name) for name in WORKFLOWS)
    assert {path.name for path in FILES} == {path.name for path in FOLDER.glob("api/*.json")}


def test_each_has_a_thumbnail_and_no_other_is_there():
    assert {path.stem for path in FOLDER.glob("*.jpg")} == WORKFLOWS.keys()
    for path in FOLDER.glob("*.jpg"):
        assert 3_000 < path.stat().st_size < 60_000, path
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and picture.size == (400, 400)
            assert len(picture.getcolors(picture.width * picture.height)) > 20, path  # something is drawn on it


def test_nothing_lies_on_anything_else(workflow):
    assert wires.overlaps((node["type"], wires.rectangle(node)) for node in workflow["nodes"]) == []
    assert wires.overlaps((group["title"], group["bounding"]) for group in workflow["groups"]) == []


def test_no_wire_runs_behind_a_node_or_a_note(workflow):
    assert wires.hidden(workflow) == []


def test_a_wire_behind_a_node_would_be_found():
    workflow = json.loads(json.dumps(WORKFLOWS["sensenova_u1_text_to_image"]))
    workflow["extra"].pop("reroutes")  # the model's wire then runs straight through the prompt
    assert [title for _, title in wires.hidden(workflow)] == ["Prompt"]


def test_every_node_is_in_one_group_with_a_title(workflow):
    for node in workflow["nodes"]:
        x, y, width, height = wires.rectangle(node)
        around = [
            group["title"]
            for group in workflow["groups"]
            for left, top, columns, rows in [group["bounding"]]
            if left <= x and x + width <= left + columns and top <= y and y + height <= top + rows
        ]
        assert len(around) == 1 and around[0], node["type"]


def test_notes_are_few_and_short(workflow):
    assert len(_notes(workflow)) <= MOST_NOTES
    assert all(len(note) <= MOST_LETTERS for note in _notes(workflow))


def test_no_two_notes_say_the_same():
    notes = [note for workflow in WORKFLOWS.values() for note in _notes(workflow)]
    assert len(notes) == len(set(notes)) and not any("models/sensenova" in note for note in notes)


def test_results_can_be_read(workflow):
    assert workflow["extra"]["ds"]["scale"] >= LEAST_SCALE
    for node in workflow["nodes"]:
        if least := LEAST_SHOWN.get(node["type"]):
            assert node["size"][0] >= least[0] and node["size"][1] >= least[1], node["type"]
