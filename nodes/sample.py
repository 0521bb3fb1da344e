"""Sizes, and the sampler."""

from comfy_api.latest import io

from ..sensenova_core.flow import CFG_NORMS, Guidance
from ..sensenova_core.sampling import MAX_SEED, SamplingSettings
from ..sensenova_core.sizes import TRAINED_SIZES, TRAINED_SIZES_U15
from . import host
from .sockets import CATEGORY, Conditioning, Model

CUSTOM = "custom"
MAX_SIDE = 8192


def _side(name: str) -> io.Int.Input:
    return io.Int.Input(
        name,
        default=2048,
        min=32,
        max=MAX_SIDE,
        step=32,
        tooltip=f"{name.capitalize()} in pixels, a multiple of 32. The models were trained at the sizes that the "
        "Resolution node lists; others work, with weaker pictures.",
    )


class Resolution(io.ComfyNode):
    SIZES = TRAINED_SIZES | TRAINED_SIZES_U15

    @classmethod
    def define_schema(cls) -> io.Schema:
        trained = [io.DynamicCombo.Option(label, []) for label in cls.SIZES]
        return io.Schema(
            node_id="SenseNovaCoreResolution",
            display_name="SenseNova U1 Resolution",
            category=CATEGORY,
            description="Width and height that the models were trained at, by ratio, or a size of your own.",
            search_aliases=["size", "aspect ratio"],
            inputs=[
                io.DynamicCombo.Input(
                    "size",
                    options=[*trained, io.DynamicCombo.Option(CUSTOM, [_side("width"), _side("height")])],
                    tooltip="Ratio and width x height in pixels. custom: any multiples of 32, outside training.",
                )
            ],
            outputs=[io.Int.Output(display_name="width"), io.Int.Output(display_name="height")],
        )

    @classmethod
    def execute(cls, size) -> io.NodeOutput:
        label = size["size"]
        if label == CUSTOM:
            return io.NodeOutput(size["width"], size["height"])
        if label not in cls.SIZES:
            raise ValueError(f"size {label!r} is unknown; choose {CUSTOM} or one of: {', '.join(cls.SIZES)}")
        return io.NodeOutput(*cls.SIZES[label])


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
                Conditioning.Input("conditioning", tooltip="From Text Encode."),
                _side("width"),
                _side("height"),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="50 for the full models, 8 for the distilled ones."
                ),
                _guidance_scale(
                    "cfg",
                    4.0,
                    "Guidance by the prompt. 4 for the full models; 1 is off, twice as fast, and "
                    "what the distilled 8-step models need.",
                ),
                _guidance_scale(
                    "img_cfg",
                    1.0,
                    "Guidance by reference images, 1 is off. Only an edit has any; it does "
                    "nothing when drawing from text alone.",
                ),
                io.Combo.Input(
                    "cfg_norm",
                    options=list(CFG_NORMS),
                    default="none",
                    tooltip="Tames strong guidance. global: never longer than the unguided step, over the whole image; "
                    "channel: the same token by token; cfg_zero_star: rescales the unconditional branch, skips step 1 "
                    "(text to image only).",
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
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Images drawn at once; the prompt is read once for all.",
                ),
                io.Float.Input(
                    "t_eps",
                    default=0.02,
                    min=0.0001,
                    max=1.0,
                    step=0.001,
                    round=0.0001,
                    advanced=True,
                    tooltip="Smallest distance to the end that a velocity is divided by.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(
        cls,
        model,
        conditioning,
        width,
        height,
        steps,
        cfg,
        img_cfg,
        cfg_norm,
        cfg_start,
        cfg_end,
        shift,
        seed,
        batch_size,
        t_eps=0.02,
    ) -> io.NodeOutput:
        guidance = Guidance(cfg, img_cfg, cfg_norm, (cfg_start, cfg_end))
        settings = SamplingSettings(width, height, steps, guidance, shift, t_eps, seed, batch_size)
        steps_to_take = model.engine.denoise(conditioning, settings)
        progress = host.Progress(steps)
        progress.report(0)
        model.make_ready(model.engine.working_bytes(conditioning, settings))
        for step in steps_to_take:
            progress.report(step.index + 1, step.image() if progress.previews else None)
        return io.NodeOutput(host.to_wire(step.image()))


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
        tooltip=f"The {which} time with guidance, after the shift; 0 is noise, 1 the finished image. 0.7 to 1 saves "
        "about a third of the time at little loss.",
    )
