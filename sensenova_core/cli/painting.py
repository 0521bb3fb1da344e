"""Pictures that `sensenova generate` begins from, and their masks: files -> what the engine takes."""

import logging
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from .models import open_images

if TYPE_CHECKING:
    from PIL import Image

    from ..drawing.canvas import Canvas

log = logging.getLogger(__name__)
MASK_RULE = (
    "what of --init-image is drawn anew: white, or in a file with transparency what is transparent; every other pixel "
    "stays exactly as it was"
)


def add_painting_options(parser) -> None:
    parser.add_argument(
        "--init-image",
        metavar="FILE",
        help="a picture to begin from: with --denoise under 1, with --mask, or with both; drawn at its size unless "
        "--width and --height are given",
    )
    parser.add_argument("--mask", metavar="FILE", help=MASK_RULE)


def check_painting(image: Any, mask: Any, *, denoise: float) -> None:
    """Raise SettingsError for a mask alone, and warn of a picture of which nothing is used."""
    if mask is not None and image is None:
        problem = "is given without the picture that it is a mask of"
        raise SettingsError(problem, setting="mask", value=mask, hints={"init_image": "give {} too"})
    if image is not None and mask is None and denoise == 1:
        log.warning("--init-image: nothing of it is used, for there is no --mask and --denoise is 1; lower it")


def canvas_of(image: Any, mask: Any, size: tuple[int, int]) -> "Canvas | None":
    """image, mask: files, or pictures of pipes. size: (width, height) that is drawn, to which both are scaled."""
    if image is None:
        return None
    import numpy as np
    import torch
    from PIL import Image

    from ..drawing.canvas import Canvas
    from ..reading.images import flattened

    def numbers(picture: "Image.Image") -> torch.Tensor:
        return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]

    [picture] = open_images([image])
    picture = flattened(picture)
    if picture.size != size:
        log.warning("--init-image: %d x %d is scaled to the %d x %d that is drawn", *picture.size, *size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if mask is None:
        return Canvas(numbers(picture))
    [drawn_anew] = map(_drawn_anew, open_images([mask]))
    if drawn_anew.size != size:
        drawn_anew = drawn_anew.resize(size, Image.Resampling.BILINEAR)
    if not drawn_anew.getbbox():
        log.warning("--mask: nothing in it is white or transparent, so that all is kept")
    return Canvas(numbers(picture), numbers(drawn_anew))


def _drawn_anew(mask: "Image.Image") -> "Image.Image":
    """Brightness of what is drawn anew, see MASK_RULE."""
    from PIL import ImageChops

    from ..reading.images import flattened

    if mask.has_transparency_data:
        alpha = mask.convert("RGBA").getchannel("A")
        least, _ = alpha.getextrema()
        if isinstance(least, int | float) and least < 255:
            return ImageChops.invert(alpha)
    return flattened(mask).convert("L")
