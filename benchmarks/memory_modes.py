"""Time and memory of every mode and budget: a picture, a picture after reasoning, and an edit.

    python benchmarks/memory_modes.py --geometry u1-8b --device cuda             # the whole table; writes 35 GB first
    python benchmarks/memory_modes.py --checkpoint FOLDER --device cuda          # on weights that are there
    python benchmarks/memory_modes.py --cases full balanced 0=200MiB,cpu=1GiB --width 256 --height 256 --steps 4

A case is [task:]setting. task: picture (left out), thinking, edit. setting: a mode, a max_memory, or MODE@MAX_MEMORY.
Each runs in a process of its own, loads the checkpoint, and draws two pictures: the first brings the weights, the next
has another prompt (and reference) and is what others' figures are for. Writes JSON, and a PNG where matplotlib is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from cases import Case, Job, measure, rates
from checkpoint import write_checkpoint
from geometry import GEOMETRIES, model_config
from machine import machine
from plot import plot
from targets import NEWEST, REFERENCE, TARGETS, Check, bases_of, checks

from sensenova_core.checkpoint.checkpoint import read_config_json
from sensenova_core.errors import SenseNovaError
from sensenova_core.model.config import ModelConfig
from sensenova_core.settings import Guidance, SamplingSettings

CASES = (
    *("full", "27GiB", "20GiB", "13GiB", "9GiB", "7GiB", "balanced", "low"),
    *("thinking:full", "thinking:balanced", "edit:full", "edit:balanced"),
)


def is_reference_task(options, device: torch.device) -> bool:
    """Whether others' figures and the targets are for what is measured."""
    config = ModelConfig.from_dict(read_config_json(options.checkpoint))
    size = (config.decoder.num_layers, config.decoder.hidden_size, options.width, options.height, options.steps)
    return device.type == "cuda" and size == (42, 4096, 2048, 2048, 50)


def table(rows: list[dict], verdicts: dict[str, list[Check]]) -> str:
    """In Markdown. Times are of the next picture; memory is the peak of both. verdicts: by case, where there are any;
    the reference implementation's figures stand beside them."""
    columns = ["case", "s", "first, s", "ms a token", "device, GiB: allocated / reserved", "weights, GiB"]
    columns += ["system, GiB: own + files", "copied, GiB", "waited, s"]
    columns += ["the reference: s, GiB, system", "targets"] if verdicts else []
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [row["case"], row["error"]] if "error" in row else _cells(row)
        if "error" not in row and verdicts:
            missed = [str(check) for check in verdicts[row["case"]] if not check.ok]
            cells += [_others(row["case"]), "; ".join(missed) or "ok"]
        lines.append("| " + " | ".join(cells + [""] * (len(columns) - len(cells))) + " |")
    return "\n".join(lines)


def _cells(row: dict) -> list[str]:
    return [
        row["case"],
        f"{row['image_s']:.1f}",
        f"{row['first_image_s']:.1f}",
        "-" if row["token_s"] is None else f"{row['token_s'] * 1000:.1f}",
        f"{row['allocated_gib']:.2f} / {row['reserved_gib']:.2f}" if "allocated_gib" in row else "-",
        f"{row['weights_gib']:.2f}",
        f"{row['anon_gib']:.2f} + {row['file_gib']:.2f}" if "anon_gib" in row else f"{row['rss_gib']:.2f}",
        f"{row['copied_gib']:.1f}",
        f"{row.get('waiting_s', 0):.2f}",
    ]


def _others(case: str) -> str:
    if case not in REFERENCE:
        return "-"
    seconds, allocated, reserved, system = REFERENCE[case]
    newest = f" ({NEWEST[case]:.1f} in newer code)" if case in NEWEST else ""
    return f"{seconds:.1f}{newest}, {allocated:.2f} / {reserved:.2f}, {system:.1f}"


def series(rows: list[dict], aimed: dict[str, tuple[float, float]], reference: bool) -> dict:
    """Points to plot. aimed: the targets' own."""
    ours = {row["case"]: (row.get("reserved_gib", row["weights_gib"]), row["image_s"]) for row in rows}
    if not reference:
        return {"measured": ours}
    theirs = {case: (reserved, seconds) for case, (seconds, _, reserved, _) in REFERENCE.items()}
    return {"measured": ours, "targets": aimed, "the reference implementation, H100": theirs}


def aims(rows: dict[str, dict], speed: dict) -> dict[str, tuple[float, float]]:
    """The targets as (GiB, seconds)."""
    return {
        case: (target.reserved or target.allocated, bases_of(rows[case], rows["full"], speed).seconds(target))
        for case, target in TARGETS.items()
        if case in rows and "full" in rows
    }


def in_a_process(name: str, arguments: list[str]) -> dict:
    """One case's result file, from a process of its own; its error in place of figures when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "case.json"
        command = [sys.executable, __file__, *arguments, "--one-process", "--cases", name, "--output", str(output)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if not output.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return {"rows": [{"case": name, "error": lines[-1]}]}
        return json.loads(output.read_text(encoding="utf-8"))


def here(name: str, folder: Path, device: torch.device, dtype: str, job: Job) -> dict:
    """One case in this process; the machine's rates are measured when its memory has been given back."""
    try:
        rows = [measure(Case.named(name), folder, device, dtype, job)]
    except (SenseNovaError, torch.OutOfMemoryError) as error:
        rows = [{"case": name, "error": str(error).splitlines()[0]}]
    kind = getattr(torch, "bfloat16" if dtype == "auto" else dtype)
    return {"rows": rows, "rates": rates(device, kind)}


@contextmanager
def checkpoint_of(options) -> Iterator[Path]:
    """The folder to load; one that has to be written first is kept only where the user said where."""
    if options.checkpoint and (options.checkpoint / "config.json").is_file():
        yield options.checkpoint
        return
    config = model_config(options.geometry, options.layers)
    if options.checkpoint:
        write_checkpoint(options.checkpoint, config)
        yield options.checkpoint
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.output.parent, prefix="checkpoint-") as folder:
        write_checkpoint(Path(folder), config)
        yield Path(folder)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="a folder that is there, or where to write one and keep it")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small", help="of the checkpoint to write")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the geometry has")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto is as stored")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--height", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--tokens", type=int, default=256, help="of reasoning")
    parser.add_argument("--reference", type=int, default=2048, help="side of an edit's image in pixels")
    parser.add_argument("--one-process", action="store_true", help="quicker, but peaks hold what cases before left")
    parser.add_argument("--output", type=Path, default=Path("build/bench/memory_modes.json"))
    return parser.parse_args()


def arguments_of(options) -> list[str]:
    """What a case's own process is told."""
    names = ("checkpoint", "device", "dtype", "width", "height", "steps", "cfg", "tokens", "reference")
    return [part for name in names for part in (f"--{name}", str(getattr(options, name)))]


def run(options, device: torch.device) -> tuple[list[dict], dict]:
    """Rows of all cases, and the machine's rates: the best that any case found."""
    sampling = SamplingSettings(options.width, options.height, options.steps, Guidance(options.cfg))
    job, rows, speed = Job(sampling, options.tokens, options.reference), [], {}
    for name in options.cases:
        if options.one_process:
            result = here(name, options.checkpoint, device, options.dtype, job)
        else:
            result = in_a_process(name, arguments_of(options))
        rows += result["rows"]
        for rate, value in result.get("rates", {}).items():
            speed[rate] = max(value, speed.get(rate, 0.0))
        print(name, rows[-1].get("error") or f"{rows[-1]['image_s']:.2f} s", file=sys.stderr)
    return rows, speed


def report(options, device: torch.device, rows: list[dict], speed: dict) -> dict:
    """Print the table, the targets and the plans, and plot; returns what belongs in the result file."""
    done, reference = {row["case"]: row for row in rows if "error" not in row}, is_reference_task(options, device)
    verdicts = {
        name: list(checks(row, done, speed, Case.named(name).budget(device))) for name, row in done.items() if reference
    }
    print(table(rows, verdicts))
    for name, row in done.items():
        print(f"\n{name}\n{row['plan']}")
        for check in verdicts.get(name, ()):
            print(f"target   : {check}")
    points = series([*done.values()], aims(done, speed), reference)
    title = f"{options.width} x {options.height}, {options.steps} steps, {machine(device)['device']}"
    print(plot(points, title, options.output.with_suffix(".png")))
    return {
        "rates": speed,
        "rows": rows,
        "targets": {name: [str(check) for check in found] for name, found in verdicts.items()},
    }


def main() -> None:
    options = parsed()
    for name in options.cases:
        Case.named(name)
    device = torch.device(options.device)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint_of(options) as folder:
        options.checkpoint = folder
        rows, speed = run(options, device)
        result = {"machine": machine(device), "run": {name: str(value) for name, value in vars(options).items()}}
        result |= report(options, device, rows, speed)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(options.output)
    if any("error" in row for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
