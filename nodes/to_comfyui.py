"""Model and conditioning for ComfyUI's own samplers."""

import comfy.model_management as mm
import comfy.sd
import torch
from comfy_api.latest import io

from ..sensenova_core.errors import check_choice
from ..sensenova_core.settings import CONDITION, IMAGES_ONLY, UNCONDITIONAL, SamplingSettings
from . import widgets
from .core_conditioning import Branch, to_core
from .core_model import CHANNELS
from .door import checked
from .size import side_inputs, size_or_best
from .sockets import CATEGORY, Conditioning, Model

AGAINST = {"images only": IMAGES_ONLY, "nothing": UNCONDITIONAL}
SETTINGS = ("batch_size", "shift", "t_eps")
LEVELS = 255
NEXT_TO_A_LEVEL = 1e-3  # of the distance of two levels; rounding is up to a tenth of it
SHIFT_HELP = (
    "KSampler's scheduler simple then takes the times that Flow-Match Sampler takes. Over 1 spends more steps near the "
    "noise. 3 as trained. ComfyUI's ModelSamplingSD3 changes it as well."
)


class ToComfyUI(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreToComfyUI",
            display_name="SenseNova U1 To ComfyUI",
            category=CATEGORY,
            description="Model and conditioning for ComfyUI's own samplers: KSampler, SamplerCustomAdvanced, any "
            "sampler and scheduler, denoise, noise masks, differential diffusion. Edits and thoughts work as well. "
            "Sampler euler with scheduler simple draws what Flow-Match Sampler draws.",
            search_aliases=["ksampler", "sampler", "latent", "inpaint", "img2img"],
            inputs=[
                Model.Input("model", tooltip="From the Loader or LoRA. Its LoRAs are in use at every step."),
                Conditioning.Input("conditioning", tooltip="From Text Encode or Think."),
                *side_inputs(automatic=True),
                io.Combo.Input(
                    "negative",
                    options=list(AGAINST),
                    default=next(iter(AGAINST)),
                    tooltip="What an edit's negative is, which guidance compares with. images only: the references "
                    "without the instruction, as Flow-Match Sampler does at img_cfg 1. nothing: neither, as at img_cfg "
                    "equal to cfg. Without references it is nothing in either case.",
                ),
                *widgets.inputs(SamplingSettings, SETTINGS, shift={"tooltip": SHIFT_HELP}),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="For KSampler, guiders and schedulers, and nodes that change how a model is sampled. "
                    "ComfyUI's own LoRA nodes cannot change it: use SenseNova U1 LoRA before this node.",
                ),
                io.Conditioning.Output(
                    display_name="positive", tooltip="The whole prompt, with references and reasoning."
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="What guidance compares with, as negative above says."
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Empty, at this node's size. For another picture encode one with vae, at any multiples of "
                    "32.",
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="ComfyUI's pixel-space VAE in float32, which loses nothing: for VAE Decode after a "
                    "sampler, and VAE Encode before one.",
                ),
                io.Conditioning.Output(
                    display_name="images only",
                    tooltip="The references alone. For Dual CFG Guider: positive is cond1, this cond2, and negative "
                    "the negative, set to nothing; cfg_conds is our cfg, cfg_cond2_negative our img_cfg.",
                ),
            ],
        )

    @classmethod
    @checked
    @widgets.called(crop=None)
    def execute(
        cls, *, model: Model.Type, conditioning: Conditioning.Type, width: int, height: int, negative: str,
        batch_size: int, shift: float, t_eps: float,
    ) -> io.NodeOutput:  # fmt: skip
        check_choice("negative", negative, tuple(AGAINST))
        edited = conditioning.images[0].original if conditioning.images else None
        width, height = size_or_best(model, (width, height), image=edited)
        settings = SamplingSettings(width, height, batch_size=batch_size, shift=shift, t_eps=t_eps)
        settings.check_size(model.engine.config.token_pixels)
        positive, images_only = (
            to_core(Branch(conditioning, name, model.engine.name)) for name in (CONDITION, IMAGES_ONLY)
        )
        compared = to_core(Branch(conditioning, AGAINST[negative], model.engine.name))
        pixels = torch.zeros(batch_size, CHANNELS, height, width, device=mm.intermediate_device())
        core_model = model.as_core_model(settings)
        return io.NodeOutput(core_model, positive, compared, {"samples": pixels}, _pixel_vae(), images_only)


def _pixel_vae() -> comfy.sd.VAE:
    """ComfyUI's own, of which every level of an 8-bit image comes back as it was."""
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
    vae.process_output = _from_latent
    return vae


def _from_latent(pixels: torch.Tensor) -> torch.Tensor:
    """From -1..1 to 0..1, in place, as ComfyUI's VAE does.

    The way to a latent and back rounds, and Save Image cuts fractions off: a level that came back a ten-millionth too
    small would be saved as the one below. So what is next to a level of 8 bits becomes that level.
    """
    pixels.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    levels = pixels.mul(LEVELS).round_()
    beside = (pixels * LEVELS - levels).abs_() < NEXT_TO_A_LEVEL
    return pixels.copy_(torch.where(beside, levels.div_(LEVELS), pixels))
