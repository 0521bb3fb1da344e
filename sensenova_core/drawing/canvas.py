"""What a picture may begin from: an init image, of which a mask says what is drawn anew and what is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SettingsError, quoted
from ..model.grid import Grid
from ..settings import SamplingSettings
from .flow import ROUNDING


@dataclass(frozen=True, eq=False)
class Canvas:
    """Checked when made; raises SettingsError.

    image: (1 or batch, height, width, 3) in 0 .. 1; what is beyond is clamped. mask: (1 or batch, height, width) in
    0 .. 1, or one mask alone: 1 is drawn anew, 0 is kept, what is between is mixed; None draws all anew.
    """

    image: Tensor
    mask: Tensor | None = None

    def __post_init__(self):
        object.__setattr__(self, "image", _numbers("init_image", self.image))
        if self.image.ndim != 4 or self.image.shape[-1] != 3 or 0 in self.image.shape:
            problem = f"has the shape {tuple(self.image.shape)}"
            raise SettingsError(problem, "give (batch, height, width, 3) in 0 to 1", setting="init_image")
        if self.mask is None:
            return
        mask = _numbers("mask", self.mask)
        object.__setattr__(self, "mask", mask[None] if mask.ndim == 2 else mask)
        if self.mask.ndim != 3 or 0 in self.mask.shape:
            problem = f"has the shape {tuple(mask.shape)}"
            raise SettingsError(problem, "give (batch, height, width) in 0 to 1", setting="mask")

    @classmethod
    def of(cls, image: Tensor | None, mask: Tensor | None) -> "Canvas | None":
        """None without either. Raises SettingsError for a mask alone."""
        if image is None and mask is not None:
            problem = "is given without the picture that it is a mask of"
            raise SettingsError(problem, setting="mask", hints={"init_image": "give {} too"})
        return None if image is None else cls(image, mask)

    def check(self, settings: SamplingSettings) -> None:
        """Raise SettingsError unless it is of the size and the batch that are drawn."""
        drawn = settings.height, settings.width
        for name, given in {"init_image": self.image, "mask": self.mask}.items():
            if given is None:
                continue
            height, width = given.shape[1:3]
            if (height, width) != drawn:
                problem = f"is {width} x {height}, and {settings.width} x {settings.height} is drawn"
                raise SettingsError(problem, "scale it, or draw at its size", setting=name)
            if len(given) not in (1, settings.batch_size):
                problem = f"is a batch of {len(given)}, and a batch of {settings.batch_size} is drawn"
                raise SettingsError(problem, "give one for all, or one for each", setting=name)


def _numbers(name: str, value: object) -> Tensor:
    """float32 in 0 .. 1, on the device where it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise SettingsError(f"is {quoted(value)}", "give a tensor of numbers from 0 to 1", setting=name)
    value = value.detach().float()
    if not value.is_meta and value.isnan().any():
        raise SettingsError("holds NaN", "look at what made it", setting=name)
    return value.clamp(0, 1)


def feathered(mask: Tensor, pixels: int) -> Tensor:
    """A mask (batch, height, width) that fades out over so many pixels more, and is what it was within.

    It is first widened by half of them and then averaged over squares as wide as the other half, so that nothing
    changes at a larger distance.
    """
    if pixels == 0:
        return mask
    wider, blur = pixels // 2, pixels - pixels // 2
    soft = mask[:, None]
    for across in ((1, 0), (0, 1)):  # along rows, then along columns
        kernel = tuple(2 * wider * way + 1 for way in across)
        soft = F.max_pool2d(soft, kernel, stride=1, padding=tuple(wider * way for way in across))
    for across in ((1, 0), (0, 1)):
        kernel = tuple(2 * blur * way + 1 for way in across)
        padding = tuple(blur * way for way in across)
        soft = F.avg_pool2d(soft, kernel, stride=1, padding=padding, count_include_pad=False)
    return torch.maximum(mask, soft[:, 0])


class Painting:
    """A canvas on the model's device, with the noise that it begins in. Tokens are float32 (1 or batch, tokens,
    values).

    z lies on the straight path from noise to image, time 0 to 1. Where the mask is 0 it is put back on it after each
    step, and every guess of the clean image is the given one; between 0 and 1 the guess is mixed.
    """

    def __init__(self, canvas: Canvas, grid: Grid, *, noise: Tensor, feather: int):
        """noise: tokens of the whole batch, scaled."""
        device = noise.device
        self.noise, self.grid = noise, grid
        self.original = canvas.image.to(device)
        image = self.original.permute(0, 3, 1, 2) * 2 - 1
        margin = (0, grid.width - image.shape[3], 0, grid.height - image.shape[2])
        self.image = grid.image_to_tokens(F.pad(image, margin, mode="replicate"))
        self.mask = self.kept = None
        if canvas.mask is not None:
            mask = feathered(canvas.mask.to(device), feather)
            self.kept = mask[..., None] == 0
            mask = F.pad(mask[:, None], margin, value=1.0)  # beyond the picture's own edges nothing is to be kept
            self.mask = grid.image_to_tokens(mask.expand(-1, 3, -1, -1))

    def at(self, t: Tensor) -> Tensor:
        """The straight path at time t."""
        return t * self.image + (1 - t) * self.noise

    def put_back(self, z: Tensor, t: Tensor) -> Tensor:
        """z at time t, with what is kept in its noise."""
        return z if self.mask is None else torch.where(self.mask == 0, self.at(t), z)

    def mixed(self, guess: Tensor) -> Tensor:
        """A guess of the clean image as the mask has it."""
        return guess if self.mask is None else torch.lerp(self.image, guess, self.mask)

    def pull(self, guess: Tensor, t: Tensor) -> Tensor:
        """What a velocity at time t lacks to lead to the mixed guess; nothing where the mask is 1."""
        assert self.mask is not None
        return (1 - self.mask) * (self.image - guess) / (1 - t).clamp(min=ROUNDING)

    def shown(self, image: Tensor) -> Tensor:
        """A picture (batch, height, width, 3) in 0 .. 1 with the kept pixels as they were given, to the bit."""
        return image if self.kept is None else torch.where(self.kept, self.original, image)
