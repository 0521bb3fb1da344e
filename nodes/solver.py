"""A SAMPLER of ComfyUI's as a solver of the engine's."""

from types import SimpleNamespace
from typing import Any

import comfy.model_sampling
from torch import Tensor

from ..sensenova_core.drawing.solving import Ask, Course, Guess, Look, Solver
from ..sensenova_core.errors import SettingsError, quoted
from ..sensenova_core.settings import MAX_SEED, SamplingSettings


class _Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """What samplers ask of a model of straight paths: its schedule, and how strong the noise is that they add."""

    def __init__(self, shift: float, noise_scale: float):
        super().__init__()
        self.set_parameters(shift=shift)
        self.noise_scale = noise_scale


class _Model:
    """What samplers call, and look into."""

    def __init__(self, ask: Ask, flow: _Flow):
        self.ask = ask
        patcher = SimpleNamespace(get_model_object=lambda name: flow)
        self.inner_model = SimpleNamespace(model_patcher=patcher, inner_model=SimpleNamespace(model_sampling=flow))

    def __call__(self, z: Tensor, sigma: Tensor, *, model_options: dict[str, Any], **_: Any) -> Tensor:
        """sigma: of each picture of the batch, the same for all."""
        if model_options:
            raise SettingsError(
                "sampler looks into guidance, which is within the model here",
                "choose one without cfg_pp in its name, such as euler, heun, dpmpp_2m or er_sde",
            )
        return self.ask(Guess(z, _time(sigma)))


def solver_of(sampler: object, settings: SamplingSettings) -> Solver:
    """Raises SettingsError for what is no SAMPLER that takes its steps by a function, as KSamplerSelect's do."""
    function: Any = getattr(sampler, "sampler_function", None)
    if not callable(function):
        raise SettingsError(f"sampler is {quoted(sampler)}", "connect a SAMPLER, such as that of KSamplerSelect")
    options = getattr(sampler, "extra_options", {})

    def solve(ask: Ask, z: Tensor, course: Course) -> Tensor:
        def look(at: dict[str, Any]) -> None:
            step = int(at["i"])
            t = _time(at["sigma"]) if "sigma" in at else float(course.times[min(step, len(course.times) - 1)])
            ask(Look(step, at["x"], at["denoised"], t))

        # Samplers may change both, and add 1 to the seed.
        arguments = {"model_options": {}, "seed": min(settings.seed, MAX_SEED - 1)}
        model, sigmas = _Model(ask, _Flow(settings.shift, course.noise_scale)), (1 - course.times).to(z.device)
        made: Any = function(model, z, sigmas, extra_args=arguments, callback=look, disable=True, **options)
        return made

    return solve


def _time(sigma: Tensor | float) -> float:
    first = sigma.flatten()[0] if isinstance(sigma, Tensor) else sigma
    return min(1.0, max(0.0, 1 - float(first)))
