"""Pictures to hand to the engine, made here so that tests need no files."""

import numpy as np
from PIL import Image


def picture(width: int = 160, height: int = 120, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Coloured noise, different for every seed."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())
