"""Flow matching in pixel space: times, noise scale, guidance, norms. Pure functions on tensors, all in float32.

t runs from 0 (noise) to 1 (image). Velocities and z are tokens: (batch, tokens, values of a token).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingsError, check_number
from ..model.config import NoiseConfig

CFG_NORMS = ("none", "global", "channel", "cfg_zero_star")
ROUNDING = 1e-6  # of float32 times, so that a step exactly on an interval's end counts as inside
EPSILON = 1e-8  # keeps the ratios of norms finite

# The branches of guidance. All denoise the same image and differ in what they have read before it.
CONDITION, IMAGES_ONLY, UNCONDITIONAL = "condition", "images_only", "unconditional"


def schedule(steps: int, shift: float) -> Tensor:
    """`steps` + 1 times from 0 to 1, float32; a shift over 1 spends more steps near the noise."""
    sigma = 1 - torch.linspace(0, 1, steps + 1)
    return 1 - shift * sigma / (1 + (shift - 1) * sigma)


def noise_scale(config: NoiseConfig, tokens: int) -> float:
    """Standard deviation of the starting noise for an image of `tokens` tokens."""
    scale = config.scale
    if config.mode not in ("resolution", "dynamic", "dynamic_sqrt"):
        return scale
    scale *= math.sqrt(tokens / config.base_tokens)
    if config.mode == "dynamic_sqrt":
        scale = math.sqrt(scale)
    return min(scale, config.max_scale)


def noise_stream(seed: int) -> torch.Generator:
    """Where all noise of one run comes from: on the CPU, so that a seed gives the same picture on every device."""
    return torch.Generator("cpu").manual_seed(seed)


def starting_noise(stream: torch.Generator, batch: int, height: int, width: int) -> Tensor:
    """Standard normal float32 (batch, 3, height, width). Images of a batch or of a document continue one stream."""
    return torch.randn((batch, 3, height, width), generator=stream)


def velocity(guess: Tensor, z: Tensor, t: Tensor, t_eps: float) -> Tensor:
    """The straight way from z at time t to the guessed clean image; t is a float32 scalar."""
    return (guess - z) / (1 - t).clamp(min=t_eps)


@dataclass(frozen=True)
class Guidance:
    """How the branches' velocities are combined.

    cfg: weight of the prompt; img_cfg: weight of the reference images (only an edit has any).
    norm: one of CFG_NORMS. interval: the (shifted) times between which guidance is on, both ends included.
    """

    cfg: float = 4.0
    img_cfg: float = 1.0
    norm: str = "none"
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        for name in ("cfg", "img_cfg"):
            check_number(name, getattr(self, name), "a finite number, such as 4")
        if self.norm not in CFG_NORMS:
            raise SettingsError(f"cfg_norm {self.norm!r} is unknown; choose one of {', '.join(CFG_NORMS)}")
        if not isinstance(self.interval, tuple) or len(self.interval) != 2:
            raise SettingsError(f"cfg_interval is {self.interval!r}; give two numbers, its start and its end")
        for end in self.interval:
            check_number("an end of cfg_interval", end, "a number from 0 to 1")
        start, end = self.interval
        if not 0 <= start <= end <= 1:
            raise SettingsError(
                f"cfg_interval {start} to {end} is not an interval inside 0 to 1; give its start first, such as 0 to 1"
            )

    def branches(self, edit: bool, t: float) -> tuple[str, ...]:
        """The branches needed at time t, the full condition first."""
        start, end = self.interval
        if not start - ROUNDING <= t <= end + ROUNDING:
            return (CONDITION,)
        if not edit:
            return (CONDITION, UNCONDITIONAL) if self.cfg > 1 else (CONDITION,)
        if self.cfg == self.img_cfg:
            return (CONDITION,) if self.cfg == 1 else (CONDITION, UNCONDITIONAL)
        return (CONDITION, IMAGES_ONLY) if self.img_cfg == 1 else (CONDITION, IMAGES_ONLY, UNCONDITIONAL)

    def branches_needed(self, edit: bool, times: Iterable[float]) -> tuple[str, ...]:
        """The branches that some of these times need, the full condition first."""
        return max((self.branches(edit, t) for t in times), key=len)

    def skips(self, edit: bool, step: int, t: float) -> bool:
        """Whether this step stands still: cfg_zero_star takes a zero velocity at the first guided step 0."""
        return self.norm == "cfg_zero_star" and step == 0 and len(self.branches(edit, t)) > 1

    def combine(self, velocities: Mapping[str, Tensor]) -> Tensor:
        """Velocities by branch, as `branches` asked for -> the guided one, each (batch, tokens, values)."""
        condition = velocities[CONDITION]
        if len(velocities) == 1:
            return condition
        images, nothing = velocities.get(IMAGES_ONLY), velocities.get(UNCONDITIONAL)
        if images is None:
            if self.norm == "cfg_zero_star":
                nothing = nothing * _projection(condition, nothing)
            guided = nothing + self.cfg * (condition - nothing)
        elif nothing is None:
            guided = images + self.cfg * (condition - images)
        else:
            guided = nothing + self.cfg * (condition - images) + self.img_cfg * (images - nothing)
        return self._rescaled(guided, condition)

    def _rescaled(self, guided: Tensor, condition: Tensor) -> Tensor:
        """Never longer than the unguided velocity: over the whole image, or token by token."""
        if self.norm not in ("global", "channel") or max(self.cfg, self.img_cfg) <= 1:
            return guided
        axes = (-2, -1) if self.norm == "global" else -1
        ratio = condition.norm(dim=axes, keepdim=True) / (guided.norm(dim=axes, keepdim=True) + EPSILON)
        return guided * ratio.clamp(max=1)


def _projection(condition: Tensor, nothing: Tensor) -> Tensor:
    """<c, u> / |u|^2 of each image: (batch, 1, 1)."""
    product = (condition * nothing).sum((-2, -1), keepdim=True)
    return product / (nothing.square().sum((-2, -1), keepdim=True) + EPSILON)
