"""Which model a command runs, and on what."""

import logging
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .. import DEMO
from ..errors import CheckpointError, SettingsError
from ..hub.download import DEFAULT_MODEL
from ..hub.download_record import Record

BUILT_IN = "demo"
COMFYUI_MODELS = Path("models/sensenova")  # below the folder that COMFYUI_PATH names
VRAM_MODES = ("auto", "full", "balanced", "low")
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
    add_device_options(parser)
    parser.add_argument("--attn-backend", choices=("auto", "sdpa", "flash"), default="auto", help="attention kernel")
    add_memory_options(parser)
    add_lora_option(parser)
    parser.add_argument("--profile", action="store_true", help="print times and memory at the end")


def add_device_options(parser) -> None:
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of weights"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def add_memory_options(parser) -> None:
    parser.add_argument(
        "--vram-mode",
        choices=VRAM_MODES,
        default="auto",
        help="full: the expert in use stays on the card; balanced: its layers stream through three buffers; low: "
        "through two; auto: as many layers stay as fit (default: auto)",
    )
    parser.add_argument(
        "--max-memory",
        default="auto",
        metavar="SIZE",
        help="of the card for everything, such as 13GiB, or 0=13GiB,cpu=24GiB; in GiB, MiB and KiB (of 1024), GB, MB "
        "and KB (of 1000) (default: auto, what is free)",
    )


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
    path = Path(model).expanduser()
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
    """Pixels of the pictures that a model draws best; of one that cannot be read, which loading will say."""
    from ..checkpoint import open_checkpoint
    from ..settings import BEST_AREA

    try:
        return open_checkpoint(resolve_model(model)).config.best_area
    except CheckpointError:
        return BEST_AREA


def pick_device(name: str):
    """The device of a name; "auto" is the first CUDA device, else the CPU. Raises SettingsError."""
    import torch

    from ..model.devices import device_named

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return device_named(name)
    except SettingsError as error:
        raise SettingsError(
            f"device {name}: not on this machine; choose one of auto, {', '.join(_devices())}"
        ) from error


def _devices() -> list[str]:
    """Names of all that torch can compute on here."""
    import torch

    others = {"mps": torch.backends.mps, "xpu": torch.xpu}
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(name for name, kind in others.items() if kind.is_available())]


def open_engine(options, place: bool = True):
    """The engine that `add_running_options` describe; place=False leaves its weights on disk for now."""
    from ..engine import load

    device = pick_device(options.device)
    engine = load(
        resolve_model(options.model),
        device,
        options.dtype,
        options.vram_mode,
        options.max_memory,
        options.attn_backend,
        place,
        [parse_lora(text) for text in options.lora],
    )
    for line in engine.checkpoint.found().splitlines():
        log.info(line)
    warn_of_loras(engine, options)
    _hold_to(engine.memory.limits.device, device)
    return engine


def parse_lora(text: str) -> tuple[str, float]:
    """ "x.safetensors:0.5" -> path and strength, 1 where none is given. A drive's colon is part of the path.

    Raises SettingsError for no path, and for a file with a strength that is no number.
    """
    if not text:
        raise SettingsError("--lora is empty; give PATH or PATH:STRENGTH")
    path, _, strength = text.rpartition(":")
    if len(path) < 2 or Path(text).exists():
        return text, 1.0
    try:
        return path, float(strength)
    except ValueError as error:
        if Path(path).is_file():
            raise SettingsError(f"--lora {text}: {strength!r} is no strength; give a number, such as 0.5") from error
        return text, 1.0


def warn_of_loras(engine, options) -> None:
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


def _hold_to(limit: int | None, device) -> None:
    """Have torch itself keep to a limit: this process has the card's memory to itself, unlike a server's nodes."""
    import torch

    if limit is not None and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)


def open_images(paths: Iterable) -> list:
    """Picture files as PIL images, upright; a PIL image stays as it is. Raises PromptError naming the file."""
    from PIL import Image

    from ..reading.picture_files import open_picture

    return [path if isinstance(path, Image.Image) else open_picture(path) for path in paths]
