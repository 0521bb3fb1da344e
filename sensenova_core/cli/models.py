"""Which model a command runs, and on what."""

import logging
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .. import DEMO
from ..errors import CheckpointError, SettingsError
from ..hub.download_record import Record
from ..hub.family import DEFAULT_MODEL
from ..settings import BEST_AREA, LoadSettings
from ..system.paths import is_there, path_of
from .options import add_settings, given

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..engine import Engine
    from ..report.profile import Profile

BUILT_IN = "demo"
COMFYUI_MODELS = Path("models/sensenova")  # below the folder that COMFYUI_PATH names
log = logging.getLogger(__name__)


def add_model_option(parser) -> None:
    parser.add_argument(
        "--model",
        "--model-path",
        default=DEFAULT_MODEL,
        metavar="PATH",
        help="checkpoint folder, .safetensors or .gguf file; or a hub id that has been downloaded already; or demo, "
        f"the tiny model that comes with this package (default: {DEFAULT_MODEL})",
    )


def add_running_options(parser) -> None:
    add_model_option(parser)
    add_running_settings(parser)
    add_lora_option(parser)
    parser.add_argument("--profile", action="store_true", help="print times and memory at the end")


def add_running_settings(parser, but: tuple[str, ...] = ()) -> None:
    """What a model runs on and how, without the settings of the names in `but`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add_settings(parser, LoadSettings, but=but)


def add_lora_option(parser) -> None:
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:STRENGTH]",
        help="a LoRA of this model, at strength 1 unless given; may be given several times",
    )


def resolve_model(model: str) -> Path:
    """A path as it is; "demo" as the built-in demo's; a hub id as its folder in COMFYUI_PATH or in the local hub cache.

    Never downloads; raises CheckpointError.
    """
    path = path_of(model)
    if model == BUILT_IN and not path.exists():
        return DEMO
    if path.exists() or model.count("/") != 1 or model.startswith((".", "/", "~")):
        return path
    comfyui = os.environ.get("COMFYUI_PATH")
    if comfyui and _holds(folder := Path(comfyui).expanduser() / COMFYUI_MODELS / path.name, model):
        return folder
    from huggingface_hub.constants import HF_HUB_CACHE

    from ..checkpoint.files import is_hub_repository, snapshot_of

    repository = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    if is_hub_repository(repository):
        return snapshot_of(repository)
    raise CheckpointError(
        f"{model}: no such folder, and nothing under that id in the local hub cache; "
        f"give a path with --model, or run: sensenova download {model}; --model {BUILT_IN} needs no files"
    )


def _holds(folder: Path, model: str) -> bool:
    """Whether a folder of the name of a hub id has a checkpoint, and was not downloaded from elsewhere."""
    record = Record.of(folder)
    if record is None:
        return (folder / "config.json").is_file()
    return record.whole and record.is_of(model)


@cache
def best_area(model: str) -> int:
    """Pixels of the pictures that a model draws best; those of the published ones for a model that cannot be read."""
    from ..checkpoint import open_checkpoint

    try:
        return open_checkpoint(resolve_model(model)).config.best_area
    except CheckpointError:
        return BEST_AREA


def pick_device(name: str) -> "torch.device":
    """The device of a name; "auto" is the first CUDA device, else the CPU. Raises SettingsError."""
    import torch

    from ..model.devices import device_named

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return device_named(name)
    except SettingsError as error:
        remedy = f"choose one of auto, {', '.join(_devices())}"
        raise SettingsError(f"{name}: not on this machine", remedy, setting="device", value=name) from error


def _devices() -> list[str]:
    """Names of all that torch can compute on here."""
    import torch

    others = {"mps": torch.backends.mps, "xpu": torch.xpu}
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(name for name, kind in others.items() if kind.is_available())]


def open_engine(options) -> "tuple[Engine, Profile]":
    """The engine that `add_running_options` describe, its weights on disk for now, and what loading it took."""
    from ..report.profile import Profile

    profile = Profile(pick_device(options.device))
    with profile.loading():
        engine = engine_of(options)
        for line in engine.checkpoint.found().splitlines():
            log.info(line)
        warn_of_loras(engine, options)
        _hold_to(engine.memory.limits.device, engine.device)
    return engine, profile


def engine_of(options) -> "Engine":
    """The engine that the options describe, with its LoRAs. Raises SettingsError, CheckpointError."""
    from ..engine import Engine

    settings = LoadSettings.of(device=pick_device(options.device), **given(options, LoadSettings))
    engine = Engine(resolve_model(options.model), settings)
    engine.use_loras([parse_lora(text) for text in options.lora])
    return engine


def parse_lora(text: str) -> tuple[str, float]:
    """ "x.safetensors:0.5" -> path and strength, 1 where none is given. A drive's colon is part of the path.

    Raises SettingsError for no path, and for a file with a strength that is no number.
    """
    if not text:
        raise SettingsError("--lora is empty; give PATH or PATH:STRENGTH")
    path, _, strength = text.rpartition(":")
    if len(path) < 2 or is_there(str(path_of(text))):
        return text, 1.0
    try:
        return path, float(strength)
    except ValueError as error:
        if path_of(path).is_file():
            raise SettingsError(f"--lora {text}: {strength!r} is no strength; give a number, such as 0.5") from error
        return text, 1.0


def warn_of_loras(engine: "Engine", options) -> None:
    """Of bases that do not match, and of settings that a distilled one is not made for."""
    from ..lora.presets import mismatch, preset_of

    used = [(engine.read_lora(path), strength) for path, strength in engine.loras]
    for lora, _ in used:
        for note in lora.notes:
            log.info(note)
        if warning := mismatch(lora, engine.config, engine.name):
            log.warning(warning)
    preset = preset_of(used)
    given = [getattr(options, name, None) for name in ("num_steps", "cfg_scale", "timestep_shift")]
    if preset and None not in given and given != [preset.steps, preset.cfg, preset.shift]:
        log.warning(
            "a LoRA is made for %s: draw with --num-steps %d --cfg-scale %g --timestep-shift %g",
            *(preset, preset.steps, preset.cfg, preset.shift),
        )


def _hold_to(limit: int | None, device: "torch.device") -> None:
    """Have torch itself keep to a limit: this process has the card's memory to itself, unlike a server's nodes."""
    import torch

    if limit is not None and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)


def open_images(paths: Iterable) -> "list[Image.Image]":
    """Picture files as PIL images, upright; a PIL image stays as it is. Raises PromptError naming the file."""
    from PIL import Image

    from ..reading.picture_files import open_picture

    return [path if isinstance(path, Image.Image) else open_picture(path) for path in paths]
