"""A denoising step in INT8 against the same step in bfloat16, taking turns in one run.

    PYTHONPATH=. python benchmarks/int8.py                                          # hidden 2048, 8 layers, 512 x 512
    PYTHONPATH=. python benchmarks/int8.py --geometry u1-8b --layers 8 --device cuda --width 2048 --height 2048

Both checkpoints have the same random weights of real shapes: one in bfloat16, one as ComfyUI stores INT8, rotated by
groups of 256 columns. unpacked: INT8 in the file, computed in bfloat16. ratio: the median INT8 step / the median
bfloat16 step. error: of the picture after 4 steps, against the picture of float32 products of the same INT8 weights,
as the norm of the difference over the norm. layer: one feed-forward layer's products alone, and with all that goes with
them. Writes JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from checkpoint import write_checkpoint
from geometry import GEOMETRIES, model_config
from machine import save
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from turns import in_turns

import sensenova_core
from sensenova_core.model.config import ModelConfig
from sensenova_core.model.int8 import Int8Linear, quantised, rotated

GROUP = 256
PROMPT = "a red circle to the left of a blue square"
SAID = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": GROUP}


def write_int8(source: Path, target: Path) -> None:
    """The checkpoint with the linear layers of its decoders in INT8, rotated."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            save_file(dict(_int8_of(load_file(file))), target / file.name)
        elif not file.name.endswith(".index.json"):
            (target / file.name).write_bytes(file.read_bytes())


def _int8_of(tensors: dict):
    for name, value in tensors.items():
        if "_proj" not in name or value.dim() != 2:
            yield name, value
            continue
        layer = name.removesuffix(".weight")
        numbers, scale = quantised(rotated(value.float(), GROUP))
        yield from {name: numbers, f"{layer}.weight_scale": scale}.items()
        yield f"{layer}.comfy_quant", torch.tensor(list(json.dumps(SAID).encode()), dtype=torch.uint8)


def drawn(engine: sensenova_core.Engine, steps: int, size: dict) -> torch.Tensor:
    *_, last = engine.sample(engine.encode(PROMPT), steps=steps, **size)
    return last.pixels().float().cpu()


@torch.inference_mode()
def one_layer(config: ModelConfig, rows: int, device: torch.device, seconds: float) -> dict[str, float]:
    """Milliseconds of a feed-forward layer's first product, alone and whole: the least of all rounds."""
    hidden, width = config.decoder.hidden_size, config.decoder.intermediate_size
    x = torch.randn(rows, hidden, dtype=torch.bfloat16, device=device)
    weight = torch.randn(width, hidden, dtype=torch.bfloat16, device=device)
    numbers, scale = quantised(weight.float())
    layer = Int8Linear(hidden, width, scales=width, group=GROUP).to(device)
    layer.weight.data, layer.weight_scale.data = numbers, scale
    whole, _ = quantised(x, GROUP)
    forms: dict[str, Callable] = {
        "bfloat16": lambda: F.linear(x, weight),
        "int8_product": lambda: layer.sums(whole),
        "int8_whole": lambda: layer(x),
    }
    for form in forms.values():
        form()
    return {name: min(each) for name, each in in_turns(forms, device, seconds).items()}


def measure(options: argparse.Namespace, folder: Path) -> dict:
    device, size = torch.device(options.device), {"width": options.width, "height": options.height}
    config = model_config(options.geometry, options.layers)
    write_checkpoint(folder / "bfloat16", config)
    write_int8(folder / "bfloat16", folder / "int8")
    engines = {
        "bfloat16": sensenova_core.load(folder / "bfloat16", device=device, compute="bf16"),
        "int8": sensenova_core.load(folder / "int8", device=device, compute="int8"),
        "unpacked": sensenova_core.load(folder / "int8", device=device, compute="bf16"),
    }
    exact = drawn(sensenova_core.load(folder / "int8", device=device, compute="bf16", dtype="float32"), 4, size)
    errors = {
        name: ((drawn(engines[name], 4, size) - exact).norm() / exact.norm()).item() for name in ("int8", "unpacked")
    }
    steps = {name: iter(engine.sample(engine.encode(PROMPT), steps=10_000, **size)) for name, engine in engines.items()}
    forms = {name: lambda each=each: next(each) for name, each in steps.items()}
    for form in forms.values():
        form()
    rounds = in_turns(forms, device, options.seconds, least=5)
    medians = {name: median(each) for name, each in rounds.items()}
    rows = 2 * config.grid(**size).tokens  # of both branches of guidance
    return {
        "rounds": len(rounds["int8"]),
        "step_ms": medians,
        "least_step_ms": {name: min(each) for name, each in rounds.items()},
        "ratio": medians["int8"] / medians["bfloat16"],
        "unpacked_ratio": medians["unpacked"] / medians["bfloat16"],
        "error": errors,
        "stored_bytes": {name: engine.stored.nbytes for name, engine in engines.items()},
        "layer_ms": one_layer(config, rows, device, options.seconds / 10),
        "layer_rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="middle")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, help="where the checkpoints go; a temporary folder unless given")
    parser.add_argument("--output", type=Path, default=Path("build/bench/int8.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(options, Path(folder))
    print(json.dumps(figures, indent=2))
    save(options, **figures)


if __name__ == "__main__":
    main()
