"""What a LoRA costs a decoder layer: merged into its weights before they run, or kept beside them.

    PYTHONPATH=. python benchmarks/lora.py --geometry small                        # a small layer
    PYTHONPATH=. python benchmarks/lora.py --geometry u1-8b --tokens 1 4096        # one of the 8B models', 1 GB

products: the layer's seven matrices alone; merged, merged_float32: writing all of them anew with up @ down added, the
factors in the layer's type or in float32; beside: (x @ down.T) @ up.T added to each product. The forms take turns, and
the quickest round of each counts: the processor's time on a CPU. *_ratio: to the products. Writes JSON.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from geometry import GEOMETRIES, model_config
from machine import machine
from torch import Tensor
from torch.nn import functional as F
from turns import in_turns

from sensenova_core.lora import merge
from sensenova_core.model.config import DecoderConfig


def matrices(decoder: DecoderConfig) -> list[tuple[int, int]]:
    """(rows, width) of a dense layer's."""
    hidden, wide = decoder.hidden_size, decoder.intermediate_size
    query, key = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    return [
        (query, hidden),
        (key, hidden),
        (key, hidden),
        (hidden, query),
        (wide, hidden),
        (wide, hidden),
        (hidden, wide),
    ]


def forms_of(shapes: list[tuple[int, int]], tokens: int, rank: int, dtype: torch.dtype) -> dict[str, Callable]:
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    factors = [(torch.randn(rows, rank, dtype=dtype), torch.randn(rank, width, dtype=dtype)) for rows, width in shapes]
    exact = [(up.float(), down.float()) for up, down in factors]
    inputs = {width: torch.randn(tokens, width, dtype=dtype) for _, width in shapes}
    outputs = [torch.zeros(tokens, rows, dtype=dtype) for rows, _ in shapes]
    into = [torch.empty_like(weight) for weight in weights]

    def products() -> None:
        for weight in weights:
            F.linear(inputs[weight.shape[1]], weight)

    def merging(factors: list[tuple[Tensor, Tensor]]) -> None:
        for weight, (up, down), target in zip(weights, factors, into, strict=True):
            merge(weight, [(0.5, up, down)], target)

    def beside() -> None:
        for (up, down), output in zip(factors, outputs, strict=True):
            output.addmm_(inputs[down.shape[1]] @ down.T, up.T)

    return {
        "products": products,
        "merged": lambda: merging(factors),
        "merged_float32": lambda: merging(exact),
        "beside": beside,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 4096])
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seconds", type=float, default=10.0, help="to spend on each row, and two rounds at least")
    parser.add_argument("--output", type=Path, default=Path("build/bench/lora.json"))
    options = parser.parse_args()

    device, rows = torch.device(options.device), []
    decoder = model_config(options.geometry).decoder
    for tokens in options.tokens:
        torch.manual_seed(0)
        with torch.inference_mode(), device:
            forms = forms_of(matrices(decoder), tokens, options.rank, getattr(torch, options.dtype))
            rounds = in_turns(forms, device, options.seconds)
        best = {name: min(each) for name, each in rounds.items()}
        row = {"tokens": tokens, "rounds": len(rounds["products"])}
        row |= {f"{name}_ms": milliseconds for name, milliseconds in best.items()}
        rows.append(row | {f"{name}_ratio": best[name] / best["products"] for name in best if name != "products"})
        print(*(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    run = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(device), "run": run, "rows": rows}
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
