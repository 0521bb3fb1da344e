"""Flow matching in pixel space: times, noise scale, guidance, norms. Pure functions on tensors, all in float32.

t runs from 0 (noise) to 1 (image). Velocities and z are tokens: (batch, tokens, values of a token).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..model.config import NoiseConfig
from ..settings import CONDITION, IMAGES_ONLY, UNCONDITIONAL, Guidance, SamplingSettings

ROUNDING = 1e-6  # of float32 times, so that a step exactly on an interval's end counts as inside
EPSILON = 1e-8  # keeps the ratios of norms finite


def schedule(steps: int, shift: float) -> Tensor:
    """`steps` + 1 times from 0 to 1, float32; a shift over 1 spends more steps near the noise."""
    sigma = 1 - torch.linspace(0, 1, steps + 1, dtype=torch.float32, device="cpu")
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


def starting_noise(stream: torch.Generator, *, batch: int, height: int, width: int) -> Tensor:
    """Standard normal float32 (batch, 3, height, width). Images of a batch or of a document continue one stream."""
    return torch.randn((batch, 3, height, width), generator=stream, dtype=torch.float32, device="cpu")


def velocity(guess: Tensor, z: Tensor, t: Tensor, *, t_eps: float) -> Tensor:
    """The straight way from z at time t to the guessed clean image; t is a float32 scalar."""
    return (guess - z) / (1 - t).clamp(min=t_eps)


def branches(guidance: Guidance, *, edit: bool, t: float) -> tuple[str, ...]:
    """The branches that guidance needs at time t, the full condition first.

    edit: whether there are reference images.
    """
    start, end = guidance.interval
    if not start - ROUNDING <= t <= end + ROUNDING:
        return (CONDITION,)
    if not edit:
        return (CONDITION, UNCONDITIONAL) if guidance.cfg > 1 else (CONDITION,)
    if guidance.cfg == guidance.img_cfg:
        return (CONDITION,) if guidance.cfg == 1 else (CONDITION, UNCONDITIONAL)
    return (CONDITION, IMAGES_ONLY) if guidance.img_cfg == 1 else (CONDITION, IMAGES_ONLY, UNCONDITIONAL)


def branches_needed(settings: SamplingSettings, *, edit: bool) -> tuple[str, ...]:
    """The branches that some step needs, the full condition first."""
    times = schedule(settings.steps, settings.shift)[:-1].tolist()
    return max((branches(settings.guidance, edit=edit, t=t) for t in times), key=len)


def skips(guidance: Guidance, *, edit: bool, step: int, t: float) -> bool:
    """Whether a step stands still: cfg_zero_star takes a zero velocity at the first guided step 0."""
    return guidance.norm == "cfg_zero_star" and step == 0 and len(branches(guidance, edit=edit, t=t)) > 1


def combine(guidance: Guidance, velocities: Mapping[str, Tensor]) -> Tensor:
    """Velocities by branch, as `branches` asked for -> the guided one, each (batch, tokens, values)."""
    condition = velocities[CONDITION]
    if len(velocities) == 1:
        return condition
    images, nothing = velocities.get(IMAGES_ONLY), velocities.get(UNCONDITIONAL)
    if images is None:
        nothing = velocities[UNCONDITIONAL]
        if guidance.norm == "cfg_zero_star":
            nothing = nothing * _projection(condition, nothing)
        guided = nothing + guidance.cfg * (condition - nothing)
    elif nothing is None:
        guided = images + guidance.cfg * (condition - images)
    else:
        guided = nothing + guidance.cfg * (condition - images) + guidance.img_cfg * (images - nothing)
    return _rescaled(guidance, guided, condition)


def _rescaled(guidance: Guidance, guided: Tensor, condition: Tensor) -> Tensor:
    """Never longer than the unguided velocity: over the whole image, or token by token."""
    if guidance.norm not in ("global", "channel") or max(guidance.cfg, guidance.img_cfg) <= 1:
        return guided
    axes = (-2, -1) if guidance.norm == "global" else -1
    ratio = condition.norm(dim=axes, keepdim=True) / (guided.norm(dim=axes, keepdim=True) + EPSILON)
    return guided * ratio.clamp(max=1)


def _projection(condition: Tensor, nothing: Tensor) -> Tensor:
    """<c, u> / |u|^2 of each image: (batch, 1, 1)."""
    product = (condition * nothing).sum((-2, -1), keepdim=True)
    return product / (nothing.square().sum((-2, -1), keepdim=True) + EPSILON)
