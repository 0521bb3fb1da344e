"""The types on this pack's own wires, and inputs and outputs that several nodes have.

Types match by name across all packs, hence the prefix; `Type` is what their values are.
"""

from dataclasses import dataclass

from comfy_api.latest import io
from PIL import Image

from ..sensenova_core.lora import presets
from ..sensenova_core.reading import prompt
from ..sensenova_core.report import pages
from . import loaded

CATEGORY = "SenseNova U1"


@dataclass(frozen=True)
class References:
    """Images for the model to read, each at its own size. max_pixels: the budget of each, None for the model's own."""

    images: tuple[Image.Image, ...] = ()
    max_pixels: int | None = None


@dataclass(frozen=True)
class Chat:
    """A conversation so far: its messages, the images that its <image> stand for, and the budget of each image."""

    messages: tuple[prompt.Message, ...] = ()
    images: tuple[Image.Image, ...] = ()
    max_pixels: tuple[int | None, ...] = ()


@io.comfytype(io_type="SENSENOVA_CORE_MODEL")
class Model(io.ComfyTypeIO):
    Type = loaded.LoadedEngine


@io.comfytype(io_type="SENSENOVA_CORE_CONDITIONING")
class Conditioning(io.ComfyTypeIO):
    Type = prompt.Conditioning


@io.comfytype(io_type="SENSENOVA_CORE_IMAGES")
class Images(io.ComfyTypeIO):
    Type = References


@io.comfytype(io_type="SENSENOVA_CORE_HISTORY")
class History(io.ComfyTypeIO):
    Type = Chat


@io.comfytype(io_type="SENSENOVA_CORE_PRESET")
class Preset(io.ComfyTypeIO):
    Type = presets.Preset  # or None, after a LoRA that asks for nothing


@io.comfytype(io_type="SENSENOVA_CORE_DOCUMENT")
class Document(io.ComfyTypeIO):
    Type = pages.Document


def preset_input() -> io.Input:
    return Preset.Input(
        "preset",
        optional=True,
        tooltip="From LoRA: steps, cfg and shift as a distilled LoRA needs them, in place of this node's own. Nothing "
        "changes after a LoRA that asks for none.",
    )


def profile_outputs() -> list[io.Output]:
    """What a `Run` reports."""
    words = io.String.Output(
        display_name="profile",
        tooltip="Times, peaks of memory, where the time went, and the plan of where weights were. For Preview as Text.",
    )
    picture = io.Image.Output(
        display_name="profile picture",
        tooltip="The same as bars: where the time went, and what lay where. For Preview Image.",
    )
    return [words, picture]
