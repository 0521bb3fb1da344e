"""`sensenova interleave`: an illustrated document, saved with its pictures."""

import sys
from pathlib import Path

from ..errors import SettingsError
from ..report.outputs import check_writable
from ..settings import (
    INTERLEAVE_SIZES,
    MAX_DOCUMENT_TOKENS,
    PAGE_FORMATS,
    DecodingSettings,
    DocumentSettings,
    SamplingSettings,
)
from .models import add_running_options, best_area, open_engine, open_images
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
    add_settings(parser, SamplingSettings, but=("batch_size", "crop", "denoise", "feather"))
    add_settings(parser, DocumentSettings)
    add_settings(parser, DecodingSettings, but=("seed",), max_tokens=MAX_DOCUMENT_TOKENS)
    first = PAGE_FORMATS[0]
    parser.add_argument("--format", choices=PAGE_FORMATS, default=first, help=f"(default: {first})")
    parser.add_argument("--output", "--output-dir", default=".", help="where the document's folder goes (default: .)")
    parser.add_argument("--stem", default="document", help="the folder's name, numbered (default: document)")
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    images = open_images(options.image)
    settings = _settings(options, images)
    folder = Path(options.output)
    check_writable(folder / f"{options.stem}_00001" / "document.html")
    check_folder(folder)
    from ..report.pages import save_numbered_document
    from ..report.profile import Watched
    from .events import collect

    engine, profile = open_engine(options)
    with profile.generating(engine):
        events = engine.interleave(options.prompt, images, settings=settings, max_pixels=options.max_pixels)
        document = collect(Watched(events, profile))
    if document.ended == "interrupted" and not document.parts:
        raise KeyboardInterrupt
    path = save_numbered_document(document, folder, options.stem, form=options.format)
    if document.ended != "end":
        print(f"[ended: {ENDINGS[document.ended]}]", file=sys.stderr)
    print(path)
    if options.profile:
        print(profile.summary(engine))
    return 130 if document.ended == "interrupted" else 0


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
