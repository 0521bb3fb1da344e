"""Whether two commits give the same results: pictures to the last bit, texts, tokens, and plans in words.

    PYTHONPATH=. python tools/same_results.py results.json     in each checkout
    python tools/same_results.py --compare base.json new.json

The demo's tasks and the reference cases are run on the CPU in several memory modes. A result is the digest of what was
made, or a plan's own words. Every checkout is asked through the public API; what has moved is looked for in each place
that it has had. The script may lie outside the checkout: what it asks is the package in the current folder.
"""

import argparse
import gzip
import hashlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import sensenova_core
from sensenova_core import DecodingSettings, DocumentSettings, Guidance, Message, SamplingSettings

# (module, name) of what has moved, its places from the newest on; the first that is there is used
PLACES = {
    "explain": [
        ("sensenova_core.engine", "Engine.forecast"),
        ("sensenova_core.memory.forecast", "explain"),
        ("sensenova_core.outlook", "explain"),
    ],
    "plan in words": [
        ("sensenova_core.memory.plan_text", "explained"),
        ("sensenova_core.memory.plan", "Plan.explain"),
    ],
    "free memory": [
        ("sensenova_core.memory.system_memory", "available_bytes"),
        ("sensenova_core.memory.host", "available_bytes"),
    ],
}
GIB = 2**30
FREE = 48 * GIB  # of system memory, as plans are told
MEMORY = {  # name -> keyword arguments of `load`
    "in place": {},
    "balanced": {"vram_mode": "balanced"},
    "low": {"vram_mode": "low"},
    "budget": {"max_memory": "0=80MiB,cpu=1GiB"},
    "small budget": {"max_memory": "48MiB"},
}
DEMO_MEMORY = ("in place", "low")
DEMO_PICTURES = {  # name -> (prompt, keyword arguments of `sample`)
    "usual": ("a big red circle on the left on a white background", {"seed": 1}),
    "another seed": ("a big red circle on the left on a white background", {"seed": 2}),
    "chinese": ("红色背景上的一个白色圆形", {"seed": 3, "steps": 6, "shift": 1.0}),
    "no guidance": ("a small blue star", {"cfg": 1.0}),
    "global": ("a green square and a yellow ring", {"cfg": 3.0, "cfg_norm": "global"}),
    "channel": ("a green square and a yellow ring", {"cfg": 3.0, "cfg_norm": "channel"}),
    "zero star": ("a purple heart", {"cfg_norm": "cfg_zero_star", "t_eps": 0.1}),
    "interval": ("a purple heart", {"cfg_interval": [0.2, 0.7], "steps": 7}),
    "batch": ("a pink triangle", {"batch_size": 3}),
    "crop": ("a pink triangle", {"width": 110, "height": 75, "crop": True, "batch_size": 2}),
    "wide": ("a pink triangle", {"width": 160, "height": 96}),
    "nothing": ("", {}),
}
DEMO_EDITS = {  # name -> (prompt, number of references, keyword arguments of `sample`)
    "one": ("make the circle purple", 1, {}),
    "one by images": ("make the circle purple", 1, {"img_cfg": 3.0, "cfg_norm": "global"}),
    "one unguided": ("add a green ring at the top", 1, {"cfg": 1.0}),
    "one equal": ("add a green ring at the top", 1, {"cfg": 2.0, "img_cfg": 2.0, "cfg_interval": [0.1, 0.8]}),
    "two": ("use the background of Image-2 for Image-1", 2, {"img_cfg": 2.0, "cfg_norm": "channel"}),
    "two batch": ("use the background of Image-2 for Image-1", 2, {"batch_size": 2, "width": 96, "height": 64}),
}
STEPS = 4
Results = dict[str, str]


def moved(name: str) -> Callable:
    """What stands under this name in PLACES."""
    for module, path in PLACES[name]:
        try:
            found: Any = import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
            return found
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"{name} is at none of {PLACES[name]}; add its new place")


def fix_free_memory() -> None:
    """Plan as if so much system memory were always free."""
    import_module("sensenova_core.engine")  # and with it all that asks
    name = moved("free memory").__name__
    for module in [module for key, module in sys.modules.items() if key.startswith("sensenova_core")]:
        if callable(getattr(module, name, None)):
            setattr(module, name, lambda: FREE)


# Digests.


def digest(*parts: torch.Tensor | str) -> str:
    """Of tensors' shapes, types and raw bytes, and of texts."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            total.update(f"{part.dtype} {tuple(part.shape)}".encode())
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8)
            total.update(part.numpy().tobytes())
        else:
            total.update(part.encode())
        total.update(b"\0")
    return total.hexdigest()


def tokens_of(conditioning) -> str:
    """Of what every branch reads."""
    parts = [(name, each.ids, each.positions, each.slots) for name, each in sorted(conditioning.sequences.items())]
    return digest(*(part for branch in parts for part in branch), str(conditioning.think_text))


def drawn(steps) -> Results:
    """Of a picture: as the model made it, as it is shown, and every guess on the way."""
    steps = list(steps)
    times = json.dumps([(step.index, step.total, step.t) for step in steps])
    return {
        "picture": digest(steps[-1].pixels()),
        "shown": digest(steps[-1].image()),
        "guesses": digest(times, *(step.pixels() for step in steps)),
    }


def thought(engine, conditioning, settings: DecodingSettings, choose=None) -> tuple[Any, list[str]]:
    """(the conditioning with its reasoning, pieces of text), whichever way `think` tells of them."""
    pieces: list[str] = []
    told = {"on_text": pieces.append} if "on_text" in inspect.signature(engine.think).parameters else {}
    result = engine.think(conditioning, settings=settings, choose=choose, **told)
    if hasattr(result, "sequences"):
        return result, pieces
    while True:
        try:
            piece = next(result)
        except StopIteration as end:
            return end.value if end.value is not None else piece.conditioning, pieces
        pieces.append(piece if isinstance(piece, str) else piece.piece)


def written(events) -> Results:
    """Of a document: its text and pictures in order."""
    story, pictures = [], []
    for event in events:
        if hasattr(event, "step"):
            pictures.append(event.step.pixels())
            story.append(f"[{event.index}: {event.step.index + 1} of {event.step.total}]")
        else:
            story.append(event.text if hasattr(event, "text") else f"({event.reason})")
    return {"text": "".join(story), "pieces": digest(*story), "pictures": digest(*pictures)}


def answered(answers) -> Results:
    answers = list(answers)
    last = answers[-1]
    pieces = digest(*(answer.piece for answer in answers))
    return {"text": last.text, "ids": json.dumps(last.ids), "ended": str(last.ended), "pieces": pieces}


def guidance(*values) -> Guidance:
    """cfg, img_cfg, norm and interval, by whatever names."""
    return Guidance(**dict(zip((field.name for field in fields(Guidance)), values, strict=True)))


# The demo.


def shapes(colour: str, background: str) -> Image.Image:
    """A reference image that no drawing is needed for."""
    image = Image.new("RGB", (128, 128), background)
    ImageDraw.Draw(image).ellipse((20, 30, 80, 90), fill=colour)
    return image


def demo(engine) -> Iterator[tuple[str, Results]]:
    references = [shapes("red", "white"), shapes("blue", "yellow")]
    for name, (prompt, settings) in DEMO_PICTURES.items():
        conditioning = engine.encode(prompt)
        results = drawn(engine.sample(conditioning, **{"steps": STEPS} | settings))
        yield f"picture {name}", results | {"tokens": tokens_of(conditioning)}
    for name, (prompt, count, settings) in DEMO_EDITS.items():
        conditioning = engine.encode(prompt, references[:count])
        results = drawn(engine.sample(conditioning, **{"steps": STEPS} | settings))
        yield f"edit {name}", results | {"tokens": tokens_of(conditioning)}
    yield from demo_thoughts(engine, references)
    yield from demo_answers(engine, references)
    for name, count in (("story", 0), ("story of an image", 1)):
        sampling = SamplingSettings(width=128, height=128, steps=STEPS, seed=5)
        decoding = DecodingSettings(max_tokens=200)
        settings = DocumentSettings(sampling=sampling, decoding=decoding, max_images=2)
        prompt = "Tell a story about a red circle on a white background in two pictures"
        yield name, written(engine.interleave(prompt, references[:count], settings=settings))


def demo_thoughts(engine, references) -> Iterator[tuple[str, Results]]:
    for name, prompt, images in (
        ("picture", "a small blue star", []),
        ("edit", "make the circle purple", references[:1]),
    ):
        asked = engine.encode(prompt, images)
        conditioning, pieces = thought(engine, asked, DecodingSettings(max_tokens=64))
        results = {"pieces": digest(*filter(None, pieces)), "text": str(conditioning.think_text)}
        results["tokens"] = tokens_of(conditioning)
        yield f"thought {name}", results | drawn(engine.sample(conditioning, steps=STEPS, seed=7))
        edited = engine.encode(prompt, images, think_text="a big green ring on a black background")
        results = drawn(engine.sample(edited, steps=STEPS, seed=7)) | {"tokens": tokens_of(edited)}
        yield f"edited thought {name}", results
    sampled = DecodingSettings(max_tokens=40, sample=True, temperature=0.9, top_k=20, top_p=0.9, seed=3)
    conditioning, _ = thought(engine, engine.encode("a small blue star"), sampled)
    yield "thought sampled", {"text": str(conditioning.think_text)}


def demo_answers(engine, references) -> Iterator[tuple[str, Results]]:
    settings = DecodingSettings(max_tokens=48)
    for count in range(3):
        question = "how many shapes are there?" if count == 1 else "describe this picture"
        yield (
            f"answer with {count} images",
            answered(engine.understand(question, references[:count], settings=settings)),
        )
    first = answered(engine.understand("describe this picture", references[:1], settings=settings))
    turns = [Message("user", "describe this picture"), Message("assistant", first["text"])]
    turns.append(Message("user", "how many shapes are there?"))
    yield "second turn", answered(engine.understand(turns, references[:1], settings=settings))
    sampled = DecodingSettings(max_tokens=48, sample=True, temperature=1.2, repetition_penalty=1.1, seed=4)
    yield "answer sampled", answered(engine.understand("describe this picture", references[:1], settings=sampled))


# Reference cases.


class Forced:
    """Chooses the likeliest token, but at the choices that a case sets from outside."""

    def __init__(self, forced: dict[str, int]):
        self.forced = {int(index): token for index, token in forced.items()}
        self.tokens: list[int] = []
        self.logits: list[torch.Tensor] = []

    def __call__(self, logits: torch.Tensor, chosen: list[int]) -> int:
        self.logits.append(logits.clone())
        self.tokens.append(self.forced.get(len(self.tokens), int(logits.argmax())))
        return self.tokens[-1]

    def results(self) -> Results:
        return {"ids": json.dumps(self.tokens), "logits": digest(*self.logits)}


def sampling_of(case: dict) -> dict[str, Any]:
    """A case -> the keyword arguments of `sample`, without the size."""
    params = case["params"]
    return {
        "steps": params["num_steps"],
        "cfg": params["cfg_scale"],
        "img_cfg": params.get("img_cfg_scale", 1.0),
        "cfg_norm": params["cfg_norm"],
        "cfg_interval": params["cfg_interval"],
        "shift": params["timestep_shift"],
        "t_eps": params["t_eps"],
        "seed": params["seed"],
    }


def picture_case(engine, case: dict, images: list[Image.Image]) -> Results:
    conditioning, results = engine.encode(case["prompt"], images), {}
    if case["params"]["think_mode"]:
        choose = Forced(case["think"]["forced_tokens"])
        settings = DecodingSettings(max_tokens=case["params"]["max_think_tokens"])
        conditioning, pieces = thought(engine, conditioning, settings, choose)
        results = choose.results() | {"text": str(conditioning.think_text), "pieces": digest(*filter(None, pieces))}
    results["tokens"] = tokens_of(conditioning)
    width, height = case["image_size_wh"]
    batch = case["params"]["batch_size"]
    steps = engine.sample(conditioning, width=width, height=height, batch_size=batch, **sampling_of(case))
    return results | drawn(steps)


def chat_case(engine, case: dict, images: list[Image.Image]) -> Results:
    pairs = [message for pair in case["history"] or [] for message in zip(("user", "assistant"), pair, strict=True)]
    turns = [Message(role, text) for role, text in [*pairs, ("user", case["question"])]]
    choose, settings = Forced({}), DecodingSettings(max_tokens=case["params"]["max_new_tokens"])
    results = answered(engine.understand(turns, images, settings=settings, choose=choose))
    return results | {"logits": choose.results()["logits"]}


def document_case(engine, case: dict, images: list[Image.Image]) -> Results:
    params, sizes, sampling = case["params"], case["image_size_wh"], sampling_of(case)
    sizes = tuple(map(tuple, sizes if isinstance(sizes[0], list) else [sizes]))
    names = ("cfg", "img_cfg", "cfg_norm", "cfg_interval")
    cfg, img_cfg, norm, interval = (sampling.pop(name) for name in names)
    settings = DocumentSettings(
        sampling=SamplingSettings(guidance=guidance(cfg, img_cfg, norm, tuple(interval)), **sampling),
        sizes=sizes,
        decoding=DecodingSettings(max_tokens=params["max_new_tokens"]),
        max_images=params["max_images"] if len(sizes) == 1 else len(sizes),
        think=params["think_mode"],
        system=params["system_message"],
    )
    choose = Forced(case["decode"]["forced_tokens"])
    return written(engine.interleave(case["prompt"], images, settings=settings, choose=choose)) | choose.results()


CASES = {"t2i": picture_case, "edit": picture_case, "chat": chat_case, "interleave": document_case}


def golden(engine, folder: Path, cases: list[dict]) -> Iterator[tuple[str, Results]]:
    for case in cases:
        images = [Image.open(folder / "images" / name) for name in case.get("images") or ()]
        try:
            yield case["name"], CASES[case["kind"]](engine, case, images)
        except sensenova_core.SettingsError as error:  # it does not fit in this memory
            yield case["name"], {"refused": str(error)}


# Plans.


def plans(engine, cards: tuple[str, ...], size: int) -> Iterator[tuple[str, Results]]:
    """Forecasts in words, and plans of the tasks that the engine makes itself."""
    settings = SamplingSettings(width=size, height=size)
    tasks = {
        "draw": {},
        "draw unguided batch": {"settings": SamplingSettings(width=size, height=size, batch_size=4)},
        "edit": {"images": 2},
        "think": {"think_tokens": 300},
        "understand": {"task": "understand", "images": 1, "max_tokens": 100},
        "interleave": {"task": "interleave", "images": 1},
    }
    for task, options in tasks.items():
        options = {"settings": settings} | options
        told = {card: said(moved("explain"), engine, **options, card=card, ram="48GiB") for card in cards}
        yield f"forecast {task}", {f"card {card or 'none'}": text for card, text in told.items()}
    conditioning = engine.encode("a cat")
    own = {
        "drawing": engine.drawing_task(conditioning, settings),
        "writing": engine.writing_task(300, 100),
        "document": engine.document_task(DocumentSettings(sampling=settings), 1),
    }
    sizes = [parsed for card in cards if (parsed := card.removesuffix("MiB"))]
    for name, task in own.items():
        told = {size: said(engine.plan, task, int(size) * 2**20, FREE) for size in sizes}
        yield f"plan {name}", {f"card {size} MiB": plan for size, plan in told.items()}


def said(explain: Callable, *arguments, **options) -> str:
    """The words of a plan, or of the error where it does not fit."""
    try:
        result = explain(*arguments, **options)
    except sensenova_core.SettingsError as error:
        return f"refused: {error}"
    return result if isinstance(result, str) else moved("plan in words")(result)


def unread_checkpoint(folder: Path, source: Path, shapes: dict[str, list[int]], config: dict) -> Path:
    """A checkpoint of that geometry whose weights are a hole in a file: it can be planned for, not run."""
    folder.mkdir()
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return folder


def published(folder: Path, temporary: Path) -> Iterator[tuple[str, Path]]:
    """The published 8B geometries, from their parameters' shapes."""
    source = folder / "checkpoints" / "tiny-u15"
    tiny = json.loads((source / "config.json").read_text(encoding="utf-8"))
    llm = {"num_hidden_layers": 42, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
    llm |= {"head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936}
    for name, file, pixel_head in (("u1-8b", "8b", False), ("u1.5-8b", "u15_8b", True)):
        shapes = json.loads(gzip.decompress((folder / f"param_names_{file}.json.gz").read_bytes()))
        config = tiny | {"use_pixel_head": pixel_head, "noise_scale_max_value": 16.0 if pixel_head else 8.0}
        config["llm_config"] = tiny["llm_config"] | llm | {"torch_dtype": "bfloat16"}
        config["vision_config"] = tiny["vision_config"] | {"hidden_size": 1024, "llm_hidden_size": 4096}
        yield name, unread_checkpoint(temporary / name, source, shapes, config)


# All of it.


def results(folder: Path) -> Iterator[tuple[str, Results]]:
    """(name, what came of it) of everything. folder: of the reference cases."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    fix_free_memory()
    for mode in DEMO_MEMORY:
        engine = sensenova_core.load(sensenova_core.DEMO, **MEMORY[mode])
        for name, result in demo(engine):
            yield f"demo, {mode}: {name}", result
    cards = ("", "8MiB", "40MiB", "200MiB", "2000MiB")
    for name, result in plans(engine, cards, 128):
        yield f"demo: {name}", result
    for checkpoint in manifest["checkpoints"]:
        cases = [case for case in manifest["cases"] if case["checkpoint"] == checkpoint and case["kind"] in CASES]
        path = folder / "checkpoints" / checkpoint
        for mode, options in MEMORY.items():
            engine = sensenova_core.load(path, **options)
            for name, result in golden(engine, folder, cases):
                yield f"{checkpoint}, {mode}: {name}", result
            for name, result in plans(engine, cards, 64):
                yield f"{checkpoint}, {mode}: {name}", result
    with tempfile.TemporaryDirectory() as temporary:
        for name, path in published(folder, Path(temporary)):
            for mode in ({}, {"vram_mode": "low"}, {"vram_mode": "balanced"}, {"max_memory": "0=13GiB,cpu=10GiB"}):
                engine = sensenova_core.load(path, place=False, **mode)
                cards = ("", "2048MiB", "4096MiB", "8192MiB", "12000MiB", "16000MiB", "24000MiB", "80000MiB")
                for task, result in plans(engine, cards, 2048):
                    yield f"{name}, {mode or 'auto'}: {task}", result


def compare(first: Path, second: Path) -> list[str]:
    """What differs, a line each."""
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    lines = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            lines.append(f"{name}: only in {first if name in one else second}")
        elif one[name] != other[name]:
            keys = sorted(one[name].keys() | other[name].keys())
            differ = [key for key in keys if one[name].get(key) != other[name].get(key)]
            shown = [f"\n    {each[name].get(differ[0])!r}" for each in (one, other)]
            lines.append(f"{name}: {', '.join(differ)} differ; {differ[0]} is{''.join(shown)}")
    return lines


def default_golden() -> Path:
    beside = Path.cwd().parent / "shared" / "golden"
    return beside if (beside / "manifest.json").is_file() else Path("tests/golden")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, help="file to write the results to")
    parser.add_argument("--golden", type=Path, help="folder of the reference cases; else GOLDEN_DIR, or tests/golden")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="FILE", help="say what differs; exit 1 if anything")
    options = parser.parse_args()
    if options.compare:
        lines = compare(*options.compare)
        count = len(json.loads(options.compare[0].read_text(encoding="utf-8")))
        print("\n".join([*lines, f"{len(lines)} of {count} results differ" if lines else f"{count} results are equal"]))
        sys.exit(bool(lines))
    if options.output is None:
        parser.error("name a file to write to")
    if not Path(sensenova_core.__file__).is_relative_to(Path.cwd()):
        parser.error(f"sensenova_core is {sensenova_core.__file__}; run with PYTHONPATH=. in the checkout to ask")
    torch.set_num_threads(1)
    folder = options.golden or Path(os.environ.get("GOLDEN_DIR") or default_golden())
    found = dict(results(folder))
    options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"{len(found)} results in {options.output}")


if __name__ == "__main__":
    main()
