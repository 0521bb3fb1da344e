"""What `sensenova generate` is asked to draw: one prompt from the options, or many from a file of JSON lines."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .models import open_images
from .options import PICTURE_OPTIONS, sampling_settings

DEFAULT_PROMPT = "A cute cat"
# Further keys of a line: name -> what it must be.
OTHER_KEYS = {
    "prompt": "text",
    "image": "a path or a list of paths",
    "cfg_interval": "two numbers",
    "batch_size": "int",
}


@dataclass(frozen=True, eq=False)
class Job:
    """One prompt with its images and settings."""

    prompt: str
    images: list
    settings: Any

    @property
    def size(self) -> tuple[int, int]:
        return self.settings.width, self.settings.height


def read_jobs(options) -> list[Job]:
    """All prompts, every one checked before anything is loaded. Raises SettingsError naming the line."""
    flags = {name: getattr(options, name) for name in (*PICTURE_OPTIONS, *OTHER_KEYS)}
    if options.jsonl is None:
        return [_job(flags, options)]
    try:
        lines = Path(options.jsonl).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--jsonl {options.jsonl}: {error}; give a text file of JSON lines") from error
    jobs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                jobs.append(_job(flags | _overrides(line), options))
            except ValueError as error:
                raise SettingsError(f"--jsonl {options.jsonl}, line {number}: {error}") from error
    if not jobs:
        raise SettingsError(f"--jsonl {options.jsonl}: no prompt in it; write one JSON object a line")
    return jobs


def _job(values: dict[str, Any], options) -> Job:
    paths = values["image"] or []
    images = open_images([paths] if isinstance(paths, str) else paths)
    if images and options.modality == "text2img":
        raise SettingsError("--modality text2img takes no --image; leave one of the two out")
    if not images and options.modality == "img2img":
        raise SettingsError("--modality img2img needs --image; give the picture to edit")
    size = _size(values["width"], values["height"], images, options.same_size)
    crop = options.crop or (options.same_size and bool(images))
    return Job(values["prompt"], images, sampling_settings(values, size, values["batch_size"], crop))


def _size(width: int | None, height: int | None, images: list, same_size: bool) -> tuple[int, int]:
    from ..sizes import edit_size

    automatic = (2048, 2048)
    if images:
        automatic = images[0].size if same_size else edit_size(*images[0].size)
    if images and (width is None) != (height is None):
        raise SettingsError("an edit's width and height go together; give both or neither")
    return automatic[0] if width is None else width, automatic[1] if height is None else height


def _overrides(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise SettingsError(f"not JSON ({error})") from error
    if not isinstance(values, dict) or "prompt" not in values:
        raise SettingsError('expected an object with a "prompt"')
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in values.items():
        if name in OTHER_KEYS:
            kind = OTHER_KEYS[name]
        elif name in PICTURE_OPTIONS:
            kind = PICTURE_OPTIONS[name][0].__name__
        else:
            raise SettingsError(f"{name!r} is unknown; the keys are {', '.join((*OTHER_KEYS, *PICTURE_OPTIONS))}")
        if not _fits(value, kind):
            raise SettingsError(f"{name} is {value!r}; expected {kind}")
    return values


def _fits(value: Any, kind: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    listed = isinstance(value, list)
    return {
        "text": isinstance(value, str),
        "str": isinstance(value, str),
        "int": number and isinstance(value, int),
        "float": number,
        "two numbers": listed and len(value) == 2 and all(_fits(end, "float") for end in value),
        "a path or a list of paths": isinstance(value, str)
        or (listed and all(isinstance(path, str) for path in value)),
    }[kind]
