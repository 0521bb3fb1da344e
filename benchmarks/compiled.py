"""A denoising step and decoding: plain, compiled, and by another checkout, taking turns in one run.

    git worktree add build/before COMMIT
    PYTHONPATH=. python benchmarks/compiled.py --before build/before               # hidden 768, 8 layers, 512 x 512
    PYTHONPATH=. python benchmarks/compiled.py --geometry u1-8b --device cuda --width 2048 --height 2048

Each form runs in a process of its own with the same checkpoint of random weights, and works when it is its turn.
Milliseconds are the processor's own on a CPU; a step has two branches of guidance. ready: seconds to the first picture
of 4 steps, with what is compiled in it. error: of that picture to the plain one in float32, as the norm of the
difference over the norm: in bfloat16 rounding alone does that much. apart: the same of the compiled picture to the
plain one of its own type. Writes JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from checkpoint import write_checkpoint
from geometry import GEOMETRIES, model_config
from machine import save
from turns import clock

PROMPT = "a red circle to the left of a blue square"
STEPS = 2  # in one turn
DTYPES = ("float32", "bfloat16")


class Form:
    """A process that works when it is its turn. checkout: whose engine. settings: how it loads the model."""

    def __init__(self, checkout: Path, model: Path, options: argparse.Namespace, **settings):
        told = {name: getattr(options, name) for name in ("width", "height", "device", "threads", "tokens")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--form", json.dumps({**told, "model": str(model), "settings": settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
            text=True,
        )
        began = self._answer()
        self.ready, self.picture = began["seconds"], torch.load(began["picture"])
        os.unlink(began["picture"])

    def turn(self, what: str) -> float:
        """Milliseconds."""
        assert self._process.stdin
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()["ms"]

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())


def serve(told: dict) -> None:
    """Be a form: print a line when it is ready, and one after each turn."""
    import sensenova_core
    from sensenova_core.settings import DecodingSettings

    torch.set_num_threads(told["threads"])
    device, size = torch.device(told["device"]), {"width": told["width"], "height": told["height"]}
    engine = sensenova_core.load(told["model"], device=device, **told["settings"])
    conditioning, decoding = engine.encode(PROMPT), DecodingSettings(max_tokens=told["tokens"])

    def draw(steps: int) -> torch.Tensor:
        *_, last = engine.sample(conditioning, steps=steps, **size)
        return last.pixels().float().cpu()

    began = time.perf_counter()
    picture = draw(4)
    with tempfile.NamedTemporaryFile(suffix=".pt", delete=False) as file:
        torch.save(picture, file)
    print(json.dumps({"seconds": time.perf_counter() - began, "picture": file.name}), flush=True)
    doing = {
        "step": lambda: draw(STEPS),
        "decoding": lambda: [*engine.understand(PROMPT, settings=decoding, choose=lambda *_: 7)],
    }
    for line in sys.stdin:
        start = clock(device)
        doing[line.strip()]()
        print(json.dumps({"ms": 1000 * (clock(device) - start)}), flush=True)


def measure(options: argparse.Namespace, folder: Path) -> dict:
    write_checkpoint(folder, model_config(options.geometry, options.layers))
    here, exact, rows = Path(__file__).parents[1], None, {}
    for dtype in DTYPES:
        forms = {"plain": Form(here, folder, options, dtype=dtype)}
        forms["compiled"] = Form(here, folder, options, dtype=dtype, compile=True)
        if options.before:
            forms["before"] = Form(options.before, folder, options, dtype=dtype)
        exact = forms["plain"].picture if exact is None else exact
        rows[dtype] = timed(forms, options.rounds, options.tokens)
        for name, form in forms.items():
            rows[dtype][name] |= {"ready_s": form.ready, "error": distance(form.picture, exact)}
            rows[dtype][name]["apart"] = distance(form.picture, forms["plain"].picture)
            form.end()
    return rows


def timed(forms: dict[str, Form], rounds: int, tokens: int) -> dict[str, dict[str, float]]:
    """By form: the median and the least of all rounds."""
    took: dict[str, dict[str, list[float]]] = {name: {"step": [], "decoding": []} for name in forms}
    for _ in range(rounds + 1):
        for what in ("step", "decoding"):
            for name, form in forms.items():
                took[name][what].append(form.turn(what))
    shares = {"step": STEPS, "decoding": tokens}
    return {
        name: {
            f"{least}{'step' if what == 'step' else 'token'}_ms": value(each[1:]) / shares[what]  # the first warms up
            for what, each in turns.items()
            for least, value in (("", median), ("least_", min))
        }
        for name, turns in took.items()
    }


def distance(picture: torch.Tensor, other: torch.Tensor) -> float:
    return ((picture - other).norm() / other.norm()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="narrow")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=200, help="of text in one turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("build/bench/compiled.json"))
    options = parser.parse_args()
    if options.form:
        serve(json.loads(options.form))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    print(json.dumps(rows, indent=2))
    save(options, rows=rows)


if __name__ == "__main__":
    main()
