"""Time and memory of drawing one batch, beside what the arithmetic alone would take.

    python benchmarks/text_to_image.py                                  # small geometry, CPU
    python benchmarks/text_to_image.py --geometry u1-8b --device cuda --width 2048 --height 2048 --steps 50
    python benchmarks/text_to_image.py --model FOLDER                   # a checkpoint's own weights

Random weights of the named geometry, a prefix of random tokens. The limit is the step's arithmetic at the rate of a
large matrix product measured in the same run. Writes JSON with date, machine and versions.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from geometry import GEOMETRIES, model_config, random_model, step_flops
from machine import machine

import sensenova_core
from sensenova_core.drawing import flow
from sensenova_core.drawing.sampling import Denoiser
from sensenova_core.memory.budget import GIB
from sensenova_core.model import SenseNovaU1, attention_kernel
from sensenova_core.reading.prefix import Prefix
from sensenova_core.reading.prompt import TokenSequence, text_positions
from sensenova_core.reading.reader import Reader
from sensenova_core.report.profile import Peak
from sensenova_core.settings import Guidance, SamplingSettings

CONDITION_TOKENS, UNCONDITIONAL_TOKENS = 400, 9  # a usual prompt with the system message, and the empty prompt


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: the best of several."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def read(reader: Reader, tokens: int) -> Prefix:
    """A prefix of random tokens."""
    vocabulary = reader.model.config.decoder.vocab_size
    ids = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(tokens))
    return reader.prefix(TokenSequence(ids, text_positions(0, tokens), torch.zeros(tokens, dtype=torch.bool)))


@torch.inference_mode()
def measure(model: SenseNovaU1, settings: SamplingSettings, backend: str) -> dict:
    device, kernel, peak = model.device, attention_kernel(backend, model.device, model.dtype), Peak()
    reader = Reader(model, kernel)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    branches = flow.branches(settings.guidance, edit=False, t=0.0)
    lengths = [CONDITION_TOKENS, UNCONDITIONAL_TOKENS][: len(branches)]
    synchronize(device)
    start = time.perf_counter()
    prefixes = {branch: read(reader, tokens) for branch, tokens in zip(branches, lengths, strict=True)}
    synchronize(device)
    reading_seconds = time.perf_counter() - start
    seconds, began = [], time.perf_counter()
    denoiser, start = Denoiser(model, prefixes, settings, kernel=kernel, edit=False), began
    for step in denoiser.steps():  # noqa: B007 - the last one is the result
        synchronize(device)
        seconds.append(time.perf_counter() - start)
        peak.update(device)
        start = time.perf_counter()
    step.image()
    synchronize(device)
    drawing_seconds = time.perf_counter() - began
    tokens = denoiser.grid.tokens
    flops = step_flops(model, tokens, lengths, settings.batch_size)
    rate = matmul_rate(device, model.dtype)
    steady = sorted(seconds[1:] or seconds)
    return {
        "image_tokens": tokens,
        "branches": len(branches),
        "reading_s": reading_seconds,
        "first_step_s": seconds[0],
        "step_s": steady[len(steady) // 2],
        "image_s": reading_seconds + drawing_seconds,
        "step_tflop": flops / 1e12,
        "matmul_tflops": rate / 1e12,
        "step_limit_s": flops / rate,
        "step_over_limit": steady[len(steady) // 2] * rate / flops,
        "peak_allocated_gib": peak.allocated / GIB,
        "peak_reserved_gib": peak.reserved / GIB,
        "peak_rss_gib": peak.resident / GIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the geometry has")
    parser.add_argument("--model", help="a checkpoint folder in place of random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--output", type=Path, default=Path("build/bench/text_to_image.json"))
    options = parser.parse_args()

    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    if options.model:
        model = sensenova_core.load(options.model, device=device, dtype=dtype).model
    else:
        model = random_model(model_config(options.geometry, options.layers), device, dtype)
    settings = SamplingSettings(
        options.width, options.height, options.steps, Guidance(options.cfg), batch_size=options.batch_size
    )
    settings.check_size(model.config.token_pixels)
    figures = measure(model, settings, options.attention)
    run = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(device), "run": run | {"dtype": str(dtype)}, "figures": figures}
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in figures.items():
        print(f"{name:<20} {value:.4g}" if isinstance(value, float) else f"{name:<20} {value}")
    print(options.output)


if __name__ == "__main__":
    main()
