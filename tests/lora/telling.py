"""The kinds of weights that LoRAs are tried on, and what engines tell with LoRAs and without."""

import torch

from sensenova_core import DecodingSettings, Engine
from tests.support.pictures import picture
from tests.support.streaming import draw_short

KINDS = ["plain", "gguf", "rows", "weight_scale_inv", "experts", "other head"]
SINGLE = [
    "diffusion_model.plain",
    "model.diffusion_model.plain",
    "model.diffusion_model.gguf",
    "diffusion_model.rows",
    "model.diffusion_model.scale_weight",
]  # files by themselves, all their names after a prefix


def drawing(name: str) -> bool:
    return ".layers." in name and "_mot_gen" in name and ".layers.2." not in name


def tell(engine: Engine) -> dict:
    """A picture, one edited, and what an answer was chosen from, which takes the output head."""
    seen: list[torch.Tensor] = []
    engine.remembered.forget()  # else an answer goes on from what the last one has read
    letter = engine.tokenizer.encode(["a"])[0]
    choose = lambda logits, chosen: seen.append(logits.clone()) or letter  # noqa: E731
    list(engine.understand("what?", settings=DecodingSettings(3), choose=choose))
    (*_, step) = engine.sample(engine.encode("a dot", [picture(64, 64)]), width=64, height=64, steps=1)
    return {"picture": draw_short(engine, steps=2), "edit": step.z, "logits": torch.stack(seen)}


def check_close(told: dict, expected: dict, base: dict, bound: float = 1e-4) -> None:
    """Beside the difference to what is told without the LoRA."""
    for name, value in expected.items():
        effect = (value - base[name]).abs().max()
        assert effect > 0.01 * value.abs().max(), name
        assert (told[name] - value).abs().max() < bound * max(effect, value.abs().max()), name
