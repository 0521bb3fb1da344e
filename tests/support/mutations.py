"""Damaged files by the thousand: each opens or is refused by an error of ours, within a second and without growth.

    PYTHONPATH=. python -m tests.support.mutations --cases 100000 --processes 2

Of every kind that people hand in: safetensors and GGUF checkpoints, config.json, LoRAs and their adapter_config.json. A
case is known by its number alone, so that one that went wrong can be looked at: --first NUMBER --cases 1.
"""

import argparse
import copy
import json
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save

import sensenova_core
from sensenova_core import SenseNovaError
from sensenova_core.checkpoint import open_checkpoint
from sensenova_core.lora import read_lora
from tests.support.geometries import TOKENIZER, geometry, write_checkpoint

KINDS = ("safetensors", "gguf", "config", "lora", "adapter")
SECONDS = 1.0  # of one case, of this process's own time
LOADED = 101  # of so many that open, one is loaded too, as far as that goes without a weight
LETTERS = 4000  # of a message
WARM = 0.2  # of the cases, after which memory may not grow
GROWTH = 2**24  # bytes, which are lists that fill up and not files that stay
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 1e308, float("nan"), float("inf"), 0.5),
    *(
        "",
        "x" * 1000,
        "\ud800",
        "F32",
        "F8_E4M3",
        "I8",
        "nan",
        "1e9",
        [],
        {},
        [[]],
        [None],
        [2**62] * 8,
        {"": {"": []}},
    ),
)
NUMBERS = (0, 1, 7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)


@dataclass
class Told:
    """Of one process. wrong: what went otherwise than it should. memory: bytes after each tenth of its cases."""

    outcomes: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    memory: list[int] = field(default_factory=list)


class Files:
    """Whole files of every kind in memory, and a folder in which each case is written over the one before."""

    def __init__(self, folder: Path):
        raw = geometry(4) | {"use_pixel_head": False}
        raw["llm_config"] |= {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
        raw["vision_config"] = raw["vision_config"] | {"hidden_size": 16, "patch_size": 2}
        model = write_checkpoint(folder / "config", raw)
        self.content = {"safetensors": (model / "model.safetensors").read_bytes(), "config": json.dumps(raw).encode()}
        opened = open_checkpoint(model)
        self.shapes = {name: header.shape for name, header in opened.headers.items()}
        self.content["gguf"] = _gguf(self.shapes)
        self.content["lora"] = self.content["adapter"] = b""
        places = [name.removesuffix(".weight") for name, shape in self.shapes.items() if len(shape) == 2][:12]
        factors = {}
        for place in places:
            rows, width = self.shapes[f"{place}.weight"]
            factors[f"base_model.model.{place}.lora_A.weight"] = torch.zeros(2, width)
            factors[f"base_model.model.{place}.lora_B.weight"] = torch.zeros(rows, 2)
        factors[f"{places[0]}.alpha"] = torch.tensor(2.0)
        self.content["lora"] = save(factors, {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4})})
        settings = {"r": 2, "lora_alpha": 4, "alpha_pattern": {places[0]: 2}, "use_rslora": False, "peft_type": "LORA"}
        self.content["adapter"] = json.dumps(settings).encode()
        self.paths = {
            "safetensors": folder / "single" / "model.safetensors",
            "gguf": folder / "gguf" / "model.gguf",
            "config": model / "config.json",
            "lora": folder / "lora" / "x.safetensors",
            "adapter": folder / "adapter" / "adapter_config.json",
        }
        for path in self.paths.values():
            path.parent.mkdir(exist_ok=True)
            TOKENIZER.save(str(path.parent / "tokenizer.json"))
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(self.content["lora"])

    def open(self, kind: str) -> str:
        """Read the headers of what is there now; what came of it in a word. Raises what is not to be raised."""
        path = self.paths[kind]
        try:
            if kind in ("lora", "adapter"):
                read_lora(path.parent if kind == "adapter" else path, self.shapes)
            else:
                open_checkpoint(path.parent if kind == "config" else path)
        except SenseNovaError as error:
            _check_message(error)
            return "refused"
        return "opened"

    def load(self, kind: str) -> None:
        """All but the weights."""
        if kind in ("lora", "adapter"):
            return
        try:
            sensenova_core.load(self.paths[kind].parent if kind == "config" else self.paths[kind], place=False)
        except SenseNovaError as error:
            _check_message(error)


def _check_message(error: SenseNovaError) -> None:
    text = str(error)
    text.encode()
    if not 10 < len(text) < LETTERS or "Traceback" in text or "object at 0x" in text:
        raise AssertionError(f"a message of {len(text)} letters: {text[:300]}")


def mutated(content: bytes, kind: str, draw: random.Random) -> bytes:
    """A file with what copies, downloads, editors and strangers do to one, one to four times over."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if kind in ("config", "adapter") and draw.random() < 0.7:
            content = _with_json(content, draw)
        elif kind in ("safetensors", "lora") and draw.random() < 0.4:
            content = _with_header(content, draw)
        else:
            content = _with_bytes(content, draw, kind)
    return content


def _with_bytes(content: bytes, draw: random.Random, kind: str) -> bytes:
    raw = bytearray(content)
    header = len(raw) if kind in ("config", "adapter") else min(len(raw), 12_000)
    at = draw.randrange(draw.choice((9, header, header, len(raw) or 1)) or 1)
    way = draw.choice(("byte", "byte", "digit", "number", "cut", "put", "double", "end", "text"))
    if way == "byte" and at < len(raw):
        raw[at] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    elif way == "digit":
        digits = [place for place in range(at, min(len(raw), at + 500)) if 48 <= raw[place] < 58]
        for place in digits[:1]:
            raw[place] = draw.randrange(48, 58)
    elif way == "number":
        raw[at : at + 8] = struct.pack("<Q", draw.choice(NUMBERS))
    elif way == "cut":
        del raw[at : at + draw.choice((1, 4, 50, 5000))]
    elif way == "put":
        raw[at:at] = draw.randbytes(draw.choice((1, 8, 50)))
    elif way == "double":
        raw[at:at] = raw[at : at + draw.choice((1, 20, 300))]
    elif way == "end":
        del raw[draw.randrange(len(raw) + 1) :]
    else:
        raw[:0] = draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"GGUF", b"\x80\x02", b"<html>", b"// a\n", b"\0" * 64))
    return bytes(raw)


def _with_header(content: bytes, draw: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    changed = _with_json(content[8 : 8 + length], draw)
    return len(changed).to_bytes(8, "little") + changed + content[8 + length :]


def _with_json(content: bytes, draw: random.Random) -> bytes:
    """One value or name somewhere in it changed, taken away or put in a second time."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return content
    holder, key = {"": whole}, ""
    while isinstance(holder[key], dict | list) and holder[key] and (key == "" or draw.random() < 0.8):
        holder = holder[key]
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    way = draw.choice(("value", "value", "value", "near", "away", "name", "deep"))
    if way == "near" and isinstance(holder[key], int):
        holder[key] += draw.choice((-1, 1, 8, 2**20))
    elif way == "away":
        del holder[key]
    elif way == "name" and isinstance(holder, dict):
        name = draw.choice((f"{key}x", f"module.{key}", key[:-1], "", "\0", "x" * 300, key.upper(), "__metadata__"))
        holder[name] = copy.deepcopy(holder[key])
    elif way == "deep":
        return content[: len(content) // 2] + b"[" * draw.choice((10, 100_000)) + content[len(content) // 2 :]
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    return json.dumps(whole).encode()


def _gguf(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A file of zeros in float32, written without the package."""
    string = lambda text: struct.pack("<Q", len(text)) + text.encode()  # noqa: E731
    infos, size = b"", 0
    for name, shape in shapes.items():
        infos += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], 0, size)
        size += -(-torch.Size(shape).numel() * 4 // 32) * 32
    about = string("general.architecture") + struct.pack("<I", 8) + string("sensenova")
    about += string("words") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("b")
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), 2) + about + infos
    return head + b"\0" * (-len(head) % 32 + size)


def tried(cases: range, report: Callable[[int], None] = lambda done: None) -> Told:
    """Try these cases one after the other in this process."""
    told, process = Told(), psutil.Process()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files, opened = Files(Path(folder)), 0
        for count, number in enumerate(cases):
            draw = random.Random(number)
            kind = KINDS[number % len(KINDS)]
            files.paths[kind].write_bytes(mutated(files.content[kind], kind, draw))
            began = time.process_time()
            try:
                outcome = files.open(kind)
                took = time.process_time() - began
                opened += outcome == "opened"
                if outcome == "opened" and opened % LOADED == 0:
                    files.load(kind)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome, took = "wrong", time.process_time() - began
                told.wrong.append(f"{number} ({kind}): {''.join(traceback.format_exception(error)[-3:])[:2000]}")
            told.outcomes[kind, outcome] += 1
            told.slowest = max(told.slowest, took)
            if took > SECONDS:
                told.wrong.append(f"{number} ({kind}): took {took:.1f} s")
            if kind == "config":
                files.paths[kind].write_bytes(files.content[kind])
            if count % max(1, len(cases) // 10) == 0:
                told.memory.append(process.memory_info().rss)
                report(count)
    first, last = told.memory[int(len(told.memory) * WARM)], told.memory[-1]
    if last - first > GROWTH:
        told.wrong.append(f"grew by {(last - first) / 2**20:.0f} MiB: {[size // 2**20 for size in told.memory]}")
    return told


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    numbers = range(options.first, options.first + options.cases)
    step = -(-len(numbers) // options.processes)
    parts = [numbers[start : start + step] for start in range(0, len(numbers), step)]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
        told = pool.map(tried, parts)
    outcomes = sum((each.outcomes for each in told), Counter())
    for kind in KINDS:
        print(
            f"{kind:12}", ", ".join(f"{word} {count}" for (of, word), count in sorted(outcomes.items()) if of == kind)
        )
    memory = "; ".join(" ".join(str(size // 2**20) for size in each.memory) for each in told)
    print(f"{len(numbers)} cases in {time.monotonic() - began:.0f} s, the slowest {max(t.slowest for t in told):.2f} s")
    print(f"MiB of each process, after each tenth: {memory}")
    wrong = [text for each in told for text in each.wrong]
    print(f"{len(wrong)} wrong", *wrong[:20], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
