"""What `sensenova generate` is asked to draw: one prompt from the options, or many from a file of JSON lines."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SenseNovaError, SettingsError, quoted
from ..settings import MAX_IMAGES, SamplingSettings, edit_pixel_limits, settings_of
from .errors import message
from .models import best_area, open_images
from .options import given, sampling_settings
from .painting import canvas_of, check_painting

if TYPE_CHECKING:
    from ..drawing.canvas import Canvas
    from ..engine import Engine
    from ..reading.images import ReferenceImage
    from ..reading.prompt import Conditioning

DEFAULT_PROMPT = "A cute cat"
# What a picture's settings are called in a line, and what they are in the engine.
SETTINGS = {setting.option: setting for name, setting in settings_of(SamplingSettings).items() if name != "crop"}
# The keys of a line: name -> what it must be.
KEYS = {"prompt": "text", "image": "a path or a list of paths", "init_image": "a path", "mask": "a path"}
KEYS |= {option: {tuple: "two numbers"}.get(each.kind, each.kind.__name__) for option, each in SETTINGS.items()}


@dataclass(frozen=True)
class Source:
    """Where a prompt stands: among the options, or in a line of --jsonl. values: the options that the line sets."""

    options: Any
    line: int | None
    values: dict[str, Any]

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have an error in here name file and line."""
        try:
            yield
        except SenseNovaError as error:
            if self.line is None:
                raise
            known = isinstance(error, SettingsError)
            text = message(error, self.options, self.values) if known else str(error)
            raise type(error)(f"--jsonl {self.options.jsonl}, line {self.line}: {text}") from error


@dataclass(frozen=True)
class Job:
    """One prompt with its settings, its image files (of a pipe the image itself) and their sizes (width, height).

    init_image, mask: of the picture that it begins from, likewise; None for none.
    """

    source: Source
    prompt: str
    paths: tuple[Any, ...]
    sizes: tuple[tuple[int, int], ...]
    settings: SamplingSettings
    init_image: Any = None
    mask: Any = None
    key: str = ""  # of a line of --jsonl: see record.py

    @property
    def size(self) -> tuple[int, int]:
        return self.settings.width, self.settings.height

    @property
    def rounds(self) -> int:
        """How often the model may revise its picture; 0 where it is not asked to."""
        return self.source.options.self_correct or 0

    @property
    def pictures(self) -> int:
        """How many there will be, revisions included; of these fewer, where the model is content sooner."""
        return self.settings.batch_size + self.rounds

    def check(self, engine: "Engine") -> None:
        """Raise what reading and drawing would, as far as it can be known without weights and pixels."""
        images = tuple(self._stand_in(size, engine) for size in self.sizes)
        if self.rounds:
            engine.prompts.self_correction(self.prompt, images)
        canvas = None if self.init_image is None else _blank(self.size)
        engine.denoise(engine.prompts.picture(self.prompt, images), self.settings, canvas=canvas)

    def _stand_in(self, size: tuple[int, int], engine: "Engine") -> "ReferenceImage":
        """A reference of that (width, height), without its pixels."""
        import torch

        from ..reading.images import ReferenceImage, grid_read

        side, budget = engine.config.token_pixels, self.source.options.max_pixels
        limits = edit_pixel_limits(len(self.sizes), engine.config.best_area)
        grid = grid_read(size[1], size[0], side, limits=limits, budget=budget)
        return ReferenceImage(torch.empty(3, grid.height, grid.width, dtype=torch.float32, device="meta"), grid, size)

    def encode(self, engine: "Engine") -> "Conditioning":
        """The conditioning; opens the images, which nothing else holds."""
        return engine.encode(self.prompt, open_images(self.paths), max_pixels=self.source.options.max_pixels)

    def canvas(self) -> "Canvas | None":
        """What it begins from; opens the files, as `encode` does."""
        return canvas_of(self.init_image, self.mask, self.size)


def _blank(size: tuple[int, int]) -> "Canvas":
    """A picture of that (width, height), without its pixels."""
    import torch

    from ..drawing.canvas import Canvas

    return Canvas(torch.empty(1, size[1], size[0], 3, device="meta", dtype=torch.float32))


def read_jobs(options) -> list[Job]:
    """All prompts, every one and its images checked before anything is loaded. Raises an error naming the line."""
    sizes: dict[str, tuple[Any, tuple[int, int]]] = {}
    if options.jsonl is None:
        return [_job(Source(options, None, {}), sizes)]
    try:
        lines = Path(options.jsonl).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--jsonl {options.jsonl}: {error}; give a text file of JSON lines") from error
    jobs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            with Source(options, number, KEYS).named():
                values = _overrides(line)
            with Source(options, number, values).named():
                jobs.append(_job(Source(options, number, values), sizes))
    if not jobs:
        raise SettingsError(f"--jsonl {options.jsonl}: no prompt in it; write one JSON object a line")
    return jobs


def _job(source: Source, measured: dict[str, tuple[Any, tuple[int, int]]]) -> Job:
    """measured: what to open again, and the sizes, of images that were opened before; gets those of this job."""
    options = source.options
    line = {key: getattr(options, key) for key in ("prompt", "image", "init_image", "mask")} | source.values
    values = given(options, SamplingSettings)
    values |= {SETTINGS[key].name: value for key, value in source.values.items() if key in SETTINGS}
    paths = (line["image"],) if isinstance(line["image"], str) else tuple(line["image"])
    _check_images(len(paths), options.modality)
    check_painting(line["init_image"], line["mask"], denoise=values["denoise"])
    begun = [path for path in (line["init_image"], line["mask"]) if path is not None]
    for path in (*paths, *begun):
        _measure(path, measured)
    sizes = tuple(measured[path][1] for path in paths)
    first = measured[begun[0]][1] if begun else None
    size = _size((values["width"], values["height"]), sizes, options, begun=first)
    values["crop"] |= size in (first, *sizes[:1] * options.same_size)
    prompt = DEFAULT_PROMPT if line["prompt"] is None else line["prompt"]
    images = tuple(measured[path][0] for path in paths)
    init_image, mask, *_ = (*(measured[path][0] for path in begun), None, None)
    settings = sampling_settings(values, size)
    return Job(
        source=source, prompt=prompt, paths=images, sizes=sizes, settings=settings, init_image=init_image, mask=mask
    )


def _measure(path: str, measured: dict[str, tuple[Any, tuple[int, int]]]) -> None:
    """Open a picture that was not opened before, so that what is wrong with it is known now."""
    from ..reading.picture_files import is_pipe

    if path not in measured:
        once = is_pipe(path)
        [image] = open_images([path])
        measured[path] = (image if once else path, image.size)


def _check_images(images: int, modality: str) -> None:
    if images and modality == "text2img":
        raise SettingsError("--modality text2img takes no --image; leave one of the two out")
    if not images and modality == "img2img":
        raise SettingsError("--modality img2img needs --image; give the picture to edit")
    if images > MAX_IMAGES:
        raise SettingsError(f"{images} images; give at most {MAX_IMAGES}")


def _size(
    asked: tuple[int | None, int | None],
    images: tuple[tuple[int, int], ...],
    options,
    *,
    begun: tuple[int, int] | None,
) -> tuple[int, int]:
    """(width, height) to draw at. asked: by options or a line. images: (width, height) of each that is edited. begun:
    of the picture that is begun from."""
    from ..drawing.sizes import best_size

    width, height = asked
    if images and options.same_size and (width, height) != (None, None):
        given = f"width {width}" if height is None else f"height {height}" if width is None else f"{width} x {height}"
        raise SettingsError(f"--same-size is the first image's size, and {given} is another; give one of the two")
    if images and (width is None) != (height is None):
        raise SettingsError("an edit's width and height go together; give both or neither")
    if width is not None and height is not None:
        return width, height
    if images and options.same_size:
        return images[0]
    if begun is not None and (width, height) == (None, None):
        return begun
    automatic = best_size(best_area(options.model), image=images[0] if images else None)
    return automatic[0] if width is None else width, automatic[1] if height is None else height


def _overrides(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"not JSON ({error})") from error
    if not isinstance(values, dict) or "prompt" not in values:
        raise SettingsError('expected an object with a "prompt"')
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in values.items():
        if name not in KEYS:
            raise SettingsError(f"{quoted(name)} is unknown", f"the keys are {', '.join(KEYS)}")
        if not _fits(value, KEYS[name]):
            shown = json.dumps(value) if value is None or isinstance(value, bool) else quoted(value)
            raise SettingsError(f"{name} is {shown}", f"expected {KEYS[name]}")
    return {name: [*map(float, value)] if KEYS[name] == "two numbers" else value for name, value in values.items()}


def _fits(value: Any, kind: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    listed = isinstance(value, list)
    return {
        "text": isinstance(value, str),
        "a path": isinstance(value, str),
        "str": isinstance(value, str),
        "int": number and isinstance(value, int),
        "float": number,
        "two numbers": listed and len(value) == 2 and all(_fits(end, "float") for end in value),
        "a path or a list of paths": isinstance(value, str)
        or (listed and all(isinstance(path, str) for path in value)),
    }[kind]
