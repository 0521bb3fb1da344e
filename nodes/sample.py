"""The sampler."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sensenova_core.drawing import flow
from ..sensenova_core.settings import SamplingSettings
from . import widgets
from .canvas import Begun
from .door import checked
from .pictures import to_wire
from .progress import DrawingProgress, note, show, warn
from .size import side_inputs, size_or_best
from .sockets import CATEGORY, Conditioning, Model, Preset, preset_input, profile_outputs
from .solver import solver_of

# In the order that saved workflows have their values in; settings that are new follow them.
DRAWING = ("steps", "cfg", "img_cfg", "cfg_norm", "cfg_start", "cfg_end", "shift", "seed")
SAMPLING = (*DRAWING, "batch_size", "t_eps", "crop")
LATER = ("denoise", "feather")  # which older workflows do not have
INTERVAL = {"cfg_interval": "cfg_start and cfg_end"}


def sampling_settings(preset: Preset.Type | None, **given: Any) -> SamplingSettings:
    """From the values of widgets by their names; those of a preset, which the node then says, come first."""
    if preset is not None:
        note(f"Preset: {preset}")
        given |= {"steps": preset.steps, "cfg": preset.cfg, "shift": preset.shift}
    return SamplingSettings.of(**widgets.values(SamplingSettings, given))


class FlowMatchSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreFlowMatchSampler",
            display_name="SenseNova U1 Flow-Match Sampler",
            category=CATEGORY,
            description="Draws images in pixel space by flow matching: no VAE, no latents. Shows the model's current "
            "guess at every step, and stops within one step when cancelled. With init_image it begins from a picture; "
            "with a mask it paints within, and every pixel outside stays exactly as it was.",
            search_aliases=["ksampler", "generate", "inpaint", "outpaint", "image to image", "img2img"],
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                Conditioning.Input("conditioning", tooltip="From Text Encode or Think."),
                *side_inputs(automatic=True),
                *widgets.inputs(SamplingSettings, SAMPLING),
                *widgets.inputs(SamplingSettings, LATER, **{name: {"optional": True} for name in LATER}),
                *widgets.further_inputs(SamplingSettings, ("width", "height", *SAMPLING, *LATER)),
                preset_input(),
                *_further_sockets(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="What was drawn, as a batch."),
                *profile_outputs(),
            ],
        )

    @classmethod
    @checked
    @widgets.called(**INTERVAL)
    def execute(
        cls, *, model: Model.Type, conditioning: Conditioning.Type, width: int, height: int,
        preset: Preset.Type | None = None, init_image: Tensor | None = None, mask: Tensor | None = None,
        sigmas: Tensor | None = None, sampler: Any = None, batch_size: int = 1, crop: bool = False, **drawing: Any,
    ) -> io.NodeOutput:  # fmt: skip
        begun = Begun(init_image, mask)
        if begun.size and (width, height) == (0, 0):
            (width, height), crop = begun.size, True
        edited = conditioning.images[0].original if conditioning.images else None
        width, height = size_or_best(model, (width, height), image=edited)
        settings = sampling_settings(
            preset, width=width, height=height, batch_size=begun.batch(batch_size), crop=crop, **drawing
        )
        canvas, times = begun.canvas(width, height), None if sigmas is None else flow.times_from(sigmas)
        solver = None if sampler is None else solver_of(sampler, settings)
        steps = model.sample(conditioning, settings, canvas=canvas, times=times, solver=solver)
        begun.tell(settings.denoise if times is None else 0)
        if warning := conditioning.repeated_noise(settings.seed, (width, height)):
            warn(warning)
        progress = DrawingProgress(settings.steps if times is None else len(times) - 1)
        for step in steps:
            progress.drew(step)
        show(status=steps.profile.in_one_line())
        return io.NodeOutput(to_wire(steps.last.image()), *steps.report())


def _further_sockets() -> list[io.Input]:
    """What the sampler can begin from, and what of ComfyUI's own can stand in its place."""
    return [
        io.Image.Input(
            "init_image",
            optional=True,
            tooltip="A picture to begin from: to draw it again in part (denoise under 1), or within a mask. With width "
            "and height 0 its own size is drawn, whatever it is; with others it is scaled to them. A batch is drawn "
            "as a batch.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="What of init_image is drawn anew: white (1). Where it is black (0) every pixel stays exactly as "
            "it was. From Load Image's mask editor, or of Pad Image for Outpainting.",
        ),
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="A schedule of ComfyUI's own, 1 (noise) to 0, in place of steps, shift and denoise. One that "
            "begins under 1 needs init_image.",
        ),
        io.Sampler.Input(
            "sampler",
            optional=True,
            tooltip="Who takes the steps, such as KSamplerSelect's heun or dpmpp_2m, in place of Euler's method. Some "
            "ask the model more than once a step. Those with cfg_pp in their names do not work.",
        ),
    ]
