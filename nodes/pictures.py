"""Pictures on ComfyUI's wires, and the settings that they were drawn with."""

import json
import logging
from pathlib import Path

import comfy.model_management as mm
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from torch import Tensor

from ..sensenova_core.reading.picture_files import text_of

log = logging.getLogger(__name__)

NOTHING = ExecutionBlocker(None)  # on a wire: what follows is left out without an error


def to_wire(image: Tensor) -> Tensor:
    """An IMAGE as ComfyUI passes it between nodes: (batch, height, width, 3) where it keeps intermediates."""
    return image.to(device=mm.intermediate_device(), dtype=mm.intermediate_dtype())


def picture_to_wire(picture: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return to_wire(pixels.view(1, picture.height, picture.width, 3).float() / 255)


def source_metadata(graph: dict | None, node_id: str, name: str) -> dict[str, str]:
    """Metadata of the picture that feeds input `name` of a node, where the graph tells.

    That is a loaded file's own text, or the graph itself where our sampler drew it.
    """
    if graph is None:
        return {}
    try:
        link = graph[node_id]["inputs"][name]
        source = graph[link[0]]
        if source["class_type"] == "SenseNovaCoreFlowMatchSampler":
            return {"prompt": json.dumps({link[0]: source})}
        if source["class_type"] == "LoadImage":
            path = Path(folder_paths.get_annotated_filepath(source["inputs"]["image"]))
            return text_of(path) if path.is_file() else {}
    except Exception:  # only a warning comes of it, whatever is in the graph
        log.debug("no metadata of %s", name, exc_info=True)
    return {}
