"""The sampler."""

from typing import Any

from comfy_api.latest import io

from ..sensenova_core.settings import SamplingSettings
from . import widgets
from .door import checked
from .pictures import to_wire
from .progress import Progress, show_text, warn
from .size import side_inputs, size_or_best
from .sockets import CATEGORY, Conditioning, Model, Preset, preset_input, profile_output

# In the order that saved workflows have their values in; settings that are new follow them.
DRAWING = ("steps", "cfg", "img_cfg", "cfg_norm", "cfg_start", "cfg_end", "shift", "seed")
SAMPLING = (*DRAWING, "batch_size", "t_eps", "crop")
INTERVAL = {"cfg_interval": "cfg_start and cfg_end"}


def sampling_settings(preset: Preset.Type | None, **given: Any) -> SamplingSettings:
    """From the values of widgets by their names; those of a preset, which the node then says, come first."""
    if preset is not None:
        show_text(f"Preset: {preset}")
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
            "guess at every step, and stops within one step when cancelled.",
            search_aliases=["ksampler", "generate"],
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                Conditioning.Input("conditioning", tooltip="From Text Encode or Think."),
                *side_inputs(automatic=True),
                *widgets.inputs(SamplingSettings, SAMPLING),
                *widgets.further_inputs(SamplingSettings, ("width", "height", *SAMPLING)),
                preset_input(),
            ],
            outputs=[io.Image.Output(display_name="image"), profile_output()],
        )

    @classmethod
    @checked
    @widgets.called(**INTERVAL)
    def execute(
        cls, *, model: Model.Type, conditioning: Conditioning.Type, width: int, height: int,
        preset: Preset.Type | None = None, **drawing: Any,
    ) -> io.NodeOutput:  # fmt: skip
        edited = conditioning.images[0].original if conditioning.images else None
        width, height = size_or_best(model, (width, height), image=edited)
        settings = sampling_settings(preset, width=width, height=height, **drawing)
        steps = model.sample(conditioning, settings)
        if warning := conditioning.repeated_noise(settings.seed, (width, height)):
            warn(warning)
        progress = Progress(settings.steps)
        progress.report(0)
        for step in steps:
            progress.report(step.index + 1, step.image() if progress.previews else None)
        return io.NodeOutput(to_wire(steps.last.image()), steps.summary())
