"""`sensenova generate`: prompts in, PNG files out. With images it edits; with a text modality it answers."""

import logging
from pathlib import Path

from ..errors import SettingsError
from ..tokenizer import THINK_END
from . import chat
from .jobs import DEFAULT_PROMPT, Job, read_jobs
from .models import add_running_options, open_engine, pick_device
from .options import (
    PICTURE_OPTIONS,
    add_interval_option,
    add_options,
    add_reference_options,
    add_text_options,
    check_folder,
    check_reference_options,
    decoding_settings,
)

MODALITIES = ("auto", "text2img", "img2img", "img2text", "text2text")
OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
log = logging.getLogger(__name__)


def add_parser(commands) -> None:
    parser = commands.add_parser("generate", help="draw from a prompt, or edit images")
    add_running_options(parser)
    parser.add_argument(
        "--modality", choices=MODALITIES, default="auto", help="auto: edits with --image, draws without (default: auto)"
    )
    parser.add_argument("--prompt", default=DEFAULT_PROMPT, help=f"what to draw or change (default: {DEFAULT_PROMPT})")
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
    parser.add_argument("--output", "--output-dir", default=".", help="folder, or the name of a .png (default: .)")
    add_reference_options(parser)
    parser.add_argument("--profile", action="store_true", help="print times and memory at the end")
    parser.set_defaults(run=run)


def run(options) -> int:
    check_reference_options(options)
    if options.modality in ("img2text", "text2text"):
        return chat.ask_once(options)
    jobs, output = read_jobs(options), Path(options.output)
    check_output(output, len(jobs))
    reasoning = decoding_settings(options, options.max_think_tokens) if options.think else None
    from ..profile import Profile

    profile = Profile(pick_device(options.device))
    with profile.loading():
        engine = open_engine(options, place=False)
        for job in jobs:
            job.settings.check_size(engine.config)
        conditionings = [engine.encode(job.prompt, job.images, max_pixels=options.max_pixels) for job in jobs]
        engine.place()
    for job, conditioning in zip(jobs, conditionings, strict=True):
        with profile.generating(job.settings.batch_size, job.settings.tokens(engine.config)):
            conditioning = _thought(engine, conditioning, reasoning, options.print_think)
            image = _drawn(engine, conditioning, job, profile)
        for path in save(image, job, conditioning.think_text, output, options.model):
            print(path)
    if options.profile:
        backend = "sdpa" if options.attn_backend == "auto" else options.attn_backend
        dtype = str(engine.weights.compute_dtype).removeprefix("torch.")
        print(profile.summary("full", backend, dtype, engine.config.token_pixels))
    return 0


def check_output(output: Path, jobs: int) -> None:
    """Raise SettingsError if pictures could not be written there, before there are any."""
    one_file = output.suffix.lower() == ".png"
    if one_file and jobs > 1:
        raise SettingsError(f"--output {output} is one file for {jobs} prompts; give a folder")
    if not one_file and (output.suffix.lower() in OTHER_PICTURES or output.is_file()):
        raise SettingsError(f"--output {output}: pictures are written as PNG; give a folder or the name of a .png")
    check_folder(output.parent if one_file else output)


def _thought(engine, conditioning, reasoning, shown: bool):
    """The conditioning with reasoning by these settings inside; as it is for None."""
    if reasoning is None:
        return conditioning
    conditioning = engine.think(conditioning, reasoning, write if shown else lambda piece: None)
    if shown:
        print()
    if not conditioning.think_text.endswith(THINK_END):
        log.warning("the reasoning stopped without its end; raise --max-think-tokens for more")
    return conditioning


def write(piece: str) -> None:
    print(piece, end="", flush=True)


def _drawn(engine, conditioning, job: Job, profile):
    """The finished batch (images, height, width, 3)."""
    from tqdm import tqdm

    if warning := conditioning.repeated_noise(job.settings.seed, job.size):
        log.warning(warning)
    for step in tqdm(engine.denoise(conditioning, job.settings), total=job.settings.steps, unit="step"):  # noqa: B007
        profile.tick()
    return step.image()


def save(image, job: Job, think_text: str | None, output: Path, model: str) -> list[Path]:
    """Write a batch (images, height, width, 3) below a folder, or to a .png (numbered from the second image on)."""
    from ..png import next_free, save_png

    paths = []
    for index, picture in enumerate(image):
        if output.suffix.lower() == ".png":
            path = output if index == 0 else output.with_stem(f"{output.stem}_{index + 1}")
        else:
            path = next_free(output, "sensenova")
        settings = {"prompt": job.prompt, **job.settings.as_dict(), "batch_index": index, "model": Path(model).name}
        save_png(picture, path, settings if think_text is None else settings | {"think_text": think_text})
        paths.append(path)
    return paths
