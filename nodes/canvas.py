"""IMAGE and MASK -> what a picture begins from, scaled to the size that is drawn."""

from comfy.utils import common_upscale
from torch import Tensor

from ..sensenova_core.drawing.canvas import Canvas
from ..sensenova_core.errors import SettingsError
from .batches import to_image, to_mask
from .progress import note


class Begun:
    """What the sampler's init_image and mask are: at first as they came, then scaled by `canvas`.

    notes: what to tell the user.
    """

    def __init__(self, init_image: Tensor | None, mask: Tensor | None):
        if init_image is None and mask is not None:
            raise SettingsError("mask is connected without init_image", "connect the picture that it is a mask of")
        self.image = None if init_image is None else to_image(init_image, "init_image")
        self.mask = None if mask is None else to_mask(mask, "mask")
        self.notes: list[str] = []
        if self.mask is not None and not self.mask.any():
            self.notes.append("mask is empty, so that all is kept; paint what to draw anew, as in the mask editor")

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of the image, if there is one."""
        return None if self.image is None else (self.image.shape[2], self.image.shape[1])

    def batch(self, asked: int) -> int:
        """How many pictures are drawn: as many as asked for, or of one, as many as there are images or masks."""
        given = [len(each) for each in (self.image, self.mask) if each is not None]
        return max(given, default=1) if asked == 1 else asked

    def canvas(self, width: int, height: int) -> Canvas | None:
        """At the size that is drawn."""
        if self.image is None:
            return None
        if self.size != (width, height):
            before = "{} x {}".format(*self.size or ())
            self.notes.append(f"init_image was {before}, and is scaled to the {width} x {height} that is drawn")
        image = _scaled(self.image.permute(0, 3, 1, 2), (width, height), "lanczos").permute(0, 2, 3, 1)
        mask = None if self.mask is None else _scaled(self.mask[:, None], (width, height), "bilinear")[:, 0]
        return Canvas(image, mask)

    def tell(self, denoise: float) -> None:
        """Say what becomes of it on the node."""
        if self.image is not None and self.mask is None and denoise == 1:
            self.notes.append("denoise is 1 and there is no mask, so that nothing of init_image is used; lower denoise")
        if self.notes:
            note("; ".join(self.notes))


def _scaled(image: Tensor, size: tuple[int, int], way: str) -> Tensor:
    """(batch, channels, height, width) at another (width, height); itself where it has it."""
    width, height = size
    return image if image.shape[2:] == (height, width) else common_upscale(image, width, height, way, "disabled")
