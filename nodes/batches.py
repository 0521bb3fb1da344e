"""What comes over ComfyUI's IMAGE and MASK wires -> pictures, refused in words where it is neither."""

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor

CHANNELS = (1, 3, 4)
_UNIT = {torch.uint8: 255, torch.bool: 1}  # of whole numbers: what white is
_TOO_BRIGHT = 2  # on average: numbers that are not of 0 .. 1


def to_pictures(batch: Tensor, mask: Tensor | None = None, name: str = "image") -> list[Image.Image]:
    """An IMAGE (batch, height, width, 1, 3 or 4) as PIL pictures; a MASK makes what it covers transparent as well.

    name: of the input, for messages. Raises ValueError for what is no IMAGE or no MASK.
    """
    check_image(batch, name)
    mask_name = name.replace("image", "mask")
    masks = None if mask is None else _masks(mask, mask_name)
    pictures = []
    for index, pixels in enumerate(batch):
        values = _levels(pixels, f"{name}, picture {index + 1}," if len(batch) > 1 else name)
        picture = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
        if masks is not None:
            covered = _levels(masks[min(index, len(masks) - 1)], mask_name, invert=True)
            picture = picture.convert("RGBA")
            shown = Image.fromarray(covered).resize(picture.size, Image.Resampling.BILINEAR)
            picture.putalpha(ImageChops.multiply(picture.getchannel("A"), shown))
        pictures.append(picture)
    return pictures


def to_image(batch: Tensor, name: str) -> Tensor:
    """An IMAGE as float32 (batch, height, width, 3) in 0 .. 1, its numbers as they are; what is transparent becomes
    white. Raises ValueError for what is no IMAGE."""
    check_image(batch, name)
    image = torch.from_numpy(_brightness(batch, name)).clamp(0, 1)
    colours, alpha = image[..., :3], image[..., 3:]
    if alpha.shape[-1]:
        return colours * alpha + (1 - alpha)
    return colours.expand(-1, -1, -1, 3)


def to_mask(mask: Tensor, name: str) -> Tensor:
    """A MASK as float32 (masks, height, width) in 0 .. 1. Raises ValueError for what is none."""
    return torch.from_numpy(_brightness(_masks(mask, name), name)).clamp(0, 1)


def check_image(batch: object, name: str) -> None:
    """Raise ValueError unless it is an IMAGE with a picture in it; looks at no pixel."""
    image = _tensor(batch, name, "an IMAGE")
    shape = tuple(image.shape)
    said = f"{name} has the shape {_shape_of(image)}"
    if len(shape) != 4:
        alone = len(shape) == 3 and shape[-1] in CHANNELS
        hint = "add the batch axis" if alone else "a mask becomes one by Convert Mask to Image"
        raise ValueError(f"{said}, and an IMAGE is (batch, height, width, channels); {hint}")
    if not shape[0]:
        raise ValueError(f"{name} is an empty batch; connect at least one picture, or nothing")
    if shape[-1] not in CHANNELS and shape[1] in CHANNELS:
        raise ValueError(f"{said}: its channels come first; give (batch, height, width, channels)")
    if shape[-1] not in CHANNELS:
        raise ValueError(f"{said}: {shape[-1]} channels; give 3 (RGB), 4 (with transparency) or 1 (grey)")
    if 0 in shape:
        raise ValueError(f"{said}, without any pixel; give a picture that has some")


def _masks(value: object, name: str) -> Tensor:
    """(masks, height, width) of a MASK, which may have come as one mask alone or with an axis of 1 for channels."""
    mask = _tensor(value, name, "a MASK")
    masks = mask[None] if mask.ndim == 2 else mask
    if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[-1]):
        masks = masks.squeeze(1 if masks.shape[1] == 1 else -1)
    said = f"{name} has the shape {_shape_of(mask)}"
    if masks.ndim != 3:
        raise ValueError(f"{said}, and a MASK is (batch, height, width); give one")
    if 0 in masks.shape:
        raise ValueError(f"{said} and is empty; connect a mask that has pixels, or nothing")
    return masks


def _tensor(value: object, name: str, wanted: str) -> Tensor:
    """The value as it came over a wire. Raises ValueError unless it is a tensor of plain numbers.

    wanted: what should have come, for messages.
    """
    if not isinstance(value, Tensor):
        what = "nothing (None)" if value is None else f"of type {type(value).__name__[:100]}"
        raise ValueError(f"{name} is {what}; connect {wanted}")
    if value.is_complex() or value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise ValueError(f"{name} is a tensor of {_kind(value)}; {wanted} holds numbers from 0 to 1")
    if not value.is_floating_point() and value.dtype not in _UNIT:
        raise ValueError(f"{name} is of {_kind(value)}; {wanted} holds numbers from 0 to 1: divide by what is white")
    return value


def _levels(values: Tensor, name: str, *, invert: bool = False) -> np.ndarray:
    """Brightness from 0 to 1 as whole numbers from 0 to 255. Raises ValueError for what is no brightness.

    invert: 1 becomes 0, as in a mask, where 1 is covered.
    """
    numbers = _brightness(values, name)
    numbers = 1 - numbers if invert else numbers
    return (numbers * 255).round().clip(0, 255).astype(np.uint8)


def _brightness(values: Tensor, name: str) -> np.ndarray:
    """float32, 1 for white. Raises ValueError for what is no brightness."""
    numbers = values.detach().to("cpu", torch.float32).numpy() / np.float32(_UNIT.get(values.dtype, 1))
    if np.isnan(numbers).any():
        raise ValueError(f"{name} holds NaN, which is no brightness; look at the node that made it")
    if numbers.mean(dtype=np.float64) > _TOO_BRIGHT and np.isfinite(numbers).all():
        raise ValueError(f"{name} goes up to {numbers.max():.6g}, and 1 is white; divide it by what is white there")
    return numbers


def _shape_of(value: Tensor) -> str:
    text = str(tuple(value.shape))
    return text if len(text) <= 100 else f"of {value.ndim} axes"


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.") + ("" if value.layout == torch.strided else ", sparse")
