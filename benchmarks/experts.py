"""A layer's mixture of experts: grouped by expert against two loops over experts, and against its products alone.

    PYTHONPATH=. python benchmarks/experts.py                        # 128 experts, 4096 tokens, four widths
    PYTHONPATH=. python benchmarks/experts.py --device cuda --sizes 2048x768 --tokens 1 400 4096 --experts 32 128

A size is HIDDENxWIDTH; 2048x768 is that of the A3B models. The weights lie in one buffer, as in a slot on a card.
plain: the loop over all experts with one-hot masks, as published code has it; tuned: a loop over the chosen experts
alone (tests/support/mixtures.py has both). The forms take turns, and the quickest round of each counts: the processor's
time on a CPU. plain_ratio, tuned_ratio: that loop / grouped, whole layers with their router; limit_ratio: of the tuned
loop, if products and router were all there is. medians: of all rounds. Writes JSON.
"""

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median

import torch
from machine import machine
from torch import Tensor
from turns import in_turns

from sensenova_core.model import MixtureOfExperts
from tests.support.mixtures import in_one_buffer, looped, looped_over_all, random_mixture

PER_TOKEN = 8


def bare_products(mixture: MixtureOfExperts, x: Tensor) -> Callable[[], None]:
    """Every expert's three products alone, with rows that lie ready: what no form can do without."""
    chosen = mixture.route(x.flatten(0, -2))[1]
    counts = torch.bincount(chosen.flatten(), minlength=mixture.config.num_experts).tolist()
    wide, narrow = (x.new_zeros(max(counts), size) for size in (x.shape[-1], mixture.config.width))

    def run() -> None:
        for expert, count in zip(mixture.experts, counts, strict=True):
            if count:
                expert.gate_proj(wide[:count])
                expert.up_proj(wide[:count])
                expert.down_proj(narrow[:count])

    return run


@torch.inference_mode()
def measure(size: str, experts: int, tokens: int, device: torch.device, dtype: torch.dtype, seconds: float) -> dict:
    hidden, width = (int(side) for side in size.split("x"))
    torch.manual_seed(0)
    with device:
        mixture = random_mixture(hidden, width, experts, min(PER_TOKEN, experts), dtype)
        x = torch.randn(1, tokens, hidden, dtype=dtype)
    in_one_buffer(mixture)
    forms = {
        "plain": lambda: looped_over_all(mixture, x),
        "tuned": lambda: looped(mixture, x),
        "grouped": lambda: mixture(x),
        "products": bare_products(mixture, x),
        "router": lambda: mixture.route(x[0]),
    }
    difference = (looped(mixture, x) - mixture(x)).abs().max().item()  # and the first calls, which count nowhere
    looped_over_all(mixture, x)
    rounds = in_turns(forms, device, seconds)
    best = {name: min(each) for name, each in rounds.items()}
    plain, tuned, grouped, alone, router = best.values()
    flops = 6 * tokens * mixture.config.per_token * hidden * width
    return {
        "size": size,
        "experts": experts,
        "tokens": tokens,
        "rounds": len(rounds["plain"]),
        **{f"{name}_ms": milliseconds for name, milliseconds in best.items()},
        "plain_ratio": plain / grouped,
        "tuned_ratio": tuned / grouped,
        "limit_ratio": tuned / (alone + router),
        "medians": {name: median(each) for name, each in rounds.items()},
        "products_gflops": flops / alone / 1e6,
        "difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["16x8", "64x24", "256x96", "2048x768"], metavar="HIDDENxWIDTH")
    parser.add_argument("--experts", nargs="+", type=int, default=[128])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=10.0, help="to spend on each row, and two rounds at least")
    parser.add_argument("--output", type=Path, default=Path("build/bench/experts.json"))
    options = parser.parse_args()

    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    columns = {"plain_ms": 10, "tuned_ms": 10, "grouped_ms": 11, "products_ms": 12, "router_ms": 10}
    columns |= {"plain_ratio": 12, "tuned_ratio": 12, "limit_ratio": 12}
    print(f"{'size':>10} {'experts':>8} {'tokens':>7}", *(f"{name:>{width}}" for name, width in columns.items()))
    rows = []
    for size, experts, tokens in product(options.sizes, options.experts, options.tokens):
        rows.append(measure(size, experts, tokens, device, dtype, options.seconds))
        figures = (f"{rows[-1][name]:>{width}.2f}" for name, width in columns.items())
        print(f"{size:>10} {experts:>8} {tokens:>7}", *figures, flush=True)
    run = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(device), "run": run | {"dtype": str(dtype)}, "rows": rows}
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
