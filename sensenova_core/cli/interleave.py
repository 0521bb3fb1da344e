"""`sensenova interleave`: an illustrated document, saved with its pictures."""

import sys
from pathlib import Path

from ..errors import SettingsError
from ..settings import INTERLEAVE_SIZES, MAX_DOCUMENT_TOKENS, DecodingSettings, DocumentSettings, SamplingSettings
from .models import add_running_options, best_area, open_engine, open_images, pick_device
from .options import (
    add_image_options,
    add_settings,
    check_folder,
    decoding_settings,
    given,
    named_size,
    sampling_settings,
)

ENDINGS = {
    "max_tokens": "--max-tokens reached",
    "max_images": "--max-images reached",
    "context": "the model's context is full",
    "interrupted": "interrupted",
}


def add_parser(commands) -> None:
    parser = commands.add_parser("interleave", help="write an illustrated document")
    add_running_options(parser)
    parser.add_argument("--prompt", required=True, help="what the document is about")
    add_image_options(parser, "pictures to start from")
    parser.add_argument(
        "--resolution", help="ratio of a trained size, such as 16:9 (default: 1:1, or from the first image)"
    )
    add_settings(parser, SamplingSettings, but=("batch_size", "crop"))
    add_settings(parser, DocumentSettings)
    add_settings(parser, DecodingSettings, but=("seed",), max_tokens=MAX_DOCUMENT_TOKENS)
    parser.add_argument("--format", choices=("markdown", "html"), default="markdown", help="(default: markdown)")
    parser.add_argument("--output", "--output-dir", default=".", help="where the document's folder goes (default: .)")
    parser.add_argument("--stem", default="document", help="the folder's name, numbered (default: document)")
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    images = open_images(options.image)
    settings, folder = _settings(options, images), Path(options.output)
    check_folder(folder)
    from ..report.pages import save_document
    from ..report.profile import Profile
    from .events import collect

    profile = Profile(pick_device(options.device))
    with profile.loading():
        engine = open_engine(options)
    with profile.generating(engine):
        document = collect(
            engine.interleave(options.prompt, images, settings=settings, max_pixels=options.max_pixels), profile.tick
        )
    sampling = settings.of_image(0)
    profile.drew(len(document.images), engine.config.grid(width=sampling.width, height=sampling.height).tokens)
    profile.wrote(document.tokens)
    taken = next(n for n in range(1, 10**6) if not (folder / f"{options.stem}_{n:05d}").exists())
    path = save_document(document, folder / f"{options.stem}_{taken:05d}", options.format)
    if document.ended != "end":
        print(f"[ended: {ENDINGS[document.ended]}]", file=sys.stderr)
    print(path)
    if options.profile:
        print(profile.summary(engine))
    return 0


def _settings(options, images: list) -> DocumentSettings:
    from ..drawing.sizes import best_size

    if options.resolution and (options.width is not None or options.height is not None):
        raise SettingsError("--resolution and --width, --height exclude each other; give one of the two")
    width, height = options.width, options.height
    if (width is None) != (height is None):
        raise SettingsError("--width and --height go together; give both or neither")
    if width is not None and height is not None:
        size = width, height
    elif options.resolution:
        size = named_size(options.resolution, INTERLEAVE_SIZES)
    else:
        size = best_size(best_area(options.model), image=images[0].size if images else None, document=True)
    return DocumentSettings.of(
        sampling=sampling_settings(given(options, SamplingSettings), size),
        sizes=(size,),
        decoding=decoding_settings(options),
        **given(options, DocumentSettings),
    )
