"""Memory of a document of text and pictures as it grows, beside the keys and values of its tokens.

    python benchmarks/document.py                                             # small geometry, CPU
    python benchmarks/document.py --geometry u1-8b --device cuda --width 2048 --height 1152 --images 6 --steps 4

Random weights; which token comes next is set from outside: so many text tokens, a picture, and again. What stays after
each picture is compared with the keys and values that its tokens must leave behind. Writes JSON.
"""

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path

import psutil
import torch
from geometry import GEOMETRIES, model_config, random_model
from machine import machine

from sensenova_core.model import attention_kernel
from sensenova_core.reading.prompt import PromptBuilder
from sensenova_core.reading.reader import Reader
from sensenova_core.reading.tokenizer import IMAGE_START, TURN_END, Tokenizer
from sensenova_core.settings import DocumentSettings, Guidance, SamplingSettings
from sensenova_core.writing.document import Drawing, Writer
from tools.tiny_checkpoint import byte_tokenizer

MIB = 2**20
LETTER = 64  # a text token; any will do


def choices(tokenizer: Tokenizer, images: int, words: int):
    """`words` text tokens before each picture, then the end."""
    tokens = ([LETTER] * words + [tokenizer.ids[IMAGE_START]]) * images + [tokenizer.ids[TURN_END]]
    remaining = iter(tokens)
    return lambda logits, chosen: next(remaining)


def memory(device: torch.device) -> int:
    """Bytes that live tensors hold: the device's own count, or on the CPU the sum of their storages."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    alive = [
        thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu"
    ]
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in alive}
    return sum(storages.values())


@torch.inference_mode()
def measure(options, device: torch.device, dtype: torch.dtype) -> list[dict]:
    model = random_model(model_config(options.geometry, options.layers), device, dtype)
    with tempfile.TemporaryDirectory() as folder:
        byte_tokenizer().save(f"{folder}/tokenizer.json")
        tokenizer = Tokenizer(folder)
    prompts = PromptBuilder(tokenizer, 10**6, model.config.token_pixels)
    reader = Reader(model, attention_kernel("auto"))
    settings = DocumentSettings(
        SamplingSettings(options.width, options.height, options.steps, Guidance(4.0, options.img_cfg)),
        sizes=((options.width, options.height),),
        max_images=options.images,
    )
    writer = Writer(
        reader,
        prompts,
        prompts.document("a story", (), system="", think=False),
        unconditional=prompts.unconditional(),
        settings=settings,
        choose=choices(tokenizer, options.images, options.words),
    )
    decoder = model.config.decoder
    token_bytes = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * dtype.itemsize
    rows, pictures, start = [], 0, time.perf_counter()
    for event in writer.events():
        if isinstance(event, Drawing):
            pictures = event.index + 1
            continue
        if pictures < len(rows):
            continue  # still the text before the next picture
        tokens = sum(context.tokens for context in writer.contexts.values())
        rows.append(
            {
                "tokens": tokens,
                "keys_values_mib": tokens * token_bytes / MIB,
                "buffers_mib": sum(context.nbytes for context in writer.contexts.values()) / MIB,
                "tensors_mib": memory(device) / MIB,
                "rss_mib": psutil.Process().memory_info().rss / MIB,
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the geometry has")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--words", type=int, default=16, help="text tokens before each picture")
    parser.add_argument("--img-cfg", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("build/bench/document.json"))
    options = parser.parse_args()

    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    rows = measure(options, device, dtype)
    print(f"{'pictures':>8} {'tokens':>8} {'K/V MiB':>9} {'buffers':>9} {'tensors':>9} {'beyond them':>12} {'RSS':>8}")
    for index, row in enumerate(rows):
        beyond = row["tensors_mib"] - rows[0]["tensors_mib"] - (row["buffers_mib"] - rows[0]["buffers_mib"])
        print(
            f"{index:>8} {row['tokens']:>8} {row['keys_values_mib']:>9.1f} {row['buffers_mib']:>9.1f} "
            f"{row['tensors_mib']:>9.1f} {beyond:>12.2f} {row['rss_mib']:>8.0f}"
        )
    run = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(device), "run": run | {"dtype": str(dtype)}, "rows": rows}
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
