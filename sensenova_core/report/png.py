"""Images -> PNG files that carry the settings that made them."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..reading.images import METADATA_KEY
from .outputs import publish, synced, take_name, unfinished


def to_pil(image: Tensor) -> Image.Image:
    """(height, width, 3) in 0 .. 1 -> RGB, rounded to 8 bits."""
    return Image.fromarray((image.float().cpu().numpy() * 255).round().astype(np.uint8))


def save_png(image: Tensor, path: Path, settings: Mapping[str, Any]) -> None:
    """Write (height, width, 3) in 0 .. 1, `settings` as JSON in its metadata. The file appears whole or not at all.

    A file of that name is replaced: of several processes that write one, the last has it, whole. See `next_free`.
    """
    try:
        with unfinished(path.parent) as own:
            path.with_name(path.name + ".part").unlink(missing_ok=True)  # what a killed save of earlier versions left
            _write(image, own, settings)
            os.replace(own, path)
    except BaseException:
        if path.is_file() and not path.stat().st_size:
            path.unlink()  # it was taken for this picture, which does not come
        raise


def save_numbered(image: Tensor, folder: Path, stem: str, *, settings: Mapping[str, Any]) -> Path:
    """Write a picture as the first of stem_00001.png, stem_00002.png, ... that nobody has; returns its path."""
    with unfinished(folder) as own:
        _write(image, own, settings)
        return take_name(folder, stem, ".png", take=partial(publish, own))


def next_free(folder: Path, stem: str) -> Path:
    """The first of stem_00001.png, stem_00002.png, ... that nobody has, taken by an empty file: `save_png` fills it."""
    folder.mkdir(parents=True, exist_ok=True)
    return take_name(folder, stem, ".png", take=lambda path: path.touch(exist_ok=False))


def _write(image: Tensor, file: Path, settings: Mapping[str, Any]) -> None:
    text = json.dumps(settings, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # of names that are not UTF-8
        text = json.dumps(settings)
    info = PngInfo()
    info.add_itxt(METADATA_KEY, text)
    to_pil(image).save(file, format="PNG", pnginfo=info)
    synced(file)
