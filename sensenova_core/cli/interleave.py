"""`sensenova interleave`: an illustrated document, saved with its pictures."""

import sys
from pathlib import Path

from ..errors import SettingsError
from ..report.places import check_place
from .models import add_running_options, best_area, open_engine, open_images, pick_device
from .options import (
    PICTURE_OPTIONS,
    add_interval_option,
    add_options,
    add_text_options,
    check_folder,
    decoding_settings,
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
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="pictures to start from")
    parser.add_argument(
        "--resolution", help="ratio of a trained size, such as 16:9 (default: 1:1, or from the first image)"
    )
    add_options(parser, PICTURE_OPTIONS)
    add_interval_option(parser)
    parser.add_argument("--max-images", type=int, default=10, help="a further picture ends the document (default: 10)")
    parser.add_argument("--max-pixels", type=int, help="scale each image down to so many pixels before it is read")
    parser.add_argument("--think", action="store_true", help="reason first, drawing in between")
    parser.add_argument("--system-message", help="replaces the one that the model was trained with")
    add_text_options(parser, max_tokens=8192)
    parser.add_argument("--format", choices=("markdown", "html"), default="markdown", help="(default: markdown)")
    parser.add_argument("--output", "--output-dir", default=".", help="where the document's folder goes (default: .)")
    parser.add_argument("--stem", default="document", help="the folder's name, numbered (default: document)")
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    images = open_images(options.image)
    settings, folder = _settings(options, images), Path(options.output)
    check_place(folder / f"{options.stem}_00001" / "document.html")
    check_folder(folder)
    from ..report.pages import save_numbered_document
    from ..report.profile import Profile
    from .events import collect

    profile = Profile(pick_device(options.device))
    with profile.loading():
        engine = open_engine(options, place=False)
    with profile.generating(engine):
        document = collect(engine.interleave(options.prompt, images, settings, options.max_pixels), profile.tick)
    sampling = settings.of_image(0)
    profile.drew(len(document.images), engine.config.grid(width=sampling.width, height=sampling.height).tokens)
    profile.wrote(document.tokens)
    if document.ended == "interrupted" and not document.parts:
        raise KeyboardInterrupt
    path = save_numbered_document(document, folder, options.stem, options.format)
    if document.ended != "end":
        print(f"[ended: {ENDINGS[document.ended]}]", file=sys.stderr)
    print(path)
    if options.profile:
        print(profile.summary(engine))
    return 130 if document.ended == "interrupted" else 0


def _settings(options, images: list):
    from ..drawing.sizes import best_size
    from ..settings import INTERLEAVE_SIZES, DocumentSettings

    if options.resolution and (options.width is not None or options.height is not None):
        raise SettingsError("--resolution and --width, --height exclude each other; give one of the two")
    if (options.width is None) != (options.height is None):
        raise SettingsError("--width and --height go together; give both or neither")
    if options.width is not None:
        size = options.width, options.height
    elif options.resolution:
        size = named_size(options.resolution, INTERLEAVE_SIZES)
    else:
        size = best_size(best_area(options.model), images[0].size if images else None, document=True)
    values = {name: getattr(options, name) for name in (*PICTURE_OPTIONS, "cfg_interval")}
    return DocumentSettings(
        sampling_settings(values, size),
        sizes=(size,),
        decoding=decoding_settings(options),
        max_images=options.max_images,
        think=options.think,
        system=options.system_message,
    )
