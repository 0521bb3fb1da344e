"""`sensenova generate`: prompts in, PNG files out."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .models import add_model_option, resolve_model

DEFAULT_PROMPT = "A cute cat"

# One prompt's options, also the keys of a --jsonl line: name -> (type, default, help).
PICTURE_OPTIONS: dict[str, tuple[type, Any, str]] = {
    "prompt": (str, DEFAULT_PROMPT, "what to draw"),
    "width": (int, 2048, "pixels"),
    "height": (int, 2048, "pixels"),
    "seed": (int, 42, "random seed; the same seed draws the same picture"),
    "num_steps": (int, 50, "denoising steps"),
    "cfg_scale": (float, 4.0, "guidance by the prompt; 1 is off, and twice as fast"),
    "img_cfg_scale": (float, 1.0, "guidance by reference images; only an edit has any"),
    "cfg_norm": (str, "none", "none, global, channel or cfg_zero_star"),
    "timestep_shift": (float, 3.0, "over 1 spends more steps near the noise"),
    "t_eps": (float, 0.02, "smallest distance to the end that a velocity is divided by"),
    "batch_size": (int, 1, "images of each prompt"),
}


@dataclass(frozen=True)
class Job:
    """One prompt and its settings, as SamplingSettings."""

    prompt: str
    settings: Any


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "generate", help="draw from a prompt", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_model_option(parser)
    for name, (kind, default, text) in PICTURE_OPTIONS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, help=text)
    parser.add_argument(
        "--cfg-interval", type=float, nargs=2, default=(0.0, 1.0), metavar=("START", "END"), help="times with guidance"
    )
    parser.add_argument(
        "--jsonl", metavar="FILE", help="one prompt a line as JSON; its keys override the options above"
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of weights"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--attn-backend", choices=("auto", "sdpa", "flash"), default="auto", help="attention kernel")
    parser.add_argument("--output", "--output-dir", default=".", help="folder, or the name of a .png")
    parser.add_argument("--profile", action="store_true", help="print times and memory at the end")
    parser.set_defaults(run=run)


def run(options) -> int:
    jobs = read_jobs(options)
    from tqdm import tqdm

    from .. import engine as engines
    from ..profile import Profile

    profile = Profile(pick_device(options.device))
    with profile.loading():
        engine = engines.load(
            resolve_model(options.model), profile.device, options.dtype, attention=options.attn_backend
        )
    for job in jobs:
        job.settings.check_size(engine.config)
    conditionings = [engine.encode(job.prompt) for job in jobs]
    for job, conditioning in zip(jobs, conditionings, strict=True):
        tokens = job.settings.width * job.settings.height // engine.config.token_pixels**2
        with profile.generating(job.settings.batch_size, tokens):
            steps = tqdm(engine.denoise(conditioning, job.settings), total=job.settings.steps, unit="step")
            for step in steps:  # noqa: B007 - the last one is the result
                profile.tick()
            image = step.image()
        for path in save(image, job, Path(options.output), str(options.model)):
            print(path)
    if options.profile:
        backend = "sdpa" if options.attn_backend == "auto" else options.attn_backend
        dtype = str(engine.model.dtype).removeprefix("torch.")
        print(profile.summary("full", backend, dtype, engine.config.token_pixels))
    return 0


def read_jobs(options) -> list[Job]:
    """All prompts, every one checked before anything is loaded. Raises SettingsError naming the line."""
    flags = {name: getattr(options, name) for name in (*PICTURE_OPTIONS, "cfg_interval")}
    if options.jsonl is None:
        return [_job(flags)]
    try:
        lines = Path(options.jsonl).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--jsonl {options.jsonl}: {error}") from error
    jobs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                jobs.append(_job(flags | _overrides(line)))
            except SettingsError as error:
                raise SettingsError(f"--jsonl {options.jsonl}, line {number}: {error}") from error
    if not jobs:
        raise SettingsError(f"--jsonl {options.jsonl}: no prompt in it; write one JSON object a line")
    return jobs


def _overrides(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise SettingsError(f"not JSON ({error})") from error
    if not isinstance(values, dict) or "prompt" not in values:
        raise SettingsError('expected an object with a "prompt"')
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in values.items():
        if name == "cfg_interval":
            kind, fits = "two numbers", isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
        elif name in PICTURE_OPTIONS:
            kind = PICTURE_OPTIONS[name][0].__name__
            fits = _is_number(value) if kind == "float" else type(value).__name__ == kind
        else:
            raise SettingsError(f"{name!r} is unknown; the keys are {', '.join((*PICTURE_OPTIONS, 'cfg_interval'))}")
        if not fits:
            raise SettingsError(f"{name} is {value!r}; expected {kind}")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _job(values: dict[str, Any]) -> Job:
    from ..flow import Guidance
    from ..sampling import SamplingSettings

    guidance = Guidance(
        values["cfg_scale"], values["img_cfg_scale"], values["cfg_norm"], tuple(map(float, values["cfg_interval"]))
    )
    settings = SamplingSettings(
        width=values["width"],
        height=values["height"],
        steps=values["num_steps"],
        guidance=guidance,
        shift=values["timestep_shift"],
        t_eps=values["t_eps"],
        seed=values["seed"],
        batch_size=values["batch_size"],
    )
    return Job(values["prompt"], settings)


def pick_device(name: str):
    """The device of a name; "auto" is the first CUDA device, else the CPU. Raises SettingsError."""
    import torch

    from ..engine import device_named

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device_named(name)


def save(image, job: Job, output: Path, model: str) -> list[Path]:
    """Write a batch (images, height, width, 3) below a folder, or to a .png (numbered from the second image on)."""
    from ..png import next_free, save_png

    paths = []
    for index, picture in enumerate(image):
        if output.suffix.lower() == ".png":
            path = output if index == 0 else output.with_stem(f"{output.stem}_{index + 1}")
        else:
            path = next_free(output, "sensenova")
        settings = {"prompt": job.prompt, **job.settings.as_dict(), "batch_index": index, "model": Path(model).name}
        save_png(picture, path, settings)
        paths.append(path)
    return paths
