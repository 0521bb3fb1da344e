"""Options that several commands share, and the settings they make."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import SettingsError, check_count, quoted
from ..settings import ALL_KINDS, MAX_SIDE, DecodingSettings, SamplingSettings, Setting, settings_of

METAVARS = {"cfg_interval": ("START", "END"), "max_memory": "SIZE", "card": "SIZE", "ram": "SIZE"}
# The engine's name of a setting -> its option.
OPTIONS = {setting.name: setting.option for kind in ALL_KINDS for setting in settings_of(kind).values()}
log = logging.getLogger(__name__)


def flag(name: str) -> str:
    """num_steps -> --num-steps"""
    return "--" + name.replace("_", "-")


def option_of(name: str) -> str:
    """The option that gives the setting of a name in the engine: steps -> num_steps."""
    return OPTIONS.get(name, name)


def options_of(kind: type, *but: str) -> tuple[str, ...]:
    """The options that give the settings of a dataclass, without those of the names in `but`."""
    return tuple(setting.option for name, setting in settings_of(kind).items() if name not in but)


def add_settings(parser, kind: type, *names: str, but: tuple[str, ...] = (), **defaults: Any) -> None:
    """Options for settings of a dataclass: those of these names, or all where there is no name, without those of `but`.

    defaults: in place of the engine's.
    """
    for setting in settings_of(kind).values():
        if setting.name not in but and (not names or setting.name in names):
            _add_setting(parser, setting, defaults.get(setting.name, None if setting.automatic else setting.default))


def _add_setting(parser, setting: Setting, default: Any) -> None:
    text = help_of(setting).replace("%", "%%")
    if setting.kind is bool:
        parser.add_argument(flag(setting.option), action="store_true", help=text)
        return
    if default not in (None, ""):
        text += f" (default: {shown(default)})"
    taken: dict[str, Any] = {"type": float, "nargs": 2} if setting.kind is tuple else {"type": setting.kind}
    listed = f"{{{','.join(setting.choices)}}}" if setting.choices else None
    if setting.name not in settings_of(SamplingSettings):  # which are checked with the lines of --jsonl
        taken["choices"] = setting.choices or None
    metavar = METAVARS.get(setting.option, listed)
    parser.add_argument(flag(setting.option), **taken, default=default, metavar=metavar, help=text)


def help_of(setting: Setting) -> str:
    """What a setting does, with others called by their flags."""
    text = setting.help_as(lambda name: flag(option_of(name)))
    return f"With {flag(option_of(setting.needs))}: {text[0].lower()}{text[1:]}" if setting.needs else text


def shown(default: Any) -> str:
    """A default as it is typed."""
    return " ".join(f"{end:g}" for end in default) if isinstance(default, tuple) else str(default)


def given(options, kind: type) -> dict[str, Any]:
    """Name -> value of the settings of a dataclass that are among the options."""
    settings = settings_of(kind).values()
    return {each.name: getattr(options, each.option) for each in settings if hasattr(options, each.option)}


def add_image_options(parser, help: str) -> None:
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help=help)
    parser.add_argument("--max-pixels", type=int, help="scale each image down to so many pixels before it is read")


def check_max_pixels(options) -> None:
    """Raise SettingsError for a limit that no image could keep."""
    if options.max_pixels is not None:
        check_count("max_pixels", options.max_pixels, least=1)


def check_folder(folder: Path) -> None:
    """Raise SettingsError if nothing could be written below `folder`, which need not exist yet."""
    folder = folder.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise SettingsError(f"--output: {existing} cannot be written to; give another folder")


def add_reference_options(parser) -> None:
    """Flags of other tools for these models, so that their commands run here or say why not."""
    parser.add_argument("--tensor-parallel-size", type=int, default=1, help="1; several cards are not supported")
    parser.add_argument("--enable-cpu-offload", action="store_true", help="the same as --vram-mode balanced")
    parser.add_argument("--device-map", choices=("auto",), default="auto", help="accepted: --max-memory decides")
    parser.add_argument("--cache-backend", default="none", help="none; steps are not cached")
    parser.add_argument("--enable-cache-dit-summary", action="store_true", help="accepted: there is no cache to sum up")


def check_reference_options(options) -> None:
    """Raise SettingsError for what those flags ask and this engine does not do. --enable-cpu-offload, which it calls
    otherwise, sets the vram_mode."""
    if options.tensor_parallel_size != 1:
        raise SettingsError(f"--tensor-parallel-size {options.tensor_parallel_size}: one device only; leave it at 1")
    if options.enable_cpu_offload and options.vram_mode not in ("auto", "balanced"):
        raise SettingsError(
            f"--enable-cpu-offload means --vram-mode balanced, which --vram-mode {options.vram_mode} contradicts; "
            "give one of the two"
        )
    if options.enforce_eager and options.compile:
        raise SettingsError("--enforce-eager means not to compile, which --compile contradicts; give one of the two")
    if options.cache_backend.lower() != "none":
        raise SettingsError(f"--cache-backend {options.cache_backend}: steps are never cached; leave it out")
    if options.enable_cpu_offload:
        options.vram_mode = "balanced"


def warn_without_effect(options, names: Iterable[str], reason: str) -> None:
    """Warn of those of these options that have another value than their default, and say why they change nothing."""
    given = [flag(name) for name in names if getattr(options, name) != options.default(name)]
    if given:
        log.warning("%s: no effect %s", ", ".join(given), reason)


def sampling_settings(values: dict[str, Any], size: tuple[int, int]) -> SamplingSettings:
    """From values by the engine's names, drawn at (width, height). Raises SettingsError."""
    for name, side in zip(("width", "height"), size, strict=True):
        if side > MAX_SIDE:
            raise SettingsError(setting=name, value=side, remedy=f"give at most {MAX_SIDE} pixels")
    return SamplingSettings.of(**values | {"width": size[0], "height": size[1]})


def decoding_settings(options, kind: type[DecodingSettings] = DecodingSettings) -> DecodingSettings:
    """How the options have text written, or what else that is a `kind` of. Raises SettingsError."""
    if not options.do_sample:
        needing = [setting.option for setting in settings_of(kind).values() if setting.needs == "sample"]
        warn_without_effect(options, needing, "without --do-sample")
    return kind.of(**given(options, kind))


def named_size(name: str, sizes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) of a ratio such as 16:9 in a table of trained sizes. Raises SettingsError."""
    ratios = {label.split()[0]: size for label, size in sizes.items()}
    if name not in ratios:
        remedy = f"choose one of {', '.join(ratios)}, or give --width and --height"
        raise SettingsError(f"{quoted(name)} is unknown", remedy, setting="resolution", value=name)
    return ratios[name]
