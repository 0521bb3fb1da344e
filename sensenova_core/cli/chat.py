"""`sensenova chat`: questions about images or about nothing but text, once or in a conversation."""

import sys

from ..errors import PromptError, SettingsError
from .models import add_running_options, open_engine, open_images
from .options import add_text_options, decoding_settings

IMAGE_PLACEHOLDER = "<image>"
HELP = "Ask something. /image FILE adds a picture to the next question; an empty line or Ctrl-D ends."


def add_parser(commands) -> None:
    parser = commands.add_parser("chat", help="ask about images, or talk")
    add_running_options(parser)
    parser.add_argument("--prompt", help="the question; without one, a conversation is held")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="images to ask about")
    parser.add_argument("--max-pixels", type=int, help="scale each image down to so many pixels before it is read")
    parser.add_argument("--system-message", default="", help="tells the model how to answer")
    add_text_options(parser, max_tokens=512)
    parser.add_argument("--seed", type=int, default=42, help="with --do-sample: the same seed writes the same text")
    parser.set_defaults(run=run)


def run(options) -> int:
    settings, images = decoding_settings(options), open_images(options.image)
    engine, messages = open_engine(options, place=False), _opening(options)
    if options.prompt is not None:
        _ask(engine, messages, options.prompt, images, settings, options.max_pixels)
        return 0
    print(HELP)
    held, new = [], list(images)
    for line in _lines():
        try:
            if line.startswith("/image "):
                new += open_images([line.removeprefix("/image ").strip()])
                continue
            missing = len(new) - line.count(IMAGE_PLACEHOLDER)
            question = f"{IMAGE_PLACEHOLDER}\n" * missing + line
            messages = _ask(engine, messages, question, held + new, settings, options.max_pixels)
        except PromptError as error:  # a mistyped line does not end the conversation
            print(f"sensenova: {error}", file=sys.stderr)
            continue
        held, new = held + new, []
    return 0


def ask_once(options) -> int:
    """`sensenova generate` with a text modality."""
    if options.modality == "img2text" and not options.image:
        raise SettingsError("--modality img2text needs --image; give the picture to ask about")
    if options.modality == "text2text" and options.image:
        raise SettingsError("--modality text2text takes no --image; use img2text, or leave it out")
    settings, images = decoding_settings(options), open_images(options.image)
    _ask(open_engine(options, place=False), [], options.prompt, images, settings, options.max_pixels)
    return 0


def _opening(options) -> list:
    from ..prompt import Message

    return [Message("system", options.system_message)] if options.system_message else []


def _ask(engine, messages: list, question: str, images: list, settings, max_pixels: int | None) -> list:
    """Print the answer while it is written; returns the conversation with it."""
    from ..prompt import Message

    messages = [*messages, Message("user", question)]
    conversation = engine.conversation(messages, images, max_pixels)
    for answer in engine.understand(conversation, settings=settings):
        print(answer.piece, end="", flush=True)
    print()
    if answer.ended == "cut":
        print(f"[cut at {settings.max_tokens} tokens: raise --max-tokens for more]", file=sys.stderr)
    elif answer.ended == "context":
        print("[cut: the model's context is full]", file=sys.stderr)
    return [*messages, Message("assistant", answer.text)]


def _lines():
    """What the user types, until an empty line or the end of input."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
