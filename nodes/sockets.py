"""The types on this pack's own wires. They match by name across all packs, hence the prefix."""

from dataclasses import dataclass

from comfy_api.latest import io
from PIL import Image

from ..sensenova_core.reading.prompt import Message

Model = io.Custom("SENSENOVA_CORE_MODEL")  # a runtime.LoadedEngine
Conditioning = io.Custom("SENSENOVA_CORE_CONDITIONING")  # a sensenova_core.Conditioning
Images = io.Custom("SENSENOVA_CORE_IMAGES")  # a References
History = io.Custom("SENSENOVA_CORE_HISTORY")  # a Chat
Preset = io.Custom("SENSENOVA_CORE_PRESET")  # a sensenova_core.lora.presets.Preset, or None
Document = io.Custom("SENSENOVA_CORE_DOCUMENT")  # a sensenova_core.report.pages.Document

CATEGORY = "SenseNova U1"


def preset_input() -> io.Input:
    return Preset.Input(
        "preset",
        optional=True,
        tooltip="From LoRA: steps, cfg and shift as a distilled LoRA needs them, in place of this node's own. Nothing "
        "changes after a LoRA that asks for none.",
    )


def profile_output() -> io.String.Output:
    return io.String.Output(
        display_name="profile",
        tooltip="Times, peaks of memory, where the time went, and the plan of where weights were. For Preview as Text.",
    )


@dataclass(frozen=True)
class References:
    """Images for the model to read, each at its own size. max_pixels: the budget of each, None for the model's own."""

    images: tuple[Image.Image, ...] = ()
    max_pixels: int | None = None


@dataclass(frozen=True)
class Chat:
    """A conversation so far: its messages, the images that its <image> stand for, and the budget of each image."""

    messages: tuple[Message, ...] = ()
    images: tuple[Image.Image, ...] = ()
    max_pixels: tuple[int | None, ...] = ()
