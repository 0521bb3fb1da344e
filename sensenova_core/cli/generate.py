"""`sensenova generate`: prompts in, PNG files out. With images it edits; with a text modality it answers."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..errors import SettingsError, check_count
from ..reading.tokenizer import THINK_END
from ..report.places import check_place
from . import chat
from .jobs import DEFAULT_PROMPT, Job, read_jobs
from .models import add_running_options, open_engine, pick_device
from .options import (
    PICTURE_OPTIONS,
    TEXT_OPTIONS,
    add_interval_option,
    add_options,
    add_reference_options,
    add_text_options,
    check_folder,
    check_reference_options,
    decoding_settings,
    warn_without_effect,
)
from .record import Record, with_keys

TEXT_MODALITIES = ("img2text", "text2text")
MODALITIES = ("auto", "text2img", "img2img", *TEXT_MODALITIES)
THINKING = ("max_think_tokens", "do_sample", *TEXT_OPTIONS)
EDITING = ("img_cfg_scale", "max_pixels", "same_size")
# Options that a text modality has no use for; its answers have a seed too.
DRAWING = (
    *(name for name in PICTURE_OPTIONS if name != "seed"),
    *("cfg_interval", "batch_size", "same_size", "crop", "think", "max_think_tokens", "output"),
)
BYTES = 4  # of a pixel of a PNG that compresses badly, at most
OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
log = logging.getLogger(__name__)


def add_parser(commands) -> None:
    parser = commands.add_parser("generate", help="draw from a prompt, or edit images")
    add_running_options(parser)
    parser.add_argument(
        "--modality", choices=MODALITIES, default="auto", help="auto: edits with --image, draws without (default: auto)"
    )
    parser.add_argument("--prompt", help=f"what to draw or change (default: {DEFAULT_PROMPT})")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="images to edit or to ask about")
    add_options(parser, PICTURE_OPTIONS)
    add_interval_option(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="images of each prompt (default: 1)")
    parser.add_argument("--same-size", action="store_true", help="draw an edit at exactly its first image's size")
    parser.add_argument(
        "--crop", action="store_true", help="allow any size: draw at the next multiples of 32, cut back"
    )
    parser.add_argument("--max-pixels", type=int, help="scale each image down to so many pixels before it is read")
    parser.add_argument("--think", action="store_true", help="let the model reason before it draws")
    parser.add_argument("--print-think", action="store_true", help="print the reasoning")
    parser.add_argument("--max-think-tokens", type=int, default=1024, help="of the reasoning (default: 1024)")
    add_text_options(parser, max_tokens=512)
    parser.add_argument(
        "--jsonl", metavar="FILE", help="one prompt a line as JSON; its keys override the options above"
    )
    parser.add_argument("--resume", action="store_true", help="draw the lines of --jsonl that --output lacks")
    parser.add_argument("--output", "--output-dir", default=".", help="folder, or the name of a .png (default: .)")
    add_reference_options(parser)
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    _check_options(options)
    if options.modality in TEXT_MODALITIES:
        warn_without_effect(options, DRAWING, f"with --modality {options.modality}")
        return chat.ask_once(options)
    jobs, output = read_jobs(options), Path(options.output)
    _warn_of_the_useless(options, any(job.paths for job in jobs))
    check_output(output, jobs)
    jobs = with_keys(jobs, options)
    record = Record(output, jobs) if options.resume else None
    if record and not (jobs := record.missing(jobs)):
        return 0
    reasoning = decoding_settings(options, "max_think_tokens") if options.think else None
    from ..report.profile import Profile

    profile = Profile(pick_device(options.device))
    with profile.loading():
        engine = open_engine(options, place=False)
        for job in jobs:
            with job.source.named():
                job.check(engine)
        engine.place()
    for job in record.claimed(jobs) if record else jobs:
        with job.source.named():
            _draw_and_save(engine, job, reasoning, options, profile, record)
    if options.profile:
        print(profile.summary(engine))
    return 0


def _check_options(options) -> None:
    """Raise SettingsError for options that contradict each other."""
    check_reference_options(options)
    if options.jsonl is not None and options.modality in TEXT_MODALITIES:
        raise SettingsError(f"--jsonl is for pictures; --modality {options.modality} answers one --prompt at a time")
    if options.jsonl is not None and options.prompt is not None:
        raise SettingsError("--jsonl and --prompt exclude each other; every line has a prompt of its own")
    if options.resume and options.jsonl is None:
        raise SettingsError("--resume needs --jsonl; a single prompt is drawn whenever it is asked for")
    if options.print_think and not options.think:
        raise SettingsError("--print-think needs --think; without it nothing is thought")
    if options.max_pixels is not None:
        check_count("max_pixels", options.max_pixels, 1)


def _warn_of_the_useless(options, editing: bool) -> None:
    warn_without_effect(options, ["max_tokens"], "on pictures; reasoning has --max-think-tokens")
    if not options.think:
        warn_without_effect(options, THINKING, "without --think")
    if not editing:
        warn_without_effect(options, EDITING, "without an image")


def check_output(output: Path, jobs: list[Job]) -> None:
    """Raise SettingsError if pictures could not be written there, before there are any."""
    one_file = output.suffix.lower() == ".png"
    if one_file and len(jobs) > 1:
        raise SettingsError(f"--output {output} is one file for {len(jobs)} prompts; give a folder")
    if not one_file and (output.suffix.lower() in OTHER_PICTURES or os.path.isfile(output)):
        raise SettingsError(f"--output {output}: pictures are written as PNG; give a folder or the name of a .png")
    if one_file and (folder := next(filter(os.path.isdir, numbered(output, jobs[0].settings.batch_size)), None)):
        raise SettingsError(f"--output {output}: {folder} is a folder; give another name")
    last = numbered(output, jobs[0].settings.batch_size)[-1] if one_file else output / "sensenova_00001.png"
    check_place(last, max(BYTES * job.size[0] * job.size[1] * job.settings.batch_size for job in jobs))
    check_folder(output.parent if one_file else output)


def numbered(output: Path, images: int) -> list[Path]:
    """x.png, x_2.png, x_3.png, ..."""
    return [output, *(output.with_stem(f"{output.stem}_{index}") for index in range(2, images + 1))]


def _draw_and_save(engine, job: Job, reasoning, options, profile, record: Record | None) -> None:
    """Nothing of one job's images is left when the next begins."""
    with profile.generating(engine):
        conditioning = _thought(engine, job.encode(engine), reasoning, options.print_think, profile)
        image = _drawn(engine, conditioning, job, profile)
    settings = job.settings
    profile.drew(settings.batch_size, engine.config.grid(width=settings.width, height=settings.height).tokens)
    there = record.there(job) if record else {}
    paths = save(image, job, conditioning.think_text, Path(options.output), options.model, options.lora, there)
    if record:
        record.finished(job, paths)
    for path in paths:
        print(path)


def _thought(engine, conditioning, reasoning, shown: bool, profile):
    """The conditioning with reasoning by these settings inside; as it is for None."""
    if reasoning is None:
        return conditioning
    pieces = []

    def show(piece: str) -> None:
        pieces.append(piece)
        profile.tick()
        if shown:
            print(piece, end="", flush=True)

    conditioning = engine.think(conditioning, reasoning, show)
    profile.wrote(len(pieces) - 1)  # the last piece is what was left of the others, and no token
    if shown:
        print()
    if not conditioning.think_text.endswith(THINK_END):
        log.warning("the reasoning stopped without its end; raise --max-think-tokens for more")
    return conditioning


def _drawn(engine, conditioning, job: Job, profile):
    """The finished batch (images, height, width, 3)."""
    from tqdm import tqdm

    if warning := conditioning.repeated_noise(job.settings.seed, job.size):
        log.warning(warning)
    for step in tqdm(engine.denoise(conditioning, job.settings), total=job.settings.steps, unit="step"):  # noqa: B007
        profile.tick()
    return step.image()


def save(
    image,
    job: Job,
    think_text: str | None,
    output: Path,
    model: str,
    loras: Sequence[str] = (),
    there: Mapping[int, Path] = MappingProxyType({}),
) -> list[Path]:
    """Write a batch (images, height, width, 3) below a folder, or to a .png (numbered from the second image on).

    there: index in the batch -> the file of what was written before, and is not again.
    """
    from ..report.png import save_numbered, save_png

    one_file, paths = output.suffix.lower() == ".png", []
    names = numbered(output, len(image))
    for index, picture in enumerate(image):
        if index in there:
            paths.append(there[index])
            continue
        settings = {"line": job.key} if job.key else {}
        settings |= {"prompt": job.prompt, **job.settings.as_dict(), "batch_index": index, "model": Path(model).name}
        settings |= {"loras": [re.split(r"[/\\]", each)[-1] for each in loras]} if loras else {}
        settings |= {} if think_text is None else {"think_text": think_text}
        if one_file:
            save_png(picture, names[index], settings)
        paths.append(names[index] if one_file else save_numbered(picture, output, "sensenova", settings))
    return paths
