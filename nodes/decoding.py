"""How text is chosen, token by token: widgets that Think, Understand and Interleave share."""

from comfy_api.latest import io

from ..sensenova_core.settings import MAX_SEED, DecodingSettings

GREEDY, SAMPLE = "greedy", "sample"


def decoding_input() -> io.DynamicCombo.Input:
    sampled = [
        io.Float.Input("temperature", default=0.7, min=0.01, max=5.0, step=0.05, tooltip="Higher is more varied."),
        io.Int.Input("top_k", default=0, min=0, max=1000, tooltip="Only the likeliest so many tokens; 0 is off."),
        io.Float.Input(
            "top_p",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Only the likeliest tokens that together reach this likelihood; 1 is off.",
        ),
        io.Int.Input(
            "text_seed",
            default=42,
            min=0,
            max=MAX_SEED,
            control_after_generate=True,
            tooltip="The same seed writes the same text.",
        ),
    ]
    return io.DynamicCombo.Input(
        "decoding",
        options=[io.DynamicCombo.Option(GREEDY, []), io.DynamicCombo.Option(SAMPLE, sampled)],
        tooltip="greedy: always the likeliest token, the same text every time. sample: varied text, by a seed.",
    )


def penalty_input() -> io.Float.Input:
    return io.Float.Input(
        "repetition_penalty",
        default=1.0,
        min=0.1,
        max=5.0,
        step=0.05,
        advanced=True,
        tooltip="Over 1 discourages tokens that were written already; 1 is off.",
    )


def decoding_settings(decoding: dict | None, max_tokens: int, repetition_penalty: float = 1.0) -> DecodingSettings:
    """The value of `decoding_input` and its neighbours as settings."""
    if decoding is None:  # ComfyUI leaves an unknown choice out
        raise ValueError(f"decoding is not among the choices; take {GREEDY} or {SAMPLE}")
    if decoding["decoding"] == GREEDY:
        return DecodingSettings(max_tokens, repetition_penalty=repetition_penalty)
    return DecodingSettings(
        max_tokens,
        sample=True,
        temperature=decoding["temperature"],
        top_k=decoding["top_k"],
        top_p=decoding["top_p"],
        repetition_penalty=repetition_penalty,
        seed=decoding["text_seed"],
    )
