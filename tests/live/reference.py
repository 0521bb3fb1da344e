"""What workflows in API form should give, worked out with the engine alone: no ComfyUI, and none of the pack's nodes.

    python reference.py MODELS INPUT < {name: API} > {name: {node: shown}}

Run by ComfyUI's interpreter, so that both have the same torch. Shown are the texts of Preview as Text nodes, and
[width, height, pixels] of the pictures of Save Image nodes, in the 8 bits that they write.
"""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import sensenova_core
from sensenova_core.reading.prompt import Message
from sensenova_core.report.correction import Correction
from sensenova_core.settings import (
    INTERLEAVE_SIZES,
    TRAINED_SIZES,
    CorrectionSettings,
    DecodingSettings,
    DocumentSettings,
    Guidance,
    SamplingSettings,
)
from sensenova_core.writing.document import Drawing, Text

MODELS, INPUT = map(Path, sys.argv[1:3])
NO_IMAGES = ([], None)


@cache
def engine(checkpoint: str, **settings: str) -> sensenova_core.Engine:
    folder = sensenova_core.DEMO if checkpoint == "built-in demo" else MODELS / checkpoint
    return sensenova_core.load(folder, **settings)


def loader(checkpoint, dtype, vram_mode, max_memory, **_):
    return (engine(checkpoint, dtype=dtype, vram_mode=vram_mode, max_memory=max_memory),)


def load_image(image):
    picture = Image.open(INPUT / image)
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy())[None] / 255
    if "A" not in picture.getbands():
        return pixels, torch.zeros(1, 64, 64)
    return pixels, 1 - torch.from_numpy(np.asarray(picture.getchannel("A")).copy())[None] / 255


def pad(image, left, top, right, bottom, feathering):
    assert feathering == 0
    around = (left, right, top, bottom)
    padded = torch.nn.functional.pad(image, (0, 0, *around), value=0.5)
    return padded, torch.nn.functional.pad(torch.zeros(image.shape[1:3]), around, value=1.0)


def image_condition(max_pixels, **images):
    levels = [(255 * pixels).round().byte() for batch in images.values() for pixels in batch]
    return (([Image.fromarray(pixels.numpy()) for pixels in levels], max_pixels or None),)


def text_encode(model, prompt, images=NO_IMAGES, thinking=None):
    return (model.encode(prompt, images[0], think_text=thinking, max_pixels=images[1]),)


def think(model, conditioning, max_tokens, **decoding):
    *_, thought = model.think(conditioning, written(max_tokens, **decoding))
    return thought.conditioning, thought.text


def resolution(size, **custom):
    if size == "automatic":
        return 0, 0
    return TRAINED_SIZES.get(size) or (custom["size.width"], custom["size.height"])


def size_of_first(images, mode):
    assert mode == "the same as the image"
    return images[0][0].size


def sampler(model, conditioning, width, height, cfg_start, cfg_end, **settings):
    if (width, height) == (0, 0) and "init_image" in settings:
        height, width = settings["init_image"].shape[1:3]
        settings["crop"] = True
    elif (width, height) == (0, 0):
        width, height = model.best_size(conditioning.images[0].original if conditioning.images else None)
    interval = (cfg_start, cfg_end)
    *_, last = model.sample(conditioning, width=width, height=height, cfg_interval=interval, **settings)
    return (last.image(),)


def understand(
    model, question, max_tokens, images=NO_IMAGES, history=(), system_message="", repetition_penalty=1.0, **decoding
):
    """history: (messages, images); images are put before their own question."""
    messages, seen = history or ([Message("system", system_message)] if system_message else [], [])
    unplaced = len(images[0]) - question.count("<image>")
    messages = [*messages, Message("user", "<image>\n" * unplaced + question)]
    seen = [*seen, *images[0]]
    settings = written(max_tokens, repetition_penalty=repetition_penalty, **decoding)
    *_, answer = model.understand(model.conversation(messages, seen, images[1]), settings=settings)
    return answer.text, ([*messages, Message("assistant", answer.text)], seen)


def interleave(
    model, prompt, size, think, max_images, max_tokens, steps, cfg, img_cfg, cfg_norm, cfg_start, cfg_end,
    shift, seed, t_eps, system_message, images=NO_IMAGES, **widgets,
):  # fmt: skip
    sides = INTERLEAVE_SIZES.get(size, (widgets.pop("size.width", None), widgets.pop("size.height", None)))
    if size == "automatic":
        sides = model.best_size(images[0][0].size if images[0] else None, document=True)
    guidance = Guidance(cfg, img_cfg, cfg_norm, (cfg_start, cfg_end))
    drawn = SamplingSettings(*sides, steps, guidance, shift, t_eps, seed)
    settings = DocumentSettings(drawn, (sides,), written(max_tokens, **widgets), max_images, think)
    pictures, text = [], ""
    for event in model.interleave(prompt, images[0], settings=settings, max_pixels=images[1]):
        if isinstance(event, Text):
            text += event.text
        elif isinstance(event, Drawing) and event.step.index == steps - 1:
            text += "<image>"
            pictures.append((255 * event.step.image()).round() / 255)
    return torch.cat(pictures), text, None


def self_correct(
    model, prompt, rounds, max_tokens, width, height, steps, cfg, img_cfg, cfg_norm, cfg_start, cfg_end,
    shift, seed, t_eps, image=None, images=NO_IMAGES, **decoding,
):  # fmt: skip
    if (width, height) == (0, 0):
        width, height = model.best_size(images[0][0].size if images[0] else None)
    guidance = Guidance(cfg, img_cfg, cfg_norm, (cfg_start, cfg_end))
    drawn = SamplingSettings(width, height, steps, guidance, shift, t_eps, seed)
    settings = CorrectionSettings(drawn, written(max_tokens, **decoding), rounds)
    correction = Correction(given=image is not None)
    for event in model.self_correct(prompt, images[0], settings=settings, first=image, max_pixels=images[1]):
        correction.add(event)
    pictures = [*([] if image is None else [image]), *correction.pictures]
    return pictures[-1], torch.cat(pictures), correction.text()


def written(max_tokens, decoding, repetition_penalty=1.0, **sampled) -> DecodingSettings:
    named = {name.removeprefix("decoding."): value for name, value in sampled.items()}
    if "text_seed" in named:
        named["seed"] = named.pop("text_seed")
    return DecodingSettings(max_tokens, decoding == "sample", repetition_penalty=repetition_penalty, **named)


def memory_plan(model, width, height, batch_size, guided, images, think_tokens, card, crop=True, **planned):
    guidance = Guidance(4.0 if guided else 1.0)
    settings = SamplingSettings(width, height, guidance=guidance, batch_size=batch_size, crop=crop)
    return (model.forecast(settings, images=images, think_tokens=think_tokens, card=card, **planned),)


def primitive(value):
    return (value,)


class Several(list):
    """Values of which each has a run of its own."""


def create_list(**inputs):
    return (Several(inputs.values()),)


def for_each(run, given):
    """The outputs of a run, or for an input that is several, of one after the other: pictures as one batch."""
    several = [name for name, value in given.items() if isinstance(value, Several)]
    if not several:
        return run(**given)
    runs = [run(**given | {several[0]: value}) for value in given[several[0]]]
    return tuple(torch.cat(outputs) for outputs in zip(*runs, strict=True))


def formatted(f_string, **values):
    return (f_string.format(**{name.removeprefix("values."): value for name, value in values.items()}),)


NODES = {
    "SenseNovaCoreLoader": loader,
    "SenseNovaCoreImageCondition": image_condition,
    "SenseNovaCoreTextEncode": text_encode,
    "SenseNovaCoreThink": think,
    "SenseNovaCoreResolution": resolution,
    "SenseNovaCoreEditSize": size_of_first,
    "SenseNovaCoreFlowMatchSampler": sampler,
    "SenseNovaCoreUnderstand": understand,
    "SenseNovaCoreInterleave": interleave,
    "SenseNovaCoreSelfCorrect": self_correct,
    "SenseNovaCoreMemoryPlan": memory_plan,
    "LoadImage": load_image,
    "ImagePadForOutpaint": pad,
    "PrimitiveStringMultiline": primitive,
    "PrimitiveInt": primitive,
    "CreateList": create_list,
    "StringFormat": formatted,
}


def shown(api: dict[str, Any]) -> dict[str, list]:
    """Node id -> what it shows, of the nodes of a workflow that show something."""

    @cache
    def outputs(id: str) -> tuple:
        return for_each(NODES[api[id]["class_type"]], inputs(id))

    def inputs(id: str) -> dict[str, Any]:
        given = api[id]["inputs"].items()
        return {name: outputs(value[0])[value[1]] if isinstance(value, list) else value for name, value in given}

    results = {}
    for id, node in api.items():
        if node["class_type"] == "PreviewAny":
            results[id] = [inputs(id)["source"]]
        elif node["class_type"] == "SaveImage":
            results[id] = [_pixels(image) for image in inputs(id)["images"]]
    return results


def _pixels(image: Tensor) -> tuple[int, int, str]:
    levels = (255 * image).clamp(0, 255).byte()
    return levels.shape[1], levels.shape[0], levels.numpy().tobytes().hex()


if __name__ == "__main__":
    print(json.dumps({name: shown(api) for name, api in json.load(sys.stdin).items()}))
