"""Options that several commands share, and the settings they make."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import SettingsError

# Options of one picture, also the keys of a --jsonl line: name -> (type, default, help).
PICTURE_OPTIONS: dict[str, tuple[type, Any, str]] = {
    "width": (int, None, "pixels (default: what the model draws best; for an edit, from its first image)"),
    "height": (int, None, "pixels (default: what the model draws best; for an edit, from its first image)"),
    "seed": (int, 42, "random seed; the same seed draws the same picture"),
    "num_steps": (int, 50, "denoising steps"),
    "cfg_scale": (float, 4.0, "guidance by the prompt; 1 is off, and half the work"),
    "img_cfg_scale": (float, 1.0, "guidance by images; only an edit or a document has any"),
    "cfg_norm": (str, "none", "none, global, channel or cfg_zero_star"),
    "timestep_shift": (float, 3.0, "over 1 spends more steps near the noise"),
    "t_eps": (float, 0.02, "smallest distance to the end that a velocity is divided by"),
}
TEXT_OPTIONS: dict[str, tuple[type, Any, str]] = {
    "temperature": (float, 0.7, "with --do-sample: higher is more varied"),
    "top_k": (int, 0, "with --do-sample: only the likeliest so many tokens; 0 is off"),
    "top_p": (float, 1.0, "with --do-sample: only the likeliest tokens that reach this likelihood; 1 is off"),
    "repetition_penalty": (float, 1.0, "over 1 discourages tokens that were written already"),
}

SAMPLING_ONLY = ("temperature", "top_k", "top_p")
MAX_SIDE = 16_384  # pixels; far over what a model draws well, and a few more only run out of memory
log = logging.getLogger(__name__)


def add_options(parser, options: dict[str, tuple[type, Any, str]]) -> None:
    for name, (kind, default, text) in options.items():
        shown = text if default is None else f"{text} (default: {default})"
        parser.add_argument(flag(name), type=kind, default=default, help=shown)


def add_interval_option(parser) -> None:
    parser.add_argument(
        "--cfg-interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("START", "END"),
        help="first and last time with guidance (default: 0 1)",
    )


def add_text_options(parser, max_tokens: int) -> None:
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, help=f"text tokens at most (default: {max_tokens})"
    )
    parser.add_argument("--do-sample", action="store_true", help="draw tokens at random instead of the likeliest ones")
    add_options(parser, TEXT_OPTIONS)


def check_folder(folder: Path) -> None:
    """Raise SettingsError if nothing could be written below `folder`, which need not exist yet."""
    folder = folder.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise SettingsError(f"--output: {existing} cannot be written to; give another folder")


def add_reference_options(parser) -> None:
    """Flags of other tools for these models, so that their commands run here or say why not."""
    parser.add_argument("--tensor-parallel-size", type=int, default=1, help="1; several cards are not supported")
    parser.add_argument("--enforce-eager", action="store_true", help="accepted: nothing is compiled here")
    parser.add_argument("--enable-cpu-offload", action="store_true", help="the same as --vram-mode balanced")
    parser.add_argument("--device-map", choices=("auto",), default="auto", help="accepted: --max-memory decides")
    parser.add_argument("--cache-backend", default="none", help="none; steps are not cached")
    parser.add_argument("--enable-cache-dit-summary", action="store_true", help="accepted: there is no cache to sum up")


def check_reference_options(options) -> None:
    """Raise SettingsError for what those flags ask and this engine does not do; what it calls otherwise is set."""
    if options.tensor_parallel_size != 1:
        raise SettingsError(f"--tensor-parallel-size {options.tensor_parallel_size}: one device only; leave it at 1")
    if options.enable_cpu_offload and options.vram_mode not in ("auto", "balanced"):
        raise SettingsError(
            f"--enable-cpu-offload means --vram-mode balanced, which --vram-mode {options.vram_mode} contradicts; "
            "give one of the two"
        )
    if options.cache_backend.lower() != "none":
        raise SettingsError(f"--cache-backend {options.cache_backend}: steps are never cached; leave it out")
    if options.enable_cpu_offload:
        options.vram_mode = "balanced"


def flag(name: str) -> str:
    """num_steps -> --num-steps"""
    return "--" + name.replace("_", "-")


def warn_without_effect(options, names: Iterable[str], reason: str) -> None:
    """Name those of these options that were given, and why they change nothing. A default may be spelled out."""
    given = [flag(name) for name in names if getattr(options, name) != options.default(name)]
    if given:
        log.warning("%s: no effect %s", ", ".join(given), reason)


def sampling_settings(values: dict[str, Any], size: tuple[int, int], batch_size: int = 1, crop: bool = False):
    """SamplingSettings from picture options by name; size is (width, height). Raises SettingsError."""
    from ..settings import Guidance, SamplingSettings

    for name, side in zip(("width", "height"), size, strict=True):
        if side > MAX_SIDE:
            raise SettingsError(f"{name} is {side}; give at most {MAX_SIDE} pixels")
    start, end = values["cfg_interval"]
    guidance = Guidance(values["cfg_scale"], values["img_cfg_scale"], values["cfg_norm"], (float(start), float(end)))
    return SamplingSettings(
        width=size[0],
        height=size[1],
        steps=values["num_steps"],
        guidance=guidance,
        shift=values["timestep_shift"],
        t_eps=values["t_eps"],
        seed=values["seed"],
        batch_size=batch_size,
        crop=crop,
    )


def decoding_settings(options, limit: str = "max_tokens"):
    """DecodingSettings from text options; `limit` is the one that counts tokens. Raises SettingsError."""
    from ..settings import DecodingSettings

    if not options.do_sample:
        warn_without_effect(options, SAMPLING_ONLY, "without --do-sample")
    try:
        return DecodingSettings(
            getattr(options, limit),
            sample=options.do_sample,
            **{name: getattr(options, name) for name in (*TEXT_OPTIONS, "seed")},
        )
    except SettingsError as error:
        raise SettingsError(str(error).replace("max_tokens", limit)) from error


def named_size(name: str, sizes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) of a ratio such as 16:9 in a table of trained sizes. Raises SettingsError."""
    ratios = {label.split()[0]: size for label, size in sizes.items()}
    if name not in ratios:
        raise SettingsError(
            f"resolution {name!r} is unknown; choose one of {', '.join(ratios)}, or give --width and --height"
        )
    return ratios[name]
