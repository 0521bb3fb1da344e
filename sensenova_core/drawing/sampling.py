"""The denoising loop: settings in, steps out."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NOT_FINITE, SenseNovaError, first_line, memory_in_words
from ..model import GENERATION, InModule, Kernel, Runner, SenseNovaU1, Weights
from ..model.grid import Grid
from ..reading.prefix import DrawingAttention, Prefix
from ..settings import SamplingSettings
from . import flow
from .canvas import Canvas, Painting
from .solving import Course, Guess, Solver, calls_of


@dataclass(frozen=True, eq=False)
class Step:
    """One step taken. index: 0 .. total - 1. t: the time it was taken at. z: tokens after it, float32.

    guess: the clean image as the model sees it now, tokens; after the last step it is z, the result.
    grid: of these tokens. width, height: pixels of the picture, which is cut out of the grid's upper left. painting:
    what knows the pixels that a mask keeps, if there is one.
    """

    index: int
    total: int
    t: float
    z: Tensor
    guess: Tensor
    grid: Grid
    width: int
    height: int
    painting: Painting | None = None

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
        image = shown.clamp(0, 1).permute(0, 2, 3, 1)
        return image if self.painting is None else self.painting.shown(image)


def _no_room(error: BaseException) -> SenseNovaError:
    advice = "close other programs, or ask for fewer pixels or a smaller batch"
    return SenseNovaError(f"memory ran out for the finished picture ({first_line(error)}); {advice}")


@dataclass(frozen=True)
class Moment:
    """A time that the model is asked at. on_device: the same as a float32 scalar. step: of the schedule, from 0."""

    t: float
    on_device: Tensor
    embedding: Tensor
    step: int


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
        canvas: Canvas | None = None,
        times: Tensor | None = None,
        solver: Solver | None = None,
    ):
        """prefixes: one for every branch that any step needs, the full condition first.

        noise: a stream to continue; else one begins from the settings' seed. run: see model.Runner. canvas: what is
        begun from, if not from noise alone. times: of the steps, in place of the settings' own. solver: who takes the
        steps, in place of Euler's.
        """
        self.run = run or InModule(model).run
        self.noise = noise or flow.noise_stream(settings.seed)
        self.model, self.generation = model, model.generation
        self.settings, self.edit = settings, edit
        self.canvas, self.solver = canvas, solver
        self.painting: Painting | None = None  # while something is kept
        config, device = model.config, model.device
        self.grid = config.grid(width=settings.width, height=settings.height)
        self.drawing = DrawingAttention(
            tuple(prefixes.values()), images=settings.batch_size, tokens=self.grid.tokens, kernel=kernel
        )
        positions = [self.grid.positions(prefix.last_t + 1) for prefix in prefixes.values()]
        positions = torch.stack(positions).repeat_interleave(settings.batch_size, 0)  # (branches * images, 3, tokens)
        self.rotation = model.rotation(positions.to(device))
        self.vision_rotary = self.generation.vision.rotary(self.grid, device)
        own = flow.schedule(settings.steps, settings.shift, settings.denoise) if times is None else times
        self.times, self.device_times = own, own.to(device)
        self.noise_scale = flow.noise_scale(config.noise, self.grid.tokens)
        self.time_embeddings = self._embeddings_at(self.device_times[:-1])  # (steps, hidden)

    def _embeddings_at(self, times: Tensor) -> Tensor:
        """What tells the model the time and how strong the noise was: (times, hidden)."""
        config = self.model.config
        embeddings = self.generation.timestep_embedder(times)
        if config.noise.embedded:
            scale = self.noise_scale / config.noise.max_scale
            scale = torch.tensor([scale], dtype=torch.float32, device=embeddings.device)
            embeddings = embeddings + self.generation.noise_scale_embedder(scale)
        return embeddings

    def start(self) -> Tensor:
        """What the image begins as, float32 tokens: noise, with as much of a canvas as its time has."""
        # Once: it moves the stream on.
        noise = flow.starting_noise(
            self.noise, batch=self.settings.batch_size, height=self.grid.height, width=self.grid.width
        )

        def scaled(weights: Weights) -> tuple[Tensor, Painting | None]:
            begun = self.grid.image_to_tokens(self.noise_scale * noise.to(self.model.device))
            if self.canvas is None:
                return begun, None
            painting = Painting(self.canvas, self.grid, noise=begun, feather=self.settings.feather)
            z = painting.at(self.device_times[0]) if self.times[0] > 0 else begun
            return z, None if painting.mask is None else painting

        z, self.painting = self.run("drawing", scaled)
        return z

    def steps(self) -> Generator[Step, None, Tensor]:
        """Take one step at a time, each when it is asked for. Returns the finished picture's tokens."""
        z = self.start()
        if self.solver is not None:
            return (yield from self._solved(self.solver, z))
        for index in range(len(self.times) - 1):
            z, guess = self._next(z, index)
            yield self._step(index, z, guess=guess)
        return z

    def _step(self, index: int, z: Tensor, *, guess: Tensor, t: float | None = None) -> Step:
        return Step(
            index=index,
            total=len(self.times) - 1,
            t=float(self.times[index]) if t is None else t,
            z=z,
            guess=guess,
            grid=self.grid,
            width=self.settings.width,
            height=self.settings.height,
            painting=self.painting,
        )

    def _next(self, z: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """z after a step, and the guess of the clean image that it followed."""

        def work(weights: Weights) -> tuple[Tensor, Tensor]:
            t, t_next = self.device_times[index], self.device_times[index + 1]
            moment = Moment(float(self.times[index]), t, self.time_embeddings[index], index)
            v = self._guided_velocity(z, moment, weights)
            guess = z + (1 - t) * v
            if self.painting is None:
                return z + (t_next - t) * v, guess
            after = z + (t_next - t) * (v + self.painting.pull(guess, t))
            return self.painting.put_back(after, t_next), self.painting.mixed(guess)

        return self.run("drawing", work)

    def _solved(self, solver: Solver, z: Tensor) -> Generator[Step, None, Tensor]:
        """`steps` as another solver takes them. Its last step is the result, which comes when it has ended."""
        total, start = len(self.times) - 1, self.grid.tokens_to_image(z)
        calls = calls_of(lambda ask: solver(ask, start, Course(self.times, self.noise_scale)))
        answer = None
        try:
            while True:
                call = calls.send(answer)
                answer = None
                if isinstance(call, Guess):
                    answer = self._answer(call)
                elif call.index != total - 1:
                    z, guess = self.grid.image_to_tokens(call.z), self.grid.image_to_tokens(call.guess)
                    yield self._step(min(call.index, max(0, total - 2)), z, guess=guess, t=call.t)
        except StopIteration as ended:
            z = self.grid.image_to_tokens(ended.value)
        finally:
            calls.close()
        z = z if self.painting is None else self.painting.put_back(z, self.device_times[-1])
        yield self._step(total - 1, z, guess=z)
        return z

    def _answer(self, asked: Guess) -> Tensor:
        """The guess of the clean image that a solver asks for: (batch, 3, height, width)."""

        def work(weights: Weights) -> Tensor:
            t = torch.tensor(asked.t, dtype=torch.float32, device=self.model.device)
            z = self.grid.image_to_tokens(asked.z.float())
            z = z if self.painting is None else self.painting.put_back(z, t)
            step = int((self.times <= asked.t).sum()) - 1
            moment = Moment(asked.t, t, self._embeddings_at(t[None])[0], step)
            guess = z + (1 - t) * self._guided_velocity(z, moment, weights)
            guess = guess if self.painting is None else self.painting.mixed(guess)
            return self.grid.tokens_to_image(guess)

        return self.run("drawing", work)

    def _guided_velocity(self, z: Tensor, at: Moment, weights: Weights) -> Tensor:
        guidance = self.settings.guidance
        if flow.skips(guidance, edit=self.edit, step=at.step, t=at.t):
            return torch.zeros_like(z)
        branches = flow.branches(guidance, edit=self.edit, t=at.t)
        guesses = self._guesses(z, at.embedding, weights, branches=len(branches))
        velocities = {
            branch: flow.velocity(guess, z, at.on_device, t_eps=self.settings.t_eps)
            for branch, guess in zip(branches, guesses, strict=True)
        }
        return flow.combine(guidance, velocities)

    def _guesses(self, z: Tensor, embedding: Tensor, weights: Weights, *, branches: int) -> tuple[Tensor, ...]:
        """The clean image as each of the first `branches` branches sees it, in one pass: float32 tokens."""
        x = self.generation.vision(self.grid.tokens_to_patches(z.to(self.model.dtype)), self.vision_rotary)
        x = (x + embedding).repeat(branches, 1, 1)  # (branches * images, tokens, hidden)
        return self._seen(x, weights).chunk(branches)

    def clean(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Where each noisy picture's velocity leads: the guess, but for the last steps, which t_eps holds back.

        noisy: float32 (branches * images, 3, height, width), branch by branch. sigma: 1 - t, of each.
        """
        z, ahead = self.grid.image_to_tokens(noisy), sigma[:, None, None]

        def work(weights: Weights) -> Tensor:
            x = self.generation.vision(self.grid.tokens_to_patches(z.to(self.model.dtype)), self.vision_rotary)
            x = x + self._embeddings_at(1 - sigma)[:, None]
            return z.lerp(self._seen(x, weights), ahead / ahead.clamp(min=self.settings.t_eps))

        return self.grid.tokens_to_image(self.run("drawing", work))

    def _seen(self, x: Tensor, weights: Weights) -> Tensor:
        """Embedded pictures (branches * images, tokens, hidden) -> clean ones, in one pass: float32 tokens."""
        rotation, layers = self.rotation.first(len(x)), weights.layers(GENERATION)
        x = self.generation.decoder(x, rotation, self.drawing.attend_at, layers=layers)
        return self.generation.head(x, self.grid).float()
