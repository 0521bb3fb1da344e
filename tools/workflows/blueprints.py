"""Make the subgraph blueprints, one node for each task, from the shipped workflows by having a real editor do it.

    python -m tools.workflows.blueprints

Writes subgraphs/*.json, which ComfyUI offers among its nodes. Needs ComfyUI (COMFYUI_PATH), playwright and Chromium.
"""

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

from tests.live import browser, comfyui
from tests.live.workflows import read
from tools.workflows.opened import opened_editor

FOLDER = comfyui.REPOSITORY / "subgraphs"
CATEGORY = "SenseNova U1"
# What stays outside: where pictures come from, and what shows or saves what came of them.
OUTSIDE = ("LoadImage", "SaveImage", "PreviewAny", "SenseNovaCoreSaveDocument", "MarkdownNote")
LOADER, ENCODE, SAMPLER = "SenseNovaCoreLoader", "SenseNovaCoreTextEncode", "SenseNovaCoreFlowMatchSampler"
ASK, DOCUMENT = "SenseNovaCoreUnderstand", "SenseNovaCoreInterleave"
DRAWN = ((SAMPLER, "steps"), (SAMPLER, "cfg"), (SAMPLER, "seed"))
CONVERT = """([outside, title, promoted, about, category]) => {
    const graph = app.rootGraph;
    const inside = graph.nodes.filter(node => !outside.includes(node.type));
    const { subgraph, node } = graph.convertToSubgraph(new Set(inside));
    subgraph.name = title;
    node.title = title;
    for (const [type, name] of promoted) {
        const target = subgraph.nodes.find(one => one.type === type);
        const slot = target.inputs.find(one => one.name === name);
        subgraph.addInput(name, String(slot.type)).connect(slot, target);
    }
    for (const slot of [...subgraph.inputs]) {
        if (!slot.linkIds.length) subgraph.removeInput(slot);
        if (slot.name.startsWith("images.")) subgraph.renameInput(slot, "image");
    }
    const [width, height] = node.computeSize();
    node.setSize([Math.max(width, 400), height + 80]);  // so that a prompt of some lines can be read
    subgraph.description = about;
    subgraph.category = category;
    return String(node.id);
}"""
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Blueprint:
    """workflow: what it is made of. promoted: (class, input) of the widgets that the one node shows."""

    title: str
    workflow: str
    about: str
    promoted: tuple[tuple[str, str], ...]


BLUEPRINTS = (
    Blueprint(
        "SenseNova U1 Draw",
        "text_to_image",
        "A prompt becomes a picture.",
        ((LOADER, "checkpoint"), (ENCODE, "prompt"), *DRAWN, (SAMPLER, "batch_size")),
    ),
    Blueprint(
        "SenseNova U1 Edit",
        "edit_one_image",
        "A picture is changed as an instruction says.",
        ((LOADER, "checkpoint"), (ENCODE, "prompt"), *DRAWN),
    ),
    Blueprint(
        "SenseNova U1 Ask",
        "understand",
        "A question about a picture is answered.",
        ((LOADER, "checkpoint"), (ASK, "question"), (ASK, "max_tokens")),
    ),
    Blueprint(
        "SenseNova U1 Illustrated Document",
        "interleave",
        "A prompt becomes a document of text and pictures.",
        ((LOADER, "checkpoint"), (DOCUMENT, "prompt"), *((DOCUMENT, name) for name in ("max_images", "steps", "seed"))),
    ),
)


def made(editor: browser.Editor, blueprint: Blueprint) -> dict[str, Any]:
    """A blueprint as the editor publishes one: the node alone, with its subgraph."""
    workflow = read(f"{blueprint.workflow}.json")
    workflow["groups"] = []
    workflow["extra"] = {}
    editor.open(workflow, blueprint.title)
    promoted = [list(one) for one in blueprint.promoted]
    node = editor.page.evaluate(CONVERT, [OUTSIDE, blueprint.title, promoted, blueprint.about, CATEGORY])
    saved = editor.saved()
    alone = next(one for one in saved["nodes"] if str(one["id"]) == node)
    for slot in alone["inputs"]:
        slot["link"] = None
    for slot in alone["outputs"]:
        slot["links"] = []
    subgraphs = [
        one | {"category": CATEGORY, "description": blueprint.about} for one in saved["definitions"]["subgraphs"]
    ]
    return _with_settled_names(
        {
            "revision": 0,
            "last_node_id": alone["id"],
            "last_link_id": 0,
            "nodes": [alone | {"pos": [0, 0]}],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": subgraphs},
            "extra": {"BlueprintDescription": blueprint.about},
        },
        blueprint.title,
    )


def _with_settled_names(workflow: dict[str, Any], title: str) -> dict[str, Any]:
    """The same with identifiers that are the same whenever it is made."""
    text = json.dumps(workflow)
    for index, found in enumerate(dict.fromkeys(UUID.findall(text))):
        text = text.replace(found, str(uuid.uuid5(uuid.NAMESPACE_URL, f"{title} {index}")))
    return json.loads(text)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with opened_editor() as editor:
        for blueprint in BLUEPRINTS:
            target = FOLDER / f"{blueprint.title}.json"
            text = json.dumps(made(editor, blueprint), indent=2, ensure_ascii=False)
            target.write_text(text + "\n", encoding="utf-8")
            print(target)


if __name__ == "__main__":
    main()
