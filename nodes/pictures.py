"""Pictures on ComfyUI's wires, and the settings that they were drawn with."""

import json
from pathlib import Path

import comfy.model_management as mm
import folder_paths
import numpy as np
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image, ImageChops
from torch import Tensor

NOTHING = ExecutionBlocker(None)  # on a wire: what follows is left out without an error


def to_wire(image: Tensor) -> Tensor:
    """An IMAGE as ComfyUI passes it between nodes: (batch, height, width, 3) where it keeps intermediates."""
    return image.to(device=mm.intermediate_device(), dtype=mm.intermediate_dtype())


def picture_to_wire(picture: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return to_wire(pixels.view(1, picture.height, picture.width, 3).float() / 255)


def to_pictures(batch: Tensor, mask: Tensor | None = None) -> list[Image.Image]:
    """An IMAGE (batch, height, width, 1, 3 or 4) as PIL pictures; a MASK makes what it covers transparent as well."""
    pictures = []
    for index, pixels in enumerate(batch):
        values = (pixels.float().cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
        if mask is not None:
            covered = mask[min(index, len(mask) - 1)].float().cpu().numpy()
            shown = Image.fromarray(((1 - covered) * 255).round().clip(0, 255).astype(np.uint8))
            picture = picture.convert("RGBA")
            shown = shown.resize(picture.size, Image.Resampling.BILINEAR)
            picture.putalpha(ImageChops.multiply(picture.getchannel("A"), shown))
        pictures.append(picture)
    return pictures


def source_metadata(graph: dict | None, node_id: str, name: str) -> dict[str, str]:
    """Metadata of the picture that feeds input `name` of a node, where the graph tells.

    That is a loaded file's own text, or the graph itself where our sampler drew it.
    """
    graph = graph or {}
    link = graph.get(node_id, {}).get("inputs", {}).get(name)
    source = graph.get(link[0], {}) if isinstance(link, list) else {}
    if source.get("class_type") == "SenseNovaCoreFlowMatchSampler":
        return {"prompt": json.dumps({link[0]: source})}
    if source.get("class_type") == "LoadImage" and isinstance(source["inputs"].get("image"), str):
        path = Path(folder_paths.get_annotated_filepath(source["inputs"]["image"]))
        if path.is_file():
            with Image.open(path) as picture:
                return {key: value for key, value in picture.info.items() if isinstance(value, str)}
    return {}
