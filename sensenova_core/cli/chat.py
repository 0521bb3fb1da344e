"""`sensenova chat`: questions about images or about nothing but text, once or in a conversation."""

import re
import sys

from ..errors import PromptError, SettingsError, check_count
from .errors import in_user_s_words
from .jobs import DEFAULT_PROMPT
from .models import add_running_options, open_engine, open_images, pick_device
from .options import add_text_options, decoding_settings

IMAGE_PLACEHOLDER = "<image>"
HELP = """Ask something. Ctrl-C ends an answer; where none is being written, it ends the conversation.
/image FILE  adds a picture to the next question
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
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="images to ask about")
    parser.add_argument("--max-pixels", type=int, help="scale each image down to so many pixels before it is read")
    parser.add_argument("--system-message", default="", help="tells the model how to answer")
    add_text_options(parser, max_tokens=512)
    parser.add_argument("--seed", type=int, default=42, help="with --do-sample: the same seed writes the same text")
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    conversation = _opened(options)
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
            print(f"sensenova: {in_user_s_words(error, options)}", file=sys.stderr)
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
    conversation = _opened(options)
    conversation.ask(DEFAULT_PROMPT if options.prompt is None else options.prompt)
    conversation.finish()
    return 0


class Conversation:
    """What has been said, on the terminal. images: those shown; new: those for the next question."""

    def __init__(self, engine, settings, options, profile):
        from ..reading.prompt import Message

        self.profile, self.profiled = profile, options.profile

        system = getattr(options, "system_message", "")  # `generate` has none
        self.engine, self.settings, self.max_pixels = engine, settings, options.max_pixels
        self.messages = [Message("system", system)] if system else []
        self.images, self.new = [], []

    def show(self, images: list) -> None:
        """Show images with the next question, unless that could not be asked. Raises PromptError."""
        self._with("", self.new + images)
        self.new = self.new + images

    def ask(self, question: str, interruptible: bool = False) -> None:
        """Print the answer while it is written. interruptible: Ctrl-C ends the answer, of which what was said is kept;
        before its first word it takes the question back."""
        from ..reading.prompt import Message

        missing = len(self.new) - question.count(IMAGE_PLACEHOLDER)
        question = f"{IMAGE_PLACEHOLDER}\n" * missing + question
        said = ""
        try:
            asked = self._with(question, self.new)
            with self.profile.generating(self.engine):
                for answer in self.engine.understand(asked, settings=self.settings):
                    said = answer.text
                    print(answer.piece, end="", flush=True)
                    self.profile.tick()
            self.profile.wrote(len(answer.ids))
            ended = answer.ended
        except KeyboardInterrupt:
            if not interruptible:
                raise
            ended = "interrupted"
        print()
        if ended in ENDINGS:
            print(ENDINGS[ended].format(self.settings.max_tokens), file=sys.stderr)
        if said or ended != "interrupted":
            self.messages += [Message("user", question), Message("assistant", said)]
            self.images, self.new = self.images + self.new, []

    def finish(self) -> None:
        if self.profiled:
            print(self.profile.summary(self.engine))

    def _with(self, question: str, images: list):
        """The conversation that goes on with a question about these further images, ready to be answered."""
        from ..reading.prompt import Message

        messages = [*self.messages, Message("user", question)]
        return self.engine.conversation(messages, self.images + images, self.max_pixels)


def _opened(options) -> Conversation:
    """A conversation as the options describe it, its model loaded."""
    if options.max_pixels is not None:
        check_count("max_pixels", options.max_pixels, 1)
    settings, images = decoding_settings(options), open_images(options.image)
    from ..report.profile import Profile

    profile = Profile(pick_device(options.device))
    with profile.loading():
        engine = open_engine(options, place=False)
    conversation = Conversation(engine, settings, options, profile)
    conversation.show(images)
    return conversation


def _obey(conversation: Conversation, line: str) -> None:
    """Do what a line says: a command, or a question."""
    command, _, rest = line.partition(" ")
    if command == "/help":
        print(HELP)
    elif command == "/image":
        if not rest:
            raise PromptError("/image needs the name of a picture file")
        conversation.show(open_images([rest.strip()]))
    elif re.fullmatch(r"/\w+", command):
        raise PromptError(f"{command} is unknown; /help shows all commands")
    else:
        conversation.ask(line, interruptible=True)


def _lines():
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
