"""The denoising loop: settings in, steps out."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NOT_FINITE, SenseNovaError, first_line, memory_in_words
from ..model import GENERATION, InModule, Kernel, Runner, SenseNovaU1, Weights
from ..model.config import ModelConfig
from ..model.grid import Grid
from ..reading.prefix import DrawingAttention, Prefix
from ..settings import SamplingSettings
from . import flow


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
        with memory_in_words(_no_room):
            return self._image()

    def _image(self) -> Tensor:
        pixels = self.pixels()
        if not pixels.isfinite().all():
            raise SenseNovaError(
                f"the image holds NaN or infinity after step {self.index + 1} of {self.total}; {NOT_FINITE}"
            )
        shown = pixels[..., : self.height, : self.width] * 0.5 + 0.5
        return shown.clamp(0, 1).permute(0, 2, 3, 1)


def _no_room(error: BaseException) -> SenseNovaError:
    advice = "close other programs, or ask for fewer pixels or a smaller batch"
    return SenseNovaError(f"memory ran out for the finished picture ({first_line(error)}); {advice}")


class Denoiser:
    """One image being drawn: what stays the same for all its steps is made once, here."""

    def __init__(
        self,
        model: SenseNovaU1,
        prefixes: Mapping[str, Prefix],
        settings: SamplingSettings,
        *,
        kernel: Kernel,
        edit: bool,
        noise: torch.Generator | None = None,
        run: Runner | None = None,
    ):
        """prefixes: one for every branch that any step needs, the full condition first.

        noise: a stream to continue; else one begins from the settings' seed. run: see model.Runner.
        """
        self.run = run or InModule(model).run
        self.noise = noise or flow.noise_stream(settings.seed)
        self.model, self.generation = model, model.generation
        self.settings, self.edit = settings, edit
        config, device = model.config, model.device
        self.grid = config.grid(width=settings.width, height=settings.height)
        self.drawing = DrawingAttention(
            tuple(prefixes.values()), images=settings.batch_size, tokens=self.grid.tokens, kernel=kernel
        )
        positions = [self.grid.positions(prefix.last_t + 1) for prefix in prefixes.values()]
        positions = torch.stack(positions).repeat_interleave(settings.batch_size, 0)  # (branches * images, 3, tokens)
        self.rotation = model.rotation(positions.to(device))
        self.vision_rotary = self.generation.vision.rotary(self.grid, device)
        self.times = flow.schedule(settings.steps, settings.shift)
        self.device_times = self.times.to(device)
        self.noise_scale = flow.noise_scale(config.noise, self.grid.tokens)
        self.time_embeddings = self._embeddings(self.device_times[:-1], config)  # (steps, hidden)

    def _embeddings(self, times: Tensor, config: ModelConfig) -> Tensor:
        """What tells the model the time and how strong the noise was: (times, hidden)."""
        embeddings = self.generation.timestep_embedder(times)
        if config.noise.embedded:
            scale = self.noise_scale / config.noise.max_scale
            scale = torch.tensor([scale], dtype=torch.float32, device=embeddings.device)
            embeddings = embeddings + self.generation.noise_scale_embedder(scale)
        return embeddings

    def start(self) -> Tensor:
        """The noise that the image begins as: float32 tokens."""
        # Once: it moves the stream on.
        noise = flow.starting_noise(
            self.noise, batch=self.settings.batch_size, height=self.grid.height, width=self.grid.width
        )

        def scaled(weights: Weights) -> Tensor:
            return self.grid.image_to_tokens(self.noise_scale * noise.to(self.model.device))

        return self.run("drawing", scaled)

    def steps(self) -> Generator[Step, None, Tensor]:
        """Take one step at a time, each when it is asked for. Returns the finished picture's tokens."""
        z, settings = self.start(), self.settings
        for index in range(settings.steps):
            z, guess = self._next(z, index)
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
        return z

    def _next(self, z: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """z after a step, and the guess of the clean image that it followed."""

        def work(weights: Weights) -> tuple[Tensor, Tensor]:
            t, t_next = self.device_times[index], self.device_times[index + 1]
            v = self._guided_velocity(z, index, weights)
            return z + (t_next - t) * v, z + (1 - t) * v

        return self.run("drawing", work)

    def _guided_velocity(self, z: Tensor, index: int, weights: Weights) -> Tensor:
        guidance, t = self.settings.guidance, float(self.times[index])
        if flow.skips(guidance, edit=self.edit, step=index, t=t):
            return torch.zeros_like(z)
        branches = flow.branches(guidance, edit=self.edit, t=t)
        guesses = self._guesses(z, index, weights, branches=len(branches))
        velocities = {
            branch: flow.velocity(guess, z, self.device_times[index], t_eps=self.settings.t_eps)
            for branch, guess in zip(branches, guesses, strict=True)
        }
        return flow.combine(guidance, velocities)

    def _guesses(self, z: Tensor, index: int, weights: Weights, *, branches: int) -> tuple[Tensor, ...]:
        """The clean image as each of the first `branches` branches sees it, in one pass: float32 tokens."""
        x = self.generation.vision(self.grid.tokens_to_patches(z.to(self.model.dtype)), self.vision_rotary)
        x = (x + self.time_embeddings[index]).repeat(branches, 1, 1)  # (branches * images, tokens, hidden)
        return self._seen(x, weights).chunk(branches)

    def clean(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Where each noisy picture's velocity leads: the guess, but for the last steps, which t_eps holds back.

        noisy: float32 (branches * images, 3, height, width), branch by branch. sigma: 1 - t, of each.
        """
        z, ahead = self.grid.image_to_tokens(noisy), sigma[:, None, None]

        def work(weights: Weights) -> Tensor:
            x = self.generation.vision(self.grid.tokens_to_patches(z.to(self.model.dtype)), self.vision_rotary)
            x = x + self._embeddings(1 - sigma, self.model.config)[:, None]
            return z.lerp(self._seen(x, weights), ahead / ahead.clamp(min=self.settings.t_eps))

        return self.grid.tokens_to_image(self.run("drawing", work))

    def _seen(self, x: Tensor, weights: Weights) -> Tensor:
        """Embedded pictures (branches * images, tokens, hidden) -> clean ones, in one pass: float32 tokens."""
        rotation, layers = self.rotation.first(len(x)), weights.layers(GENERATION)
        x = self.generation.decoder(x, rotation, self.drawing.attend_at, layers=layers)
        return self.generation.head(x, self.grid).float()
