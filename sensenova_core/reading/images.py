"""Reference images: any picture -> pixels the understanding expert reads, at a size it knows."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import PromptError, check_count, plain, quoted
from ..model.grid import Grid
from ..settings import MAX_ASPECT, MAX_IMAGES
from .colours import as_shown

MaxPixels = int | list[int | None] | tuple[int | None, ...] | None  # a budget for all images, or for each

METADATA_KEY = "sensenova"  # in the metadata of pictures that this engine drew: the settings that made them

MAX_METADATA = 2**23  # characters of it that are looked at: a long graph has a tenth of that

# What the understanding embedder expects, per rgb channel.
MEAN = torch.tensor((0.485, 0.456, 0.406), dtype=torch.float32, device="cpu").view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225), dtype=torch.float32, device="cpu").view(3, 1, 1)


@dataclass(frozen=True, eq=False)
class ReferenceImage:
    """One image ready to be read. pixels: normalised float32 (3, height, width) on the CPU, as large as its grid.

    original: (width, height) as it was given. seeds: those that this engine drew it with, as far as its metadata says.
    """

    pixels: Tensor
    grid: Grid
    original: tuple[int, int]
    seeds: frozenset[int] = frozenset()

    @cached_property
    def key(self) -> str:
        """Equal for images that are read the same."""
        return hashlib.sha256(self.pixels.contiguous().numpy().tobytes() + str(self.pixels.shape).encode()).hexdigest()


def reference_image(
    image: Image.Image, side: int, *, limits: tuple[int, int], budget: int | None = None
) -> ReferenceImage:
    """Flatten, resize and normalise. side, limits, budget: see `grid_read`.

    Of LA the grey alone counts, as the reference implementation has it; `references` flattens before it comes here.
    Raises PromptError for an aspect ratio over 200.
    """
    grid = grid_read(image.height, image.width, side, limits=limits, budget=budget)
    flat = image.convert("RGB") if image.mode == "LA" else flattened(image)
    resized = flat.resize((grid.width, grid.height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255).permute(2, 0, 1)
    return ReferenceImage((pixels - MEAN) / STD, grid, original=image.size, seeds=seeds_of(image))


def grid_read(height: int, width: int, side: int, *, limits: tuple[int, int], budget: int | None) -> Grid:
    """What `reference_image` resizes an image of that size to.

    side: pixels of one token. limits: smallest and largest number of pixels. budget: pixels it may have, if fewer.
    """
    read = smart_resize(height, width, side, limits=limits)
    if budget is not None and math.prod(read) > budget:  # under the least size too, which leaves room to round up
        read = smart_resize(height, width, side, limits=(min(limits[0], budget // 4), budget))
    return Grid(read[0] // side, read[1] // side, side)


def seeds_of(image: Image.Image) -> frozenset[int]:
    """The seeds in a picture's metadata: of our command line, or of a ComfyUI graph with our sampler in it.

    Only for a warning, so that of longer text, and of another program's, there are none.
    """
    texts = [image.info.get(key) for key in (METADATA_KEY, "prompt")]
    try:
        texts = [text if text and len(text) <= MAX_METADATA else "{}" for text in texts]
        settings, nodes = json.loads(texts[0]), json.loads(texts[1]).values()
        found = [settings.get("seed"), *(node["inputs"].get("seed") for node in nodes if _is_sampler(node))]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, MemoryError):
        return frozenset()
    return frozenset(seed for seed in found if isinstance(seed, int) and not isinstance(seed, bool))


def _is_sampler(node: dict) -> bool:
    return node.get("class_type") in ("SenseNovaCoreFlowMatchSampler", "SenseNovaCoreInterleave")


def flattened(image: Image.Image) -> Image.Image:
    """RGB as a screen shows it, see `colours`; transparency of any mode on white."""
    shown = as_shown(image)
    if shown.mode == "RGB":
        return shown
    white = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(white, shown).convert("RGB")


def listed(images: Image.Image | Iterable[Image.Image] | None) -> list[Image.Image]:
    """Images as a list, whether they came so, alone, from a generator, or as None for none. Raises PromptError."""
    if images is None or isinstance(images, Image.Image):
        return [] if images is None else [images]
    if isinstance(images, str | bytes | dict) or not hasattr(images, "__iter__") or hasattr(images, "shape"):
        raise PromptError(f"images is a {type(images).__name__} ({quoted(images)}); give a list of PIL images")
    # Of a generator without end no more than it takes to see that there are too many.
    found = list(images) if isinstance(images, list | tuple) else list(islice(images, MAX_IMAGES + 1))
    for index, image in enumerate(found, 1):
        if not isinstance(image, Image.Image):
            raise PromptError(f"Image-{index} is a {type(image).__name__} ({quoted(image)}); give a PIL image")
    return found


def references(
    images: Sequence[Image.Image], side: int, *, limits: tuple[int, int], max_pixels: MaxPixels = None
) -> tuple[ReferenceImage, ...]:
    """Images made ready to be read by a model whose tokens cover `side` x `side` pixels.

    limits: smallest and largest number of pixels. max_pixels: a budget for all, or for each, which may be None.
    Raises PromptError naming the image, by its place from 1.
    """
    images = listed(images)
    if len(images) > MAX_IMAGES:
        raise PromptError(f"{len(images)} images; give at most {MAX_IMAGES}")
    max_pixels = plain(max_pixels)
    budgets = max_pixels if isinstance(max_pixels, list | tuple) else [max_pixels] * len(images)
    if len(budgets) != len(images):
        raise PromptError(f"max_pixels has {len(budgets)} numbers for {len(images)} images; give one for all, or each")
    for budget in budgets:
        if budget is not None:
            check_count("max_pixels", budget, least=1)
    for index, image in enumerate(images, 1):
        check_ratio(*image.size, f"Image-{index}")
    read = []
    for index, (image, budget) in enumerate(zip(images, budgets, strict=True), 1):
        try:
            flat = flattened(image)
        except (OSError, ValueError, SyntaxError, EOFError) as error:  # of a file that Pillow decodes only now
            raise PromptError(f"Image-{index} cannot be decoded ({error}); copy or download its file again") from error
        read.append(replace(reference_image(flat, side, limits=limits, budget=budget), seeds=seeds_of(image)))
    return tuple(read)


def check_ratio(width: int, height: int, name: str = "an image") -> None:
    """Raise PromptError if one side is over 200 times the other, or none; `name` says which image that is."""
    if not width or not height:
        raise PromptError(f"{name} of {width}x{height} has no pixels; give a picture that has some")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise PromptError(
            f"{name} of {width}x{height} is more than {MAX_ASPECT} times as long as wide; crop it or pad it first"
        )


def smart_resize(height: int, width: int, factor: int, *, limits: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in multiples of `factor`, near the given size, with a number of pixels inside the limits where
    the ratio allows it.

    Raises PromptError for an aspect ratio over 200.
    """
    check_ratio(width, height)
    min_pixels, max_pixels = limits
    sides = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if math.prod(sides) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)]
    elif math.prod(sides) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        sides = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    return sides[0], sides[1]
