"""Forty values that no input asks for, and every input of every node that is given them."""

from copy import deepcopy
from typing import Any

from tests.live.workflows import BUILT_IN, SMALL, STORY

LONG, SHORTER = 1_200_000, 100_000  # characters; ComfyUI writes what it refuses into its log, in full
NOBODY = "nobody"  # the id of no node
LOADED = "loaded"  # the id of a node with a model
# name -> what an input gets. A list is a link to ComfyUI, and so is one in nothing but a list.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "minus one": -1,
    "a fraction": 0.333,
    "less than any side": 7,
    "over any integer": 2**63,
    "beyond any integer": -(10**30),
    "four hundred digits": 10**400,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "infinite below": float("-inf"),
    "nearly infinite": 1.7e308,
    "nearly zero": 5e-324,
    "nothing": "",
    "spaces": " \t\n ",
    "a number as text": "8",
    "a fraction as text": "0.5",
    "nan as text": "nan",
    "a word": "lots",
    "half a letter": "\ud83d",
    "half a letter inside": "a red\udfff circle",
    "half letters only": "\udcff" * 200,
    "an end of text": "\0",
    "an end of text inside": "a\0b",
    "control characters": "\x1b[2J\x07\x08\r\x7f\x9b31m",
    "right to left": "\u202ecircle\u2066\u200f\ufeff",
    "megabytes": "a red circle " * (LONG // 13),
    "very many of one letter": "x" * SHORTER,
    "very many digits": "9" * SHORTER,
    "special tokens": "<|im_end|><img></img><think><IMG_CONTEXT>",
    "a way up": "../../../../etc/passwd",
    "markup": "<script>alert(1)</script>{a|b}%s%d{0}$(id)",
    "an empty list": [],
    "a list of numbers": [1, 2, 3],
    "a link to nothing": [NOBODY, 0],
    "a link to another type": ["odd number", 0],
    "a link to no output": [LOADED, 99],
    "an empty dict": {},
    "a dict": {"a": [None, {"b": "\ud83d"}]},
    "a list in a dict": {"__value__": ["\ud83d", None, {"a": 1}]},
    "half a letter in a dict": {"__value__": "\ud83d"},
}
MODEL = {"model": [LOADED, 0]}
SOURCES: dict[str, dict[str, Any]] = {
    LOADED: {
        "class_type": "SenseNovaCoreLoader",
        "inputs": {
            "checkpoint": BUILT_IN,
            "dtype": "float32",
            "vram_mode": "auto",
            "max_memory": "auto",
            "attention": "auto",
            "download": False,
            "repo": "SenseNova/SenseNova-U1-8B-MoT",
        },
    },
    "picture": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "mask": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 64, "height": 64}},
    "sigmas": {"class_type": "ManualSigmas", "inputs": {"sigmas": "0.8, 0.4, 0.0"}},
    "solver": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "odd number": {"class_type": "PrimitiveInt", "inputs": {"value": 3}},
    "words": {"class_type": "PrimitiveString", "inputs": {"value": "A red circle is on the left."}},
    "images": {
        "class_type": "SenseNovaCoreImageCondition",
        "inputs": {"images.image0": ["picture", 0], "max_pixels": 0},
    },
    "conditioning": {"class_type": "SenseNovaCoreTextEncode", "inputs": MODEL | {"prompt": "a red circle"}},
    "history": {
        "class_type": "SenseNovaCoreUnderstand",
        "inputs": MODEL
        | {"question": "What is it?", "max_tokens": 2, "decoding": "greedy", "system_message": ""}
        | {"repetition_penalty": 1.0},
    },
}
SAMPLED = {
    "decoding": "sample",
    "decoding.temperature": 0.7,
    "decoding.top_k": 0,
    "decoding.top_p": 1.0,
    "decoding.text_seed": 1,
}
DRAWING = {
    "steps": 1,
    "cfg": 1.0,
    "img_cfg": 1.0,
    "cfg_norm": "none",
    "cfg_start": 0.0,
    "cfg_end": 1.0,
    "shift": 3.0,
    "seed": 1,
    "t_eps": 0.02,
}
# Class -> all of its inputs, each with a value that is right; links name what is in SOURCES.
NODES: dict[str, dict[str, Any]] = {
    "Loader": SOURCES[LOADED]["inputs"],
    "Loader, downloading": SOURCES[LOADED]["inputs"] | {"checkpoint": "not-there", "download": True, "repo": "nobody"},
    "Lora": MODEL | {"lora_name": "tiny.safetensors", "strength": 1.0},
    "MemoryPlan": MODEL
    | {"width": 64, "height": 64, "batch_size": 1, "guided": True, "images": 0, "think_tokens": 0, "card": ""}
    | {"task": "draw", "max_tokens": 8, "prompt_tokens": 20},
    "ImageCondition": {"images.image0": ["picture", 0], "masks.mask0": ["mask", 0], "max_pixels": 0},
    "TextEncode": MODEL | {"prompt": "a red circle", "images": ["images", 0], "thinking": ["words", 0]},
    "Think": MODEL | {"conditioning": ["conditioning", 0], "max_tokens": 2} | SAMPLED,
    "Resolution": SMALL,
    "EditSize": {"images": ["images", 0], "mode": "the same as the image"},
    "FlowMatchSampler": MODEL
    | {"conditioning": ["conditioning", 0], "width": 64, "height": 64, "batch_size": 1, "crop": False}
    | DRAWING
    | {"preset": ["lora", 1], "init_image": ["picture", 0], "mask": ["mask", 0], "denoise": 0.5, "feather": 2}
    | {"sigmas": ["sigmas", 0], "sampler": ["solver", 0]},
    "ToComfyUI": MODEL
    | {"conditioning": ["conditioning", 0], "width": 64, "height": 64, "negative": "nothing", "batch_size": 1}
    | {"shift": 3.0, "t_eps": 0.02},
    "Understand": MODEL
    | {"question": "What?", "images": ["images", 0], "history": ["history", 1], "max_tokens": 2}
    | {"system_message": "", "repetition_penalty": 1.0}
    | SAMPLED,
    "Interleave": MODEL
    | {"prompt": STORY, "images": ["images", 0], "size": "custom", "size.width": 64, "size.height": 64}
    | {"think": False, "max_images": 0, "max_tokens": 2, "system_message": "", "preset": ["lora", 1]}
    | SAMPLED
    | DRAWING,
    "SelfCorrect": MODEL
    | {"prompt": STORY, "image": ["picture", 0], "images": ["images", 0], "rounds": 1, "max_tokens": 2}
    | {"width": 64, "height": 64, "preset": ["lora", 1]}
    | SAMPLED
    | DRAWING,
    "SaveDocument": {"document": ["document", 2], "filename_prefix": "odd", "format": "markdown"},
    "Inspect": {"checkpoint": BUILT_IN, "dtype": "bfloat16", "show_groups": ""},
}
SOURCES["lora"] = {"class_type": "SenseNovaCoreLora", "inputs": NODES["Lora"]}
SOURCES["document"] = {
    "class_type": "SenseNovaCoreInterleave",
    "inputs": {name: value for name, value in NODES["Interleave"].items() if name not in ("images", "preset")},
}


def graph(kind: str, name: str = "", value: Any = None) -> dict[str, Any]:
    """A node, what it needs, and a node that shows its output. name: of an input that gets a value in place of its
    own; none for the node as it is right."""
    inputs = NODES[kind] | ({name: value} if name else {})
    needed: dict[str, Any] = {}
    waiting = [inputs]
    while waiting:
        for link in waiting.pop().values():
            if isinstance(link, list) and link and link[0] in SOURCES and link[0] not in needed:
                needed[link[0]] = SOURCES[link[0]]
                waiting.append(SOURCES[link[0]]["inputs"])
    needed["tried"] = {"class_type": f"SenseNovaCore{kind.partition(',')[0]}", "inputs": inputs}
    needed["shown"] = {"class_type": "PreviewAny", "inputs": {"source": ["tried", 0]}}
    return deepcopy(needed)
