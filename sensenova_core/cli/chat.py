"""`sensenova chat`: questions about images or about nothing but text, once or in a conversation."""

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import PromptError, SettingsError
from ..settings import DecodingSettings
from .dropped import dropped, named
from .errors import message
from .jobs import DEFAULT_PROMPT
from .models import add_running_options, open_engine, open_images
from .options import add_image_options, add_settings, check_max_pixels, decoding_settings

if TYPE_CHECKING:
    from PIL import Image

    from ..reading.prompt import TokenSequence

HELP = """Ask something. Ctrl-C ends an answer; where none is being written, it ends the conversation.
/image FILE  adds a picture to the next question, as dropping its file here does
/help        shows this
/quit        ends, as an empty line or Ctrl-D does"""

ENDINGS = {
    "cut": "[cut at {} tokens: raise --max-tokens for more]",
    "context": "[cut: the model's context is full]",
    "interrupted": "[interrupted]",
}


def add_parser(commands) -> None:
    parser = commands.add_parser("chat", help="ask about images, or talk")
    add_running_options(parser)
    parser.add_argument("--prompt", help="the question; without one, a conversation is held")
    add_image_options(parser, "images to ask about")
    parser.add_argument("--system-message", default="", help="tells the model how to answer")
    add_settings(parser, DecodingSettings)
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    conversation = Conversation(options)
    if options.prompt is not None:
        conversation.ask(options.prompt)
        conversation.finish()
        return 0
    print(HELP)
    for line in _lines():
        try:
            if line == "/quit":
                break
            _obey(conversation, line)
        except SettingsError as error:
            print(f"sensenova: {message(error, options)}", file=sys.stderr)
        except PromptError as error:  # a mistyped line does not end the conversation
            print(f"sensenova: {error}", file=sys.stderr)
    conversation.finish()
    return 0


def ask_once(options) -> int:
    """`sensenova generate` with a text modality."""
    if options.modality == "img2text" and not options.image:
        raise SettingsError("--modality img2text needs --image; give the picture to ask about")
    if options.modality == "text2text" and options.image:
        raise SettingsError("--modality text2text takes no --image; use img2text, or leave it out")
    conversation = Conversation(options)
    conversation.ask(DEFAULT_PROMPT if options.prompt is None else options.prompt)
    conversation.finish()
    return 0


class Conversation:
    """What has been said, on the terminal. images: those shown; new: those for the next question."""

    def __init__(self, options):
        """The options say which model, which is loaded, and what is shown with the first question."""
        from ..reading.prompt import Message

        check_max_pixels(options)
        self.max_pixels = options.max_pixels
        self.settings = decoding_settings(options)
        shown = open_images(options.image)
        self.engine, self.profile = open_engine(options)
        self.engine.checkpoint.check_writes()
        self.profiled = options.profile
        system = getattr(options, "system_message", "")  # `generate` has none
        self.messages = [Message("system", system)] if system else []
        self.images: list[Image.Image] = []
        self.new: list[Image.Image] = []
        self.unseen = ""  # the names of pictures that were to be shown with the next question and could not be opened
        self.show(shown)

    def show(self, images: "list[Image.Image]") -> None:
        """Show images with the next question, unless that could not be asked. Raises PromptError."""
        self._with("", self.new + images)
        self.new = self.new + images

    def ask(self, question: str, *, interruptible: bool = False) -> None:
        """Print the answer while it is written. interruptible: Ctrl-C ends the answer, of which what was said is kept;
        before its first word it takes the question back."""
        from ..reading.prompt import Message, filled
        from ..report.profile import Watched

        question = filled(question, len(self.new))
        said, ended = "", None
        try:
            asked = self._with(question, self.new)
            with self.profile.generating(self.engine):
                for answer in Watched(self.engine.understand(asked, settings=self.settings), self.profile):
                    said, ended = answer.text, answer.ended
                    print(answer.piece, end="", flush=True)
        except KeyboardInterrupt:
            if not interruptible:
                raise
            ended = "interrupted"
        print()
        if ended in ENDINGS:
            print(ENDINGS[ended].format(self.settings.max_tokens), file=sys.stderr)
        if said or ended != "interrupted":
            self.messages += [Message("user", question), Message("assistant", said)]
            self.images += self.new
            self.new = []

    def finish(self) -> None:
        if self.profiled:
            print(self.profile.summary(self.engine))

    def _with(self, question: str, images: "list[Image.Image]") -> "TokenSequence":
        """The conversation that goes on with a question about these further images, ready to be answered."""
        from ..reading.prompt import Message

        messages = [*self.messages, Message("user", question)]
        return self.engine.conversation(messages, self.images + images, self.max_pixels)


def _obey(conversation: Conversation, line: str) -> None:
    """Do what a line says: a command, or a question."""
    command, _, rest = line.partition(" ")
    if command == "/help":
        print(HELP)
    elif command == "/image":
        if not rest:
            raise PromptError("/image needs the name of a picture file")
        _show(conversation, named(rest))
    elif re.fullmatch(r"/\w+", command):
        raise PromptError(f"{command} is unknown; /help shows all commands")
    else:
        files, question = dropped(line)
        if files:
            _show(conversation, files)
        if question:
            if conversation.unseen:
                unseen, conversation.unseen = conversation.unseen, ""
                raise PromptError(f"not asked, as {unseen} was not shown; show it with /image, or ask again without it")
            conversation.ask(question, interruptible=True)


def _show(conversation: Conversation, files: list[str]) -> None:
    """Show pictures with the next question, which is not asked where one of them cannot be opened."""
    from ..reading.picture_files import shown

    conversation.unseen = ", ".join(shown(file) for file in files)
    images = open_images(files)
    conversation.unseen = ""
    conversation.show(images)


def _lines() -> Iterator[str]:
    """What the user types, until an empty line or the end of input."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()  # what the terminal shows next begins a line
            return
        if not line:
            return
        yield line
