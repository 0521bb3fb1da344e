"""The picture that a document begins with, where it begins with one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingsError, quoted

SHOWN = "a picture as the model drew it: float (1, height, width, 3) in 0 .. 1"
TOO_BRIGHT = 2  # on average: numbers that are not of 0 .. 1


@dataclass(frozen=True, eq=False)
class Opening:
    """A picture that a document begins with, as every self-correction does. It is that of index 0.

    drawn: its pixels as `Step.pixels` has them, if it was drawn before; its part of the noise is passed over. None has
    it drawn. after: tokens that are read after every picture.
    """

    drawn: Tensor | None = None
    after: tuple[int, ...] = ()


def drawn_pixels(picture: object, side: int) -> Tensor:
    """A picture as `Step.image` gives it -> its pixels as they were drawn: float32 (1, 3, height, width) in -1 .. 1.

    side: pixels of an image token. Raises SettingsError.
    """
    if not isinstance(picture, Tensor) or not picture.is_floating_point():
        raise SettingsError(f"the picture to correct is {quoted(picture)}", f"give {SHOWN}")
    shape = tuple(picture.shape)
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise SettingsError(f"the picture to correct has the shape {quoted(shape)}", f"give {SHOWN}")
    if shape[0] > 1:
        raise SettingsError(f"a batch of {shape[0]} pictures is to be corrected", "give them one by one")
    height, width = shape[1:3]
    if height % side or width % side:
        raise SettingsError(
            f"the picture to correct is {width} x {height}, and this model draws multiples of {side}",
            "give it as the model drew it, neither cropped nor scaled",
        )
    shown = picture.detach().to("cpu", torch.float32)
    if not shown.isfinite().all() or shown.mean() > TOO_BRIGHT:
        raise SettingsError("the picture to correct holds numbers that are no brightness", f"give {SHOWN}")
    return shown.clamp(0, 1).permute(0, 3, 1, 2) * 2 - 1
