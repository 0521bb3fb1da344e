"""Flow matching in pixel space: times, noise scale, guidance, norms. Pure functions on tensors, all in float32.

t runs from 0 (noise) to 1 (image). Velocities and z are tokens: (batch, tokens, values of a token).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import SettingsError, quoted
from ..model.config import NoiseConfig
from ..settings import CONDITION, IMAGES_ONLY, UNCONDITIONAL, Guidance, SamplingSettings

ROUNDING = 1e-6  # of float32 times, so that a step exactly on an interval's end counts as inside
EPSILON = 1e-8  # keeps the ratios of norms finite
MOST_STEPS = 1e12  # of a whole way of which the last part is drawn; float32 does not tell more apart
SIGMAS_WANTED = (
    "connect a falling schedule of a flow model, from at most 1 down to 0, such as Basic Scheduler's for the model of "
    "To ComfyUI"
)


def schedule(steps: int, shift: float, denoise: float = 1.0) -> Tensor:
    """`steps` + 1 times up to 1, float32; a shift over 1 spends more steps near the noise.

    denoise: 1 begins at 0. Less begins later, at the last `steps` of the steps / denoise that the whole way would
    have, as ComfyUI's KSampler does.
    """
    if denoise == 1:
        sigma = 1 - torch.linspace(0, 1, steps + 1, dtype=torch.float32, device="cpu")
    else:
        whole = min(steps / denoise, MOST_STEPS) // 1
        left = torch.arange(steps, -1, -1, dtype=torch.float64, device="cpu")
        sigma = (left / whole).float()
    return 1 - shift * sigma / (1 + (shift - 1) * sigma)


def times_from(sigmas: Sequence[float] | Tensor) -> Tensor:
    """Times of a schedule of ComfyUI's for flow models, whose sigmas run from 1 (noise) to 0.

    Raises SettingsError for what is none.
    """
    try:
        sigma = torch.as_tensor(sigmas).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise SettingsError(f"sigmas is {quoted(sigmas)}", SIGMAS_WANTED) from None
    if sigma.ndim != 1 or len(sigma) < 2:
        found = "empty" if not sigma.numel() else f"of shape {tuple(sigma.shape)}"
        raise SettingsError(f"sigmas is {found}, which makes no step", SIGMAS_WANTED)
    if not ((sigma >= 0) & (sigma <= 1)).all():
        wrong = next(value for value in sigma.tolist() if not 0 <= value <= 1)
        raise SettingsError(f"sigmas has {wrong:.6g}, which is outside 0 to 1", SIGMAS_WANTED)
    for index, (before, after) in enumerate(pairwise(sigma.tolist())):
        if after >= before:
            raise SettingsError(f"sigmas goes from {before:.6g} to {after:.6g} at step {index + 1}", SIGMAS_WANTED)
    if sigma[-1] > 0:
        raise SettingsError(f"sigmas ends at {float(sigma[-1]):.6g}, where noise is left", SIGMAS_WANTED)
    return 1 - sigma


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


def branches_needed(
    settings: SamplingSettings, *, edit: bool, times: Tensor | None = None, between: bool = False
) -> tuple[str, ...]:
    """The branches that some step needs, the full condition first.

    times: of the steps, unless they are the settings' own. between: whether velocities are asked for between them too.
    """
    times = schedule(settings.steps, settings.shift, settings.denoise) if times is None else times
    asked = times[:-1].tolist()
    if between:
        asked += [end for end in settings.guidance.interval if asked[0] <= end <= 1]
    return max((branches(settings.guidance, edit=edit, t=t) for t in asked), key=len)


def skips(guidance: Guidance, *, edit: bool, step: int, t: float) -> bool:
    """Whether a step stands still: cfg_zero_star takes a zero velocity at a guided step 0 out of pure noise."""
    first = step == 0 and t == 0
    return guidance.norm == "cfg_zero_star" and first and len(branches(guidance, edit=edit, t=t)) > 1


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
