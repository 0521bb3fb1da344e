"""The sampler."""

from comfy_api.latest import io

from ..sensenova_core.lora.presets import Preset
from ..sensenova_core.settings import CFG_NORMS, MAX_SEED, Guidance, SamplingSettings
from . import runtime
from .size import side_input, size_or_best
from .sockets import CATEGORY, Conditioning, Model, preset_input, profile_output


def sampling_inputs(norms: tuple[str, ...] = CFG_NORMS) -> list[io.Input]:
    """The widgets that decide how pictures are drawn, whatever they are drawn from."""
    return [
        io.Int.Input("steps", default=50, min=1, max=1000, tooltip="50 for the full models, 8 for the distilled ones."),
        _guidance_scale(
            "cfg",
            4.0,
            "Guidance by the prompt. 4 for the full models; 1 is off, half the work, and what the distilled 8-step "
            "models need.",
        ),
        _guidance_scale(
            "img_cfg",
            1.0,
            "Guidance by images. 1 is off; equal to cfg: ordinary guidance against nothing at all; else both are "
            "weighed separately, at three passes' cost. Does nothing where a picture is drawn from text alone.",
        ),
        io.Combo.Input(
            "cfg_norm",
            options=list(norms),
            default="none",
            tooltip="Tames strong guidance. global: never longer than the unguided step, over the whole image; "
            "channel: the same token by token; cfg_zero_star: rescales the unconditional branch, skips step 1 (text to "
            "image only).",
        ),
        _interval_end("cfg_start", 0.0, "first"),
        _interval_end("cfg_end", 1.0, "last"),
        io.Float.Input(
            "shift",
            default=3.0,
            min=0.01,
            max=100.0,
            step=0.1,
            tooltip="Over 1 spends more steps near the noise, where the composition is decided. 3 as trained.",
        ),
        io.Int.Input(
            "seed",
            default=42,
            min=0,
            max=MAX_SEED,
            control_after_generate=True,
            tooltip="The noise to start from; the same seed draws the same picture on every device.",
        ),
    ]


def preset_or(preset: Preset | None, steps: int, cfg: float, shift: float) -> tuple[int, float, float]:
    """Those of a preset, which the node then says, or the widgets'."""
    if preset is None:
        return steps, cfg, shift
    runtime.show_text(f"Preset: {preset}")
    return preset.steps, preset.cfg, preset.shift


def time_floor_input() -> io.Float.Input:
    return io.Float.Input(
        "t_eps",
        default=0.02,
        min=0.0001,
        max=1.0,
        step=0.001,
        round=0.0001,
        advanced=True,
        tooltip="Smallest distance to the end that a velocity is divided by.",
    )


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
                side_input("width", automatic=True),
                side_input("height", automatic=True),
                *sampling_inputs(),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Images drawn at once; the prompt is read once for all.",
                ),
                time_floor_input(),
                io.Boolean.Input(
                    "crop",
                    default=False,
                    advanced=True,
                    tooltip="Allow any size: draw at the next multiples of 32 and cut back, as for 3840 x 2160 or an "
                    "edit at exactly its image's size.",
                ),
                preset_input(),
            ],
            outputs=[io.Image.Output(display_name="image"), profile_output()],
        )

    @classmethod
    def execute(
        cls, model, conditioning, width, height, steps, cfg, img_cfg, cfg_norm, cfg_start, cfg_end, shift, seed,
        batch_size, t_eps=0.02, crop=False, preset=None,
    ) -> io.NodeOutput:  # fmt: skip
        steps, cfg, shift = preset_or(preset, steps, cfg, shift)
        edited = conditioning.images[0].original if conditioning.images else None
        width, height = size_or_best(model, width, height, edited)
        guidance = Guidance(cfg, img_cfg, cfg_norm, (cfg_start, cfg_end))
        settings = SamplingSettings(width, height, steps, guidance, shift, t_eps, seed, batch_size, crop)
        steps_to_take = model.engine.denoise(conditioning, settings)
        if warning := conditioning.repeated_noise(seed, (width, height)):
            runtime.warn(warning)
        progress = runtime.Progress(steps)
        progress.report(0)
        profile = model.make_ready(model.engine.drawing_task(conditioning, settings))
        with profile.generating(model.engine):
            for step in steps_to_take:
                progress.report(step.index + 1, step.image() if progress.previews else None)
                profile.tick()
            image = runtime.to_wire(step.image())
        profile.drew(batch_size, step.grid.tokens)
        return io.NodeOutput(image, profile.summary(model.engine))


def _guidance_scale(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


def _interval_end(name: str, default: float, which: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        advanced=True,
        tooltip=f"The {which} time with guidance, after the shift; 0 is noise, 1 the finished image. Steps outside "
        "need only one pass.",
    )
