"""Rehearse runs of a real model on cards that are not here: launches, traffic, waits and memory of every kernel.

    PYTHONPATH=. python benchmarks/rehearsal.py                          # U1-8B, 2048 x 2048, the whole table
    PYTHONPATH=. python benchmarks/rehearsal.py --modes full 7GiB --rows 20

The real CUDA path runs on the pretended card of tests/pretend, with sizes in place of numbers. Times are arithmetic:
each kernel takes as long as its bytes or operations do at the card's rates, and the host 5 us for a launch. Nothing
here was measured on a card. Writes JSON.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from machine import machine

from tests.model.test_full_size import MODELS
from tests.pretend.card import H200, RTX_4090, Notes
from tests.pretend.walk import walking, write_holes

GIB, GB = 2**30, 10**9
LAUNCH = 5e-6  # seconds of the host
CARDS = (H200, RTX_4090)
MODES = ("full", "balanced", "low", "20GiB", "13GiB", "9GiB", "7GiB")
CAPTURED = 11  # the number of a token that a graph writes, where there are graphs
NAMED = ("auto", "full", "balanced", "low")
TASKS = {
    "a picture": lambda walk, side: walk.draw(side=side),
    "an edit of two references": lambda walk, side: walk.draw(references=2, side=side, steps=1),
    "a thought of 8 tokens": lambda walk, side: walk.think(8, side=side),
    "an answer about a picture": lambda walk, side: walk.answer(8, references=1),
    "a short answer": lambda walk, side: walk.answer(CAPTURED + 2),
    "a document of two pictures": lambda walk, side: walk.document(2, side=side * 3 // 4),
}


def figures(notes: Notes) -> dict:
    """Of a step or a token: milliseconds by kind of kernel on each card, and what does not depend on the card."""
    times: dict[str, dict[str, float]] = {}
    for card in CARDS:
        kinds: dict[str, float] = defaultdict(float)
        for row in notes.computing():
            kinds[row.kind] += 1000 * row.seconds(card)
        times[card.name] = dict(kinds)
    return {
        "launches": notes.launches,
        "launches_ms": 1000 * LAUNCH * notes.launches,
        "traffic_gb": notes.moved("elementwise", "copy") / GB,
        "waits": notes.waits.total(),
        "copied_gb": notes.copied / GB,
        "kernels_ms": times,
    }


def walked(checkpoint: Path, mode: str, *, task: str, side: int) -> tuple[dict, dict[str, Notes]]:
    settings = {"vram_mode": mode} if mode in NAMED else {"max_memory": mode}
    with walking(checkpoint, **settings) as walk:
        TASKS[task](walk, side)
        row = {
            "task": task,
            "mode": mode,
            "planned_gib": walk.planned / GIB,
            "reserved_gib": walk.reserved / GIB,
            "allocated_gib": walk.card.allocator.most["allocated"] / GIB,
            "races": walk.card.order.races.total(),
            "faults": dict(walk.card.faults),
        }
        return row, dict(walk.card.noted)


def print_kind(name: str, found: dict) -> None:
    print(f"{name}: {found['launches']} launches ({found['launches_ms']:.1f} ms of the host), "
          f"{found['traffic_gb']:.1f} GB elementwise, {found['waits']} waits")  # fmt: skip
    for card, kinds in found["kernels_ms"].items():
        parts = ", ".join(f"{kind} {time:.1f}" for kind, time in kinds.items())
        print(f"    {card}: {sum(kinds.values()):.1f} ms of kernels: {parts}")


def print_rows(notes: Notes, count: int) -> None:
    """The lines of the engine whose kernels take longest on the first card."""
    rows = sorted(notes.rows.items(), key=lambda item: -item[1].seconds(CARDS[0]))
    for (stream, name, line), row in rows[:count]:
        time, moved = 1000 * row.seconds(CARDS[0]), (row.read + row.written) / GB
        print(f"    {time:8.3f} ms {row.kernels:5} x {name} at {line}, {stream}: {moved:.3f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="U1-8B-MoT")
    parser.add_argument("--layers", type=int, help="fewer than the model has")
    parser.add_argument("--side", type=int, default=2048, help="pixels of a picture")
    parser.add_argument("--modes", nargs="+", default=MODES, help="vram_mode, or a size for max_memory")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", type=int, default=0, help="print so many of the lines that take longest in a step")
    parser.add_argument("--output", type=Path, default=Path("build/bench/rehearsal.json"))
    options = parser.parse_args()
    result = {
        "machine": machine(torch.device("cpu")),
        "run": {"model": options.model, "layers": options.layers, "side": options.side},
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_holes(Path(folder), options.model, options.layers)
        _, drawn = walked(checkpoint, "full", task="a picture", side=options.side)
        _, written = walked(checkpoint, "full", task="a short answer", side=options.side)
        parts = {"step": drawn["step 2"], "first tokens": written["token 3"], "token": written[f"token {CAPTURED}"]}
        for name, notes in parts.items():
            result[name] = figures(notes)
            print_kind(name, result[name])
            print_rows(notes, options.rows)
        result["rows"] = []
        print("| task | mode | planned | reserved | allocated, GiB |\n|---|---|---|---|---|")
        for task in options.tasks:
            for mode in options.modes:
                row, _ = walked(checkpoint, mode, task=task, side=options.side)
                result["rows"].append(row)
                sizes = " | ".join(f"{row[f'{name}_gib']:.2f}" for name in ("planned", "reserved", "allocated"))
                print(f"| {task} | {mode} | {sizes} |", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
