"""Turn workflows in API form into what the graph editor saves, by having a real editor do it.

    python tools/workflows/export.py workflows/api/sensenova_u1_text_to_image.json ...

Each becomes ../NAME.json beside its folder. Needs ComfyUI (COMFYUI_PATH), playwright and Chromium. A node's title is
its `_meta.title`, its group `_meta.group`; `_meta.note`, in Markdown, becomes a note in that group. Nodes that are
to be there bypassed stand in the `_meta.bypassed` of another one, in API form, and what is connected to them in
`_meta.inputs`. `_meta.widgets` sets what only the editor knows, such as what becomes of a seed after a run;
`_meta.width` is for nodes that show what can only be read if it is wide.
"""

import argparse
import json
import sys
import uuid
from copy import deepcopy
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.live import browser  # noqa: E402
from tests.live.workflows import inputs  # noqa: E402
from tools.workflows import wires  # noqa: E402
from tools.workflows.layout import Box, arrange  # noqa: E402
from tools.workflows.opened import opened_editor  # noqa: E402

VIEW = {"width": 1400, "height": 800}  # of a small window's canvas, which the saved view is to fit
LEAST_SCALE = 0.7  # what does not fit then is below or to the right
NOTE_TITLE = "Note"
# A widget of each kind of node that shows text on itself -> the height for it: of as many lines as it mostly has, up to
# the most that web/js/text_on_nodes.js gives it.
SAYS = {"decoding": 152, "card": 200, "checkpoint": 152, "t_eps": 104, "scheduler": 72, "format": 88, "lora_name": 88}
DRAWS = ["steps", "card"]  # likewise of nodes that show a picture
AFTER_RUN = "control_after_generate"  # the widget that says what becomes of a seed
BYPASSED = 4  # how LiteGraph calls that mode

LOAD_API = "([api, name]) => app.loadApiJson(api, name)"
ADD_NOTE = """([id, title, text]) => {
    const note = LiteGraph.createNode("MarkdownNote");
    note.id = id;
    note.title = title;
    app.rootGraph.add(note);
    note.widgets[0].value = text;
}"""
SET = "([id, name, value]) => { app.rootGraph.getNodeById(id).widgets.find(one => one.name === name).value = value; }"
BYPASS = "([id, mode]) => { app.rootGraph.getNodeById(id).mode = mode; }"
HAS_PICTURES = "() => app.rootGraph.nodes.every(node => node.type !== 'LoadImage' || node.imgs?.length)"
MEASURE = """([SAYS, DRAWS]) => app.rootGraph.nodes.map(node => {
    const texts = (node.widgets ?? []).filter(widget => widget.element && typeof widget.value === "string");
    const text = texts.toSorted((one, other) => other.value.length - one.value.length)[0];
    const definition = node.constructor.nodeData ?? {};
    const isImage = slot => slot.type === "IMAGE";
    return {
        id: Number(node.id),
        needs: [...node.computeSize()],
        text: text?.value ?? null,
        texts: texts.length,
        text_comes: Boolean(text && node.inputs.some(slot => slot.widget?.name === text.name && slot.link !== null)),
        keeps_picture: Boolean(definition.output_node) && node.inputs.some(isImage),
        keeps_text: node.type === "PreviewAny",
        draws: Boolean(node.widgets?.some(widget => DRAWS.includes(widget.name))),
        writes: Math.max(0, ...(node.widgets ?? []).map(widget => SAYS[widget.name] || 0)),
    };
})"""


def export(editor: browser.Editor, api: dict[str, Any], name: str) -> dict[str, Any]:
    """The workflow as the editor saves it. Raises ValueError if that would run something else, or hides a wire."""
    page = editor.page
    everything = with_bypassed(api)
    page.evaluate(LOAD_API, [everything, name])
    notes = {}
    for id, node in everything.items():
        if text := node["_meta"].get("note"):
            note = max(map(int, [*everything, *notes])) + 1
            page.evaluate(ADD_NOTE, [note, NOTE_TITLE, text])
            notes[note] = int(id)
        seeds = {AFTER_RUN: "randomize"} if "seed" in node["inputs"] else {}
        for widget, value in (seeds | node["_meta"].get("widgets", {})).items():
            page.evaluate(SET, [int(id), widget, value])
    for id in everything.keys() - api.keys():
        page.evaluate(BYPASS, [int(id), BYPASSED])
    page.wait_for_function(HAS_PICTURES)  # nodes grow when theirs have come
    boxes = [_box(measured, everything, notes) for measured in page.evaluate(MEASURE, [SAYS, DRAWS])]
    boxes.sort(key=lambda box: [*map(int, everything), *notes].index(box.id))
    workflow = editor.saved()
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    for _ in range(2):  # some nodes turn out taller when they are opened
        arrange(workflow, boxes)
        workflow["extra"]["ds"] = view(workflow)
        given = {node["id"]: node["size"] for node in workflow["nodes"]}
        editor.open(workflow, name)
        workflow = editor.saved()
        for box in boxes:
            grown = _node(workflow, box.id)["size"][1] - given[box.id][1]
            box.needs = box.needs[0], box.needs[1] + max(0, grown)
    if inputs(editor.prompt()) != inputs(api):
        raise ValueError(f"{name}: the editor changes\n  {inputs(api)} to\n  {inputs(editor.prompt())}")
    if behind := wires.hidden(workflow):
        raise ValueError(f"{name}: wires run behind {behind}")
    return workflow


def with_bypassed(api: dict[str, Any]) -> dict[str, Any]:
    """The same with the nodes that the editor shows bypassed: `_meta.bypassed` has them, `_meta.inputs` their wires."""
    everything = deepcopy(api)
    for node in api.values():
        everything |= deepcopy(node["_meta"].get("bypassed", {}))
    for node in everything.values():
        node["inputs"] |= node["_meta"].get("inputs", {})
    return everything


def _box(measured: dict[str, Any], api: dict[str, Any], notes: dict[int, int]) -> Box:
    id = measured["id"]
    feeds = {int(other) for other, node in api.items() if str(id) in [value[0] for value in _links(node)]}
    meta = api[str(notes.get(id, id))]["_meta"]
    width = 0 if id in notes else meta.get("width", 0)
    return Box(**measured, group=meta["group"], below=notes.get(id), feeds=feeds, width=width)


def view(workflow: dict[str, Any]) -> dict[str, Any]:
    """Scale and offset that show all of it, or as much from the beginning as can be read."""
    boxes = [group["bounding"] for group in workflow["groups"]]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    fitting = min(VIEW["width"] / (right - left), VIEW["height"] / (bottom - top))
    scale = round(min(1, max(fitting, LEAST_SCALE)), 2)
    return {"scale": scale, "offset": [round(80 / scale - left), round(80 / scale - top)]}


def _node(workflow: dict[str, Any], id: int) -> dict[str, Any]:
    return next(node for node in workflow["nodes"] if node["id"] == id)


def _links(node: dict[str, Any]) -> list[list]:
    return [value for value in node["inputs"].values() if isinstance(value, list)]


def main(paths: list[Path]) -> None:
    with opened_editor() as editor:
        for path in paths:
            workflow = export(editor, json.loads(path.read_text(encoding="utf-8")), path.stem)
            target = path.parents[1] / path.name
            target.write_text(json.dumps(workflow, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            print(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workflows", type=Path, nargs="+", metavar="API_FILE")
    main(parser.parse_args().workflows)
