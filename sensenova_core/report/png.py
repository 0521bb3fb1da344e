"""Images -> PNG files that carry the settings that made them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..reading.images import METADATA_KEY


def to_pil(image: Tensor) -> Image.Image:
    """(height, width, 3) in 0 .. 1 -> RGB, rounded to 8 bits."""
    return Image.fromarray((image.float().cpu().numpy() * 255).round().astype(np.uint8))


def save_png(image: Tensor, path: Path, settings: Mapping[str, Any]) -> None:
    """Write (height, width, 3) in 0 .. 1, `settings` as JSON in its metadata. The file appears whole or not at all."""
    info = PngInfo()
    text = json.dumps(settings, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # of names that are not UTF-8
        text = json.dumps(settings)
    info.add_itxt(METADATA_KEY, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        to_pil(image).save(unfinished, format="PNG", pnginfo=info)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def next_free(folder: Path, stem: str) -> Path:
    """The first of stem_00001.png, stem_00002.png, ... that does not exist."""
    taken = {path.name for path in folder.glob(f"{stem}_*.png")}
    return next(path for n in range(1, 10**6) if (path := folder / f"{stem}_{n:05d}.png").name not in taken)
