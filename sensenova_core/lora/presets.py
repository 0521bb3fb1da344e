"""Settings that a distilled LoRA needs, and whether it was made for the model at hand: by what it says of itself.

Neither is certain, for such files have no standard: a LoRA's metadata and its file name are read for words. A preset is
offered and a wrong base warned of; nothing is refused for it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..hub.family import PIXEL_HEADS, version_in
from ..model.config import ModelConfig
from . import Lora

_EIGHT_STEPS = re.compile(r"(?<!\d)8[\s_-]?steps?(?:(?![a-z])|(?=v\d))", re.IGNORECASE)  # "8stepV2" too
_INFOGRAPHIC = re.compile("infographic", re.IGNORECASE)
# Metadata that name the model that a LoRA was made for, and those that name it itself.
_BASES = (
    "base_model",
    "base_model_name_or_path",
    "ss_base_model_version",
    "ss_sd_model_name",
    "modelspec.architecture",
)
_NAMES = ("modelspec.title", "ss_output_name", "name")


@dataclass(frozen=True)
class Preset:
    """How a distilled LoRA is to be sampled. known_by: where it says so."""

    steps: int
    cfg: float
    shift: float
    known_by: str

    def __str__(self) -> str:
        return f"{self.steps} steps, cfg {self.cfg:g}, shift {self.shift:g} ({self.known_by})"


def preset_of(loras: Iterable[tuple[Lora, float]]) -> Preset | None:
    """That of the first LoRA that calls itself one of 8 steps, of those whose strengths add up to more than 0."""
    strengths: dict[Path, float] = {}
    found: dict[Path, Lora] = {}
    for lora, strength in loras:
        strengths[lora.path] = strengths.get(lora.path, 0.0) + strength
        found[lora.path] = lora
    for lora in (lora for path, lora in found.items() if strengths[path] > 0):
        for known_by, text in _told(lora, (*_NAMES, *_BASES)):
            if _EIGHT_STEPS.search(text):
                return Preset(steps=8, cfg=1.0, shift=3.0, known_by=f"8 steps by {known_by}")
    return None


def mismatch(lora: Lora, config: ModelConfig, model: str) -> str | None:
    """What speaks against this LoRA on this model, in words: None for nothing. model: its name.

    Heads tell U1 (linear) from U1.5 and U1.6 (pixel). Those two, and infographic models, are told from others by names
    alone: where the model's says nothing, there is nothing to warn of.
    """
    for known_by, text in _told(lora, _BASES):
        if (made := version_in(text)) is None:
            continue
        named = version_in(model)
        head, kind = PIXEL_HEADS.get(made, config.pixel_head), "pixel" if config.pixel_head else "linear"
        infographic = _INFOGRAPHIC.search(text) is not None
        if head != config.pixel_head:
            alike = [version for version, pixel in PIXEL_HEADS.items() if pixel == config.pixel_head]
            but = f"this model has a {kind} head, as {' and '.join(alike)} {'do' if len(alike) > 1 else 'does'}"
        elif named and named != made and PIXEL_HEADS.get(named, config.pixel_head) == config.pixel_head:
            but = f"this model is called {model}"
        elif infographic != (_INFOGRAPHIC.search(model) is not None) and named:
            made = f"{made}-Infographic" if infographic else f"{made}, not its infographic version"
            but = f"this model is called {model}"
        else:
            return None
        return f"{lora.path.name} seems to be made for {made} (by {known_by}), and {but}; pictures may come out wrong"
    return None


def _told(lora: Lora, names: Iterable[str]) -> Iterable[tuple[str, str]]:
    """(where, text) of these metadata, and at last of the file's name."""
    yield from ((f"its metadata's {name}", lora.metadata[name]) for name in names if name in lora.metadata)
    yield "its file name", lora.path.name
