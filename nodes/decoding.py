"""How text is chosen, token by token: widgets that Think, Understand and Interleave share."""

from typing import Any

from comfy_api.latest import io

from ..sensenova_core.errors import SettingsError
from ..sensenova_core.settings import DecodingSettings
from . import widgets

GREEDY, SAMPLE = "greedy", "sample"
TEXT_SEED = "text_seed"  # in a node that draws as well, `seed` is the noise's


def decoding_input() -> io.DynamicCombo.Input:
    names = ("temperature", "top_k", "top_p", "seed")
    sampled = widgets.inputs(DecodingSettings, names, seed={"name": TEXT_SEED})
    return io.DynamicCombo.Input(
        "decoding",
        options=[io.DynamicCombo.Option(GREEDY, []), io.DynamicCombo.Option(SAMPLE, sampled)],
        tooltip="greedy: always the likeliest token, the same text every time. sample: varied text, by a seed.",
    )


def decoding_settings(decoding: dict[str, Any] | None, **other: Any) -> DecodingSettings:
    """The value of `decoding_input` and of its neighbours as settings."""
    if decoding is None:  # ComfyUI leaves an unknown choice out
        raise SettingsError(setting="decoding", problem="is not among the choices", remedy=f"take {GREEDY} or {SAMPLE}")
    sampled = dict(decoding)
    sample = sampled.pop("decoding") == SAMPLE
    if TEXT_SEED in sampled:
        sampled["seed"] = sampled.pop(TEXT_SEED)
    with widgets.called(seed=TEXT_SEED):
        return DecodingSettings(sample=sample, **sampled, **other)
