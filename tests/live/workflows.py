"""The shipped workflows, and what makes them small enough for a tiny model on a CPU."""

import json
from copy import deepcopy
from typing import Any

from tests.live.comfyui import REPOSITORY

FOLDER = REPOSITORY / "workflows"
LOADER, ENCODE, RESOLUTION, SAMPLER, SAVE = "1", "2", "3", "4", "5"  # node ids of text_to_image
SIDE, STEPS = 256, 4
TINY = {
    "Loader": {"checkpoint": "demo", "dtype": "float32"},
    "Resolution": {"size": "custom", "size.width": SIDE, "size.height": SIDE},
    "FlowMatchSampler": {"steps": STEPS},
}
# Means nothing to a picture from text alone; ComfyUI cannot know, and draws again instead of showing what it kept.
REDRAW = {"img_cfg": 2.0}


def read(path: str) -> dict[str, Any]:
    return json.loads((FOLDER / path).read_text(encoding="utf-8"))


def inputs(api: dict[str, Any]) -> dict[str, Any]:
    """What decides a run: id -> (class, inputs)."""
    return {id: (node["class_type"], node["inputs"]) for id, node in api.items()}


def changed(api: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with other inputs: changed(api, FlowMatchSampler={"seed": 1}), ids without the pack's prefix."""
    api = deepcopy(api)
    for node in api.values():
        node["inputs"] |= changes.get(node["class_type"].removeprefix("SenseNovaCore"), {})
    return api


def text_to_image(**changes: dict[str, Any]) -> dict[str, Any]:
    """The shipped workflow, tiny."""
    return changed(changed(read("api/text_to_image.json"), **TINY), **changes)
