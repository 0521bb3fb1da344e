"""Turn workflows in API form into what the graph editor saves, by having a real editor do it.

    python tools/workflows/export.py workflows/api/sensenova_u1_text_to_image.json ...

Each becomes ../NAME.json beside its folder. Needs ComfyUI (COMFYUI_PATH), playwright and Chromium. A node's title is
its `_meta.title`; `_meta.note`, in Markdown, becomes a note below it.
"""

import argparse
import json
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.live import browser, comfyui  # noqa: E402
from tests.live.workflows import inputs  # noqa: E402
from tools.workflows.layout import Box, arrange  # noqa: E402

VIEW = {"width": 1400, "height": 800}  # of a small window's canvas, which the saved view is to fit
LEAST_SCALE = 0.6  # the editor leaves all text out below that
NOTE_TITLE = "Note"

LOAD_API = "([api, name]) => app.loadApiJson(api, name)"
ADD_NOTE = """([id, title, text]) => {
    const note = LiteGraph.createNode("MarkdownNote");
    note.id = id;
    note.title = title;
    app.rootGraph.add(note);
    note.widgets[0].value = text;
}"""
HAS_PICTURES = "() => app.rootGraph.nodes.every(node => node.type !== 'LoadImage' || node.imgs?.length)"
MEASURE = """() => app.rootGraph.nodes.map(node => {
    const text = node.widgets?.find(widget => widget.element && typeof widget.value === "string");
    const definition = node.constructor.nodeData ?? {};
    const isImage = slot => slot.type === "IMAGE";
    return {
        id: String(node.id),
        needs: [...node.computeSize()],
        text: text?.value ?? null,
        keeps_picture: Boolean(definition.output_node) && node.inputs.some(isImage),
        keeps_text: node.type === "PreviewAny",
        draws: node.outputs.some(isImage) && node.type !== "LoadImage",  // which shows its picture already
        writes: Boolean(node.widgets?.some(widget => ["decoding", "format"].includes(widget.name))),
    };
})"""
PLACE = """([id, view, boxes]) => {
    app.rootGraph.id = id;
    for (const box of boxes) {
        const node = app.rootGraph.getNodeById(box.id);
        node.pos = box.pos;
        node.setSize(box.size);
    }
    app.canvas.ds.scale = view.scale;
    app.canvas.ds.offset = view.offset;
}"""


def export(editor: browser.Editor, api: dict[str, Any], name: str) -> dict[str, Any]:
    """The workflow as the editor saves it. Raises ValueError if that would run something else."""
    page = editor.page
    page.evaluate(LOAD_API, [api, name])
    notes = {}
    for id, node in api.items():
        if text := node["_meta"].get("note"):
            note = str(max(map(int, [*api, *notes])) + 1)
            page.evaluate(ADD_NOTE, [int(note), NOTE_TITLE, text])
            notes[note] = id
    page.wait_for_function(HAS_PICTURES)  # nodes grow when theirs have come
    boxes = [Box(**measured, below=notes.get(measured["id"])) for measured in page.evaluate(MEASURE)]
    for box in boxes:
        box.feeds = {id for id, node in api.items() if [box.id] in [value[:1] for value in _links(node)]}
    boxes.sort(key=lambda box: [*api, *notes].index(box.id))
    arrange(boxes)
    places = [{"id": int(box.id), "pos": box.pos, "size": box.size} for box in boxes]
    page.evaluate(PLACE, [str(uuid.uuid5(uuid.NAMESPACE_URL, name)), view(boxes), places])
    workflow = editor.saved()
    editor.open(workflow, name)
    if inputs(editor.prompt()) != inputs(api):
        raise ValueError(f"{name}: the editor changes\n  {inputs(api)} to\n  {inputs(editor.prompt())}")
    return workflow


def view(boxes: list[Box]) -> dict[str, Any]:
    """Scale and offset that show all boxes, or as many of the first as can be read."""
    left, top = min(box.pos[0] for box in boxes), min(box.pos[1] for box in boxes) - 60
    right = max(box.pos[0] + box.size[0] for box in boxes)
    bottom = max(box.pos[1] + box.size[1] for box in boxes)
    fitting = min(VIEW["width"] / (right - left), VIEW["height"] / (bottom - top))
    scale = round(min(1, max(fitting, LEAST_SCALE)), 2)
    return {"scale": scale, "offset": [round(80 / scale - left), round(80 / scale - top)]}


def _links(node: dict[str, Any]) -> list[list]:
    return [value for value in node["inputs"].values() if isinstance(value, list)]


def main(paths: list[Path]) -> None:
    installation = comfyui.find()
    if reason := (None if installation else comfyui.NOT_FOUND) or browser.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        comfyui.prepare_base(installation, base)
        browser.write_settings(base)
        with (
            comfyui.Server(installation, base) as server,
            browser.launched() as chromium,
            browser.editor(chromium, server.url) as editor,
        ):
            for path in paths:
                workflow = export(editor, json.loads(path.read_text(encoding="utf-8")), path.stem)
                target = path.parents[1] / path.name
                target.write_text(json.dumps(workflow, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                print(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workflows", type=Path, nargs="+", metavar="API_FILE")
    main(parser.parse_args().workflows)
