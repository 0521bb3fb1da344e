"""The denoising loop: settings in, steps out."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import NOT_FINITE, SenseNovaError, SettingsError, check_count, check_number
from ..model import Kernel, SenseNovaU1
from ..model.config import ModelConfig
from ..model.grid import Grid
from ..reading.prefix import DrawingAttention, Prefix
from ..reading.work import Attempt, at_once
from . import flow

MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class SamplingSettings:
    """Everything that decides a picture besides model and conditioning. Checked when made; raises SettingsError.

    width, height: pixels. steps: 1 or more. shift: over 0; 1 is an even schedule. t_eps: over 0, the smallest
    distance to the end that a velocity is divided by. batch_size: images of one prompt from one noise stream.
    crop: draw a size that is no multiple of a token's side at the next larger multiples, and cut it back.
    """

    width: int = 2048
    height: int = 2048
    steps: int = 50
    guidance: flow.Guidance = field(default_factory=flow.Guidance)
    shift: float = 3.0
    t_eps: float = 0.02
    seed: int = 42
    batch_size: int = 1
    crop: bool = False

    def __post_init__(self):
        for name, least, most in (("steps", 1, 10_000), ("batch_size", 1, 4096), ("seed", 0, MAX_SEED)):
            check_count(name, getattr(self, name), least, most)
        for name in ("shift", "t_eps"):
            check_number(name, getattr(self, name), "a number over 0", over=0)

    def times(self) -> Tensor:
        """`steps` + 1 times from 0 (noise) to 1 (image); float32 on the CPU."""
        return flow.schedule(self.steps, self.shift)

    def check_size(self, config: ModelConfig) -> None:
        """Raise SettingsError unless both sides are multiples of what one token of this model covers, or cropped."""
        side = config.token_pixels
        for name in ("width", "height"):
            value = getattr(self, name)
            check_number(name, value, f"a whole number of pixels, a multiple of {side}")
            if not isinstance(value, int) or value < 1 or (value % side and not self.crop):
                nearest = max(side, round(value / side) * side)
                raise SettingsError(
                    f"{name} is {value}; this model draws multiples of {side}, such as {nearest}; "
                    "with crop it cuts the picture back to any size"
                )

    def as_dict(self) -> dict[str, Any]:
        """Flat, with the names that the nodes and the command line use."""
        flat = asdict(self)
        guidance = flat.pop("guidance")
        return flat | {
            "cfg": guidance["cfg"],
            "img_cfg": guidance["img_cfg"],
            "cfg_norm": guidance["norm"],
            "cfg_interval": list(guidance["interval"]),
        }


@dataclass(frozen=True, eq=False)
class Step:
    """One step taken. index: 0 .. total - 1. t: the time it was taken at. z: tokens after it, float32.

    guess: the clean image as the model sees it now, tokens; after the last step it is z, the result.
    grid: of these tokens. width, height: pixels of the picture, which is cut out of the grid's upper left.
    """

    index: int
    total: int
    t: float
    z: Tensor
    guess: Tensor
    grid: Grid
    width: int
    height: int

    def pixels(self) -> Tensor:
        """The guess on its whole grid, in the model's own range: float32 (batch, 3, height, width), about -1 to 1, not
        clamped."""
        return self.grid.tokens_to_image(self.guess)

    def image(self) -> Tensor:
        """The guess ready to show: float32 (batch, height, width, 3) in 0 .. 1, on the model's device.

        Raises SenseNovaError if it is not finite, rather than showing a black picture.
        """
        pixels = self.pixels()
        if not pixels.isfinite().all():
            raise SenseNovaError(
                f"the image holds NaN or infinity after step {self.index + 1} of {self.total}; {NOT_FINITE}"
            )
        shown = pixels[..., : self.height, : self.width] * 0.5 + 0.5
        return shown.clamp(0, 1).permute(0, 2, 3, 1)


class Denoiser:
    """One image being drawn: what stays the same for all its steps is made once, here."""

    def __init__(
        self,
        model: SenseNovaU1,
        prefixes: Mapping[str, Prefix],
        settings: SamplingSettings,
        kernel: Kernel,
        edit: bool,
        noise: torch.Generator | None = None,
        attempt: Attempt = at_once,
    ):
        """prefixes: one for every branch that any step needs, the full condition first.

        noise: a stream to continue; else one begins from the settings' seed. attempt: does the work of a step.
        """
        self.attempt = attempt
        self.noise = noise or flow.noise_stream(settings.seed)
        self.model, self.generation, self.settings, self.edit = model, model.generation, settings, edit
        config, device = model.config, model.device
        self.grid = config.grid(width=settings.width, height=settings.height)
        self.drawing = DrawingAttention(tuple(prefixes.values()), settings.batch_size, self.grid.tokens, kernel)
        positions = [self.grid.positions(prefix.last_t + 1) for prefix in prefixes.values()]
        positions = torch.stack(positions).repeat_interleave(settings.batch_size, 0)  # (branches * images, 3, tokens)
        self.rotation = model.rotation(positions.to(device))
        self.vision_rotary = self.generation.vision.rotary(self.grid, device)
        self.times = settings.times()
        self.device_times = self.times.to(device)
        self.noise_scale = flow.noise_scale(config.noise, self.grid.tokens)
        self.time_embeddings = self._time_embeddings(config)  # (steps, hidden)

    def _time_embeddings(self, config: ModelConfig) -> Tensor:
        embeddings = self.generation.timestep_embedder(self.device_times[:-1])
        if config.noise.embedded:
            scale = torch.tensor([self.noise_scale / config.noise.max_scale], device=embeddings.device)
            embeddings = embeddings + self.generation.noise_scale_embedder(scale)
        return embeddings

    def start(self) -> Tensor:
        """The noise that the image begins as: float32 tokens."""
        # Once: it moves the stream on.
        noise = flow.starting_noise(self.noise, self.settings.batch_size, self.grid.height, self.grid.width)

        def scaled() -> Tensor:
            return self.grid.image_to_tokens(self.noise_scale * noise.to(self.model.device))

        return self.attempt("drawing", scaled)

    def steps(self) -> Iterator[Step]:
        """Take one step at a time, each when it is asked for."""
        z, settings = self.start(), self.settings
        for index in range(settings.steps):
            z, guess = self.attempt("drawing", partial(self._next, z, index))
            yield Step(
                index=index,
                total=settings.steps,
                t=float(self.times[index]),
                z=z,
                guess=guess,
                grid=self.grid,
                width=settings.width,
                height=settings.height,
            )

    def _next(self, z: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """z after a step, and the guess of the clean image that it followed."""
        t, t_next = self.device_times[index], self.device_times[index + 1]
        v = self._guided_velocity(z, index)
        return z + (t_next - t) * v, z + (1 - t) * v

    def _guided_velocity(self, z: Tensor, index: int) -> Tensor:
        guidance, t = self.settings.guidance, float(self.times[index])
        if guidance.skips(self.edit, index, t):
            return torch.zeros_like(z)
        branches = guidance.branches(self.edit, t)
        guesses = self._guesses(z, index, len(branches))
        return guidance.combine(
            {
                branch: flow.velocity(guess, z, self.device_times[index], self.settings.t_eps)
                for branch, guess in zip(branches, guesses, strict=True)
            }
        )

    def _guesses(self, z: Tensor, index: int, branches: int) -> tuple[Tensor, ...]:
        """The clean image as each of the first `branches` branches sees it, in one pass: float32 tokens."""
        x = self.generation.vision(self.grid.tokens_to_patches(z.to(self.model.dtype)), self.vision_rotary)
        x = (x + self.time_embeddings[index]).repeat(branches, 1, 1)  # (branches * images, tokens, hidden)
        x = self.generation.decoder(x, self.rotation.first(len(x)), self.drawing.attend_at)
        return self.generation.head(x, self.grid).float().chunk(branches)
