"""Milliseconds a token of text: plain, as one graph, and by another checkout, taking turns in one run.

    git worktree add build/before COMMIT
    PYTHONPATH=. python benchmarks/tokens.py --before build/before               # hidden 768, 8 layers, 200 tokens
    PYTHONPATH=. python benchmarks/tokens.py --geometry u1-8b --device cuda

Each form runs in a process of its own with the same checkpoint of random weights, and works when it is its turn. On a
CPU the milliseconds are the processor's own, and a "graph" is its plain form: the same work on buffers that stay, from
constants that are made once. Greedy, and sampled with top_k, top_p and a repetition penalty. Writes JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from checkpoint import write_checkpoint
from geometry import GEOMETRIES, model_config
from machine import save
from turns import clock

DTYPES = ("float32", "bfloat16")
SAMPLED = {"sample": True, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}
CHOSEN = {"greedy": {}, "sampled": SAMPLED}


class Form:
    """A process that writes when it is its turn. checkout: whose engine."""

    def __init__(self, checkout: Path, told: dict):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--form", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
            text=True,
        )

    def turn(self, chosen: str) -> float:
        """Milliseconds of all its tokens."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(chosen + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def serve(told: dict) -> None:
    """Be a form: print a line after each turn."""
    import sensenova_core
    from sensenova_core.settings import DecodingSettings
    from sensenova_core.writing.decode import chooser

    torch.set_num_threads(told["threads"])
    device = torch.device(told["device"])
    engine = sensenova_core.load(told["model"], device=device, dtype=told["dtype"])
    if told["graph"] and device.type == "cpu":
        from sensenova_core.model.capture import again

        engine.reader.capture = again
    if not told["graph"] and hasattr(engine.reader, "capture"):
        engine.reader.capture = None
    for line in sys.stdin:
        settings = DecodingSettings(max_tokens=told["tokens"], **CHOSEN[line.strip()])
        own = chooser(settings)

        def choose(logits: torch.Tensor, chosen: list[int], own=own) -> int:
            own(logits, chosen)
            return 7 + len(chosen) % 50  # whatever it was: no text ends before the others

        engine.remembered.forget()
        start = clock(device)
        for _ in engine.understand("what is it?", settings=settings, choose=choose):
            pass
        print(json.dumps(1000 * (clock(device) - start)), flush=True)


def measure(options: argparse.Namespace, folder: Path) -> dict:
    write_checkpoint(folder, model_config(options.geometry, options.layers))
    here, rows = Path(__file__).parents[1], {}
    told = {"model": str(folder), "device": options.device, "threads": options.threads, "tokens": options.tokens}
    for dtype in DTYPES:
        forms = {name: Form(here, told | {"dtype": dtype, "graph": name == "graph"}) for name in ("plain", "graph")}
        if options.before:
            forms["before"] = Form(options.before, told | {"dtype": dtype, "graph": False})
        rows[dtype] = timed(forms, options.rounds, options.tokens)
        for form in forms.values():
            form.end()
    return rows


def timed(forms: dict[str, Form], rounds: int, tokens: int) -> dict[str, dict[str, float]]:
    """By form, milliseconds a token with the prompt's reading: the median and the least of all rounds."""
    took: dict[str, dict[str, list[float]]] = {name: {chosen: [] for chosen in CHOSEN} for name in forms}
    for _ in range(rounds + 1):
        for chosen in CHOSEN:
            for name, form in forms.items():
                took[name][chosen].append(form.turn(chosen))
    return {
        name: {
            f"{least}{chosen}_ms": value(each[1:]) / tokens  # the first warms up
            for chosen, each in turns.items()
            for least, value in (("", median), ("least_", min))
        }
        for name, turns in took.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="narrow")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("build/bench/tokens.json"))
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
