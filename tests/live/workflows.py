"""The shipped workflows, and what makes them small enough for a tiny model on a CPU."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from tests.live.comfyui import REPOSITORY
from tests.live.pictures import PHOTO

FOLDER = REPOSITORY / "workflows"
PREFIX = "sensenova_u1_"  # of the names of all files: a template's name must be another in every pack
NAMES = sorted(path.stem.removeprefix(PREFIX) for path in FOLDER.glob("*.json"))
LOADER, ENCODE, RESOLUTION, SAMPLER, SAVE = "1", "2", "3", "4", "5"  # node ids of text_to_image
SIDE, STEPS = 256, 4
SMALL = {"size": "custom", "size.width": SIDE, "size.height": SIDE}
STORY = (  # for the seeds that tests write documents with
    "I want to learn how to fold a paper crane. Write a tutorial for beginners with a picture for every step."
)
TINY = {
    "Loader": {"checkpoint": "demo", "dtype": "float32"},
    "LoadImage": {"image": "photo.png"},
    "Resolution": SMALL,
    "FlowMatchSampler": {"steps": STEPS},
    "KSampler": {"steps": STEPS},
    "Think": {"max_tokens": 30},
    "Understand": {"max_tokens": 30},
    "SelfCorrect": {"steps": 2, "max_tokens": 60},
    "Interleave": SMALL | {"prompt": STORY, "steps": 2, "max_images": 3, "max_tokens": 60},
}
EXACT = {"FlowMatchSampler": {"width": PHOTO[0], "height": PHOTO[1], "crop": True}}
AUTOMATIC = "automatic"  # a size that suits the model, or the first checkpoint that is there
BUILT_IN = "built-in demo"
BUILT_IN_SIDE = 128  # of the square that it draws best
PROFILES = {"FlowMatchSampler": 1, "Think": 2, "Understand": 2, "Interleave": 3, "SelfCorrect": 3}  # which output
PROFILE_OF = "profile of "  # begins the ids of nodes that show one
# Means nothing to a picture from text alone; ComfyUI cannot know, and draws again instead of showing what it kept.
REDRAW = {"img_cfg": 2.0}


def file_of(path: str) -> Path:
    """The file that is meant by "NAME.json" or "api/NAME.json", prefix left out."""
    return FOLDER / Path(path).parent / f"{PREFIX}{Path(path).name}"


def read(path: str) -> dict[str, Any]:
    return json.loads(file_of(path).read_text(encoding="utf-8"))


def inputs(api: dict[str, Any]) -> dict[str, Any]:
    """What decides a run: id -> (class, inputs)."""
    return {id: (node["class_type"], node["inputs"]) for id, node in api.items()}


def changed(api: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with other inputs: changed(api, FlowMatchSampler={"seed": 1}), ids without the pack's prefix."""
    api = deepcopy(api)
    for node in api.values():
        node["inputs"] |= changes.get(node["class_type"].removeprefix("SenseNovaCore"), {})
    return api


def tiny(name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """A shipped workflow made small: a few steps and tokens, and edits at the size of their picture."""
    api = changed(read(f"api/{name}.json"), **TINY)
    drawing = api[node_id(api, "FlowMatchSampler") or LOADER]["inputs"]
    if drawing.get("width") == 0 and "init_image" not in drawing:
        api = changed(api, **EXACT)
    return changed(api, **changes)


def profiled(api: dict[str, Any]) -> dict[str, Any]:
    """A copy that also shows the profile of every node that has one; see `profiles`."""
    shown = {
        f"{PROFILE_OF}{id}": {"class_type": "PreviewAny", "inputs": {"source": [id, PROFILES[kind]]}}
        for id, node in api.items()
        if (kind := node["class_type"].removeprefix("SenseNovaCore")) in PROFILES
    }
    return deepcopy(api) | shown


def profiles(outputs: dict[str, Any]) -> list[str]:
    """The profiles among the outputs of a run of `profiled`."""
    return [output["text"][0] for id, output in outputs.items() if id.startswith(PROFILE_OF)]


def text_to_image(**changes: dict[str, Any]) -> dict[str, Any]:
    return tiny("text_to_image", **changes)


def node_id(api: dict[str, Any], kind: str) -> str | None:
    """The first node of a class, the pack's prefix left out."""
    return next((id for id, node in api.items() if node["class_type"] in (kind, f"SenseNovaCore{kind}")), None)


def sampled(seed: int, temperature: float = 0.5) -> dict[str, Any]:
    """Inputs of a node that writes text: chosen at random."""
    return {
        "decoding": "sample",
        "decoding.temperature": temperature,
        "decoding.top_k": 0,
        "decoding.top_p": 1.0,
        "decoding.text_seed": seed,
    }
