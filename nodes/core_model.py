"""The engine as ComfyUI's core knows models: what its samplers ask, and the times that they take steps at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.model_sampling
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ..sensenova_core.drawing import flow
from ..sensenova_core.engine import Engine
from ..sensenova_core.errors import SettingsError
from ..sensenova_core.settings import SamplingSettings
from .core_conditioning import KEY, BranchCond, branch_of
from .progress import warn

CHANNELS = 3
MOST_STEPS = 10_000


@dataclass(frozen=True)
class Wire:
    """What a MODEL has beside its engine: the LoRAs of the wire that it was made from, and t_eps."""

    loras: tuple[tuple[Path, float], ...]
    t_eps: float


class FlowSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """The model's shift and noise, for ComfyUI's schedulers and samplers; sigma is 1 minus our time.

    The scheduler `simple` takes every so-many-th of a table, so a table that all usual numbers of steps divide gives
    the engine's own times. automatic: whether the noise is as strong as the model wants it at the size that is drawn.
    """

    TABLE = 100_800
    USUAL_TABLE = 1000  # of other models: where the schedulers that do not count in the table end

    def __init__(self, model_config: Any = None):
        super().__init__(model_config)
        self.automatic = True

    @classmethod
    def of(cls, other: Any, before: Any) -> "FlowSampling":
        """Ours with the shift of another node's, in place of `before`; its noise too, if that node has changed it.

        Raises SettingsError for what is no flow matching.
        """
        if isinstance(other, cls):
            return other
        if not isinstance(other, comfy.model_sampling.ModelSamplingDiscreteFlow):
            kind = type(other).__mro__[1].__name__
            raise SettingsError(
                f"this model is sampled by flow matching, and a node would have it sampled by {kind}",
                "take the node out, or use ModelSamplingSD3 for another shift",
            )
        ours = cls()
        ours.set_parameters(shift=other.shift, multiplier=other.multiplier)
        ours.noise_scale = before.noise_scale
        if other.noise_scale != before.noise_scale:
            ours.set_noise_scale(other.noise_scale)
        return ours

    def set_parameters(self, shift: float = 1.0, timesteps: int = TABLE, multiplier: float = 1000) -> None:
        super().set_parameters(shift=shift, timesteps=timesteps, multiplier=multiplier)

    def set_noise_scale(self, noise_scale: float) -> None:
        super().set_noise_scale(noise_scale)
        self.automatic = False

    def fit(self, noise_scale: float) -> None:
        """Make the noise so strong, unless a node of ComfyUI has said otherwise."""
        if self.automatic:
            self.noise_scale = noise_scale

    @property
    def sigma_min(self) -> Tensor:
        return self.sigma(torch.tensor(self.multiplier / self.USUAL_TABLE))


class EngineConfig(comfy.supported_models_base.BASE):
    """What ComfyUI asks of a kind of model: pixels of three channels from -1 to 1 are its latents."""

    latent_format = comfy.latent_formats.HiDreamO1Pixel


class Guesses(nn.Module):
    """The engine where other models have their network."""

    dtype = torch.float32  # of noisy and clean pictures

    def __init__(self, engine: Engine):
        super().__init__()
        self.engine = engine

    def forward(
        self, noisy: Tensor, sigma: Tensor, branches: Sequence[Any], *, wire: Wire, settings: SamplingSettings
    ) -> Tensor:
        with self.engine.alone():
            self.engine.use_loras(wire.loras)
            sequences = [branch.sequence for branch in branches]
            return self.engine.guess(noisy, sigma, sequences=sequences, settings=settings)


class EngineModel(comfy.model_base.BaseModel):
    """An engine for ComfyUI's samplers. Its weights are the engine's, and none of its own parameters."""

    def __init__(self, engine: Engine):
        config = EngineConfig({"disable_unet_model_creation": True})
        super().__init__(config, comfy.model_base.ModelType.FLOW, device=engine.device)
        self.engine = engine
        self.diffusion_model = Guesses(engine)
        self.model_sampling = FlowSampling(config)

    def sampling(self, shift: float, width: int, height: int) -> FlowSampling:
        """For a MODEL: with such a shift, and noise for pictures of that size."""
        sampling = FlowSampling(self.model_config)
        sampling.set_parameters(shift=shift)
        sampling.fit(self._noise_scale(width, height))
        return sampling

    def _noise_scale(self, width: int, height: int) -> float:
        config = self.engine.config
        return flow.noise_scale(config.noise, config.grid(width=width, height=height).tokens)

    def extra_conds(self, **cond: Any) -> dict[str, BranchCond]:
        branch, (*_, height, width) = branch_of(cond, self.engine), cond["noise"].shape
        self.model_sampling.fit(self._noise_scale(width, height))
        if cond.get("prompt_type") == "positive" and cond.get("seed") is not None:
            warning = branch.conditioning.repeated_noise(cond["seed"], (width, height))
            if warning:
                warn(warning)
        return {"branches": BranchCond(branch)}

    def extra_conds_shapes(self, **cond: Any) -> dict[str, list[int]]:
        return {"branches": BranchCond(branch_of(cond, self.engine)).size()}

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Mapping[str, list[list[int]]] = {}) -> int:
        """Bytes beside the weights. input_shape: of two branches' pictures, or of one's.

        Raises SettingsError for a latent that the model cannot draw at.
        """
        settings = self._settings(input_shape)
        tokens = [count for (count,) in cond_shapes.get("branches", [])] or [1]
        rows = math.ceil(input_shape[0] * max(1, len(tokens) / 2))
        settings = SamplingSettings(settings.width, settings.height, batch_size=rows)
        task = self.engine.activations.drawing(settings, {"": sum(tokens)}, unread=True)
        return task.most_activations

    def _settings(self, shape: Sequence[int], **others: Any) -> SamplingSettings:
        """For latents of a shape (images, 3, height, width). Raises SettingsError for any other."""
        if len(shape) != 4 or shape[1] != CHANNELS:
            raise SettingsError(
                f"the latent is of shape {tuple(shape[1:])}, and this model draws pixels: (3, height, width)",
                "connect the latent of To ComfyUI, or encode an image with its vae",
            )
        settings = SamplingSettings(width=shape[3], height=shape[2], **others)
        side = self.engine.config.token_pixels
        for name, value in (("width", settings.width), ("height", settings.height)):
            if value % side:
                raise SettingsError(
                    f"the latent's {name} is {value} pixels, and this model draws multiples of {side}",
                    "scale or crop the image before it is encoded",
                )
        return settings

    def _apply_model(self, x: Tensor, t: Tensor, *others: Any, **conds: Any) -> Tensor:
        """Clean pictures. t: the sigmas. others: what models take as well, and last ComfyUI's options of the run."""
        branches, options = conds["branches"], others[-1]
        wire, steps = options[KEY], len(options.get("sample_sigmas", ())) - 1
        settings = self._settings(
            x.shape, t_eps=wire.t_eps, steps=min(max(1, steps), MOST_STEPS), batch_size=len(x) // len(branches)
        )
        if not self.engine.memory.residency.placed:  # given up since the run began: ComfyUI no longer knows of it
            mm.load_models_gpu([self.current_patcher], memory_required=self.memory_required(x.shape))
        guesses = self.diffusion_model(x.float(), t.float().expand(len(x)), branches, wire=wire, settings=settings)
        return guesses.to(x.device)

    def get_dtype(self) -> torch.dtype:
        return self.diffusion_model.dtype
