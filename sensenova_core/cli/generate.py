"""`sensenova generate`: prompts in, PNG files out. With images it edits; with a text modality it answers."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from ..report.outputs import check_writable
from ..settings import CritiqueSettings, DecodingSettings, ReasoningSettings, SamplingSettings
from . import chat, self_correction
from .jobs import DEFAULT_PROMPT, Job, read_jobs
from .models import add_running_options, open_engine
from .options import (
    add_image_options,
    add_reference_options,
    add_settings,
    check_folder,
    check_max_pixels,
    check_reference_options,
    decoding_settings,
    options_of,
    warn_without_effect,
)
from .painting import add_painting_options
from .record import Record, with_keys

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import Engine
    from ..reading.prompt import Conditioning
    from ..report.profile import Profile, Watched
    from ..writing.thinking import Thought

TEXT_MODALITIES = ("img2text", "text2text")
MODALITIES = ("auto", "text2img", "img2img", *TEXT_MODALITIES)
THINKING = options_of(ReasoningSettings, "seed")
EDITING = ("img_cfg_scale", "max_pixels", "same_size")
# Options that a text modality has no use for; its answers have a seed too.
CORRECTING = ("self_correct", "max_critique_tokens")
PAINTING = ("init_image", "mask")
DRAWING = (
    *(*options_of(SamplingSettings, "seed"), *PAINTING, "same_size", "think", "max_think_tokens"),
    *(*CORRECTING, "output"),
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
    add_image_options(parser, "images to edit or to ask about")
    add_painting_options(parser)
    add_settings(parser, SamplingSettings)
    parser.add_argument("--same-size", action="store_true", help="draw an edit at exactly its first image's size")
    parser.add_argument("--think", action="store_true", help="let the model reason before it draws")
    parser.add_argument("--print-think", action="store_true", help="print the reasoning")
    add_settings(parser, ReasoningSettings, "max_think_tokens")
    self_correction.add_options(parser)
    add_settings(parser, DecodingSettings, but=("seed",))
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
    jobs, texts = read_jobs(options), _texts(options)
    for job in jobs if "critiques" in texts else ():
        with job.source.named():
            self_correction.settings_for(job, texts["critiques"])
    output = Path(options.output)
    _warn_of_the_useless(options, jobs)
    check_output(output, jobs)
    jobs = with_keys(jobs, options)
    record = Record(output, jobs) if options.resume else None
    if record and not (jobs := record.missing(jobs)):
        return 0
    engine, profile = open_engine(options)
    if texts:
        engine.checkpoint.check_writes()
    for job in jobs:
        with job.source.named():
            job.check(engine)
    with profile.loading():
        engine.place()
    for job in record.claimed(jobs) if record else jobs:
        with job.source.named():
            _draw_and_save(engine, profile, job, texts=texts, record=record)
    if options.profile:
        print(profile.summary(engine))
    return 0


def _texts(options) -> dict[str, DecodingSettings]:
    """How the texts are written that belong to each picture: its "reasoning", or its "critiques"."""
    if options.think:
        return {"reasoning": decoding_settings(options, ReasoningSettings)}
    return {} if options.self_correct is None else {"critiques": decoding_settings(options, CritiqueSettings)}


def _check_options(options) -> None:
    """Raise SettingsError for options that contradict each other."""
    check_reference_options(options)
    self_correction.check_options(options)
    if options.jsonl is not None and options.modality in TEXT_MODALITIES:
        raise SettingsError(f"--jsonl is for pictures; --modality {options.modality} answers one --prompt at a time")
    if options.jsonl is not None and options.prompt is not None:
        raise SettingsError("--jsonl and --prompt exclude each other; every line has a prompt of its own")
    if options.resume and options.jsonl is None:
        raise SettingsError("--resume needs --jsonl; a single prompt is drawn whenever it is asked for")
    if options.print_think and not options.think:
        raise SettingsError("--print-think needs --think; without it nothing is thought")
    check_max_pixels(options)


def _warn_of_the_useless(options, jobs: list[Job]) -> None:
    limits = "reasoning has --max-think-tokens, and critiques have --max-critique-tokens"
    warn_without_effect(options, ["max_tokens"], f"on pictures; {limits}")
    corrects = options.self_correct is not None
    if not options.think:
        warn_without_effect(options, THINKING[:1] if corrects else THINKING, "without --think")
    if not corrects:
        warn_without_effect(options, ["max_critique_tokens"], "without --self-correct")
    if not any(job.paths for job in jobs):
        useless = [name for name in EDITING if not (corrects and name == "img_cfg_scale")]
        warn_without_effect(options, useless, "without an image")
    if all(job.mask is None for job in jobs):
        warn_without_effect(options, ["feather"], "without --mask")


def check_output(output: Path, jobs: list[Job]) -> None:
    """Raise SettingsError if pictures could not be written there, before there are any."""
    one_file = output.suffix.lower() == ".png"
    if one_file and len(jobs) > 1:
        raise SettingsError(f"--output {output} is one file for {len(jobs)} prompts; give a folder")
    if not one_file and (output.suffix.lower() in OTHER_PICTURES or os.path.isfile(output)):
        raise SettingsError(f"--output {output}: pictures are written as PNG; give a folder or the name of a .png")
    if one_file and (folder := next(filter(os.path.isdir, numbered(output, jobs[0].pictures)), None)):
        raise SettingsError(f"--output {output}: {folder} is a folder; give another name")
    last = numbered(output, jobs[0].pictures)[-1] if one_file else output / "sensenova_00001.png"
    check_writable(last, max(BYTES * job.size[0] * job.size[1] * job.pictures for job in jobs))
    check_folder(output.parent if one_file else output)


def numbered(output: Path, images: int) -> list[Path]:
    """x.png, x_2.png, x_3.png, ..."""
    return [output, *(output.with_stem(f"{output.stem}_{index}") for index in range(2, images + 1))]


def _draw_and_save(
    engine: "Engine", profile: "Profile", job: Job, *, texts: Mapping[str, DecodingSettings], record: Record | None
) -> None:
    """Nothing of one job's images is left when the next begins.

    texts: see `_texts`. record: of the lines that are drawn, if there is one.
    """
    with profile.generating(engine):
        if "critiques" in texts:
            correction = self_correction.corrected(engine, profile, job, decoding=texts["critiques"])
            images, about = correction.pictures, self_correction.told_of_each(correction)
        else:
            images, think_text = _drawn(engine, profile, job, reasoning=texts.get("reasoning"))
            about = [{} if think_text is None else {"think_text": think_text}] * len(images)
    if engine.compiles is not None:
        about = [{**each, "compiled": engine.compiles} for each in about]
    paths = save(images, job, about, there=record.there(job) if record else {})
    if record:
        record.finished(job, paths)
    for path in paths:
        print(path)


def _thought(thoughts: "Watched[Thought]", *, shown: bool) -> "Conditioning":
    """The conditioning with the reasoning inside."""
    for thought in thoughts:
        if shown:
            print(thought.piece, end="", flush=True)
    if shown:
        print()
    if not thoughts.last.closed:
        log.warning("the reasoning stopped without its end; raise --max-think-tokens for more")
    assert thoughts.last.conditioning is not None  # which only the last one has
    return thoughts.last.conditioning


def _drawn(
    engine: "Engine", profile: "Profile", job: Job, *, reasoning: DecodingSettings | None
) -> "tuple[list[Tensor], str | None]":
    """The finished batch, (1, height, width, 3) each, and the reasoning. reasoning: how, None for not at all."""
    from tqdm import tqdm

    from ..report.profile import Watched

    conditioning = job.encode(engine)
    if reasoning is not None:
        thoughts = Watched(engine.think(conditioning, reasoning), profile)
        conditioning = _thought(thoughts, shown=job.source.options.print_think)
    if warning := conditioning.repeated_noise(job.settings.seed, job.size):
        log.warning(warning)
    steps = Watched(engine.denoise(conditioning, job.settings, canvas=job.canvas()), profile)
    for _ in tqdm(steps, total=job.settings.steps, unit="step"):
        pass
    return [*steps.last.image().split(1)], conditioning.think_text


def save(
    images: "Sequence[Tensor]", job: Job, told: Sequence[Mapping[str, Any]], *, there: Mapping[int, Path]
) -> list[Path]:
    """Write pictures, (1, height, width, 3) each, below a folder, or to a .png (numbered from the second image on).

    told: what the metadata of each says beside its settings. there: index -> the file of what was written before, and
    is not again.
    """
    from ..report.png import save_numbered, save_png

    options = job.source.options
    output = Path(options.output)
    line = {"line": job.key} if job.key else {}
    about = {"model": Path(options.model).name}
    about |= {"loras": [re.split(r"[/\\]", each)[-1] for each in options.lora]} if options.lora else {}
    names = numbered(output, len(images))
    paths = []
    for index, ([picture], more) in enumerate(zip(images, told, strict=True)):
        in_batch = 0 if job.rounds else index
        settings = {**line, "prompt": job.prompt, **job.settings.as_dict(), "batch_index": in_batch, **about, **more}
        if index in there:
            paths.append(there[index])
        elif output.suffix.lower() == ".png":
            save_png(picture, names[index], settings)
            paths.append(names[index])
        else:
            paths.append(save_numbered(picture, output, "sensenova", settings=settings))
    return paths
