"""What a running node shows: progress, previews, text and warnings; and how it learns that the user cancelled."""

import html
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache

import comfy.model_management as mm
import comfy.utils
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor
from torch.nn import functional as F

from ..sensenova_core.drawing.sampling import Step
from ..sensenova_core.errors import printable
from ..sensenova_core.memory import Plan, in_one_line
from ..sensenova_core.report.png import to_pil
from ..sensenova_core.writing.document import Drawing
from .pace import Pace, Whole

PREVIEW_SIDE = 512
LINE_END = "  \n"  # a new line in Markdown, and in HTML as the graph editor makes it of text
PAGE_SIDE = 8192  # a JPEG ends at 65500 pixels, and browsers before that
log = logging.getLogger(__name__)


def stop_if_interrupted() -> None:
    """Raises ComfyUI's own interruption, which must not be caught."""
    mm.throw_exception_if_processing_interrupted()


@dataclass
class Board:
    """What a node says while it runs, each in its place.

    notes: warnings and the like, which stay. plan: of memory, in a line; shown as long as there is no text. status: how
    far it is. text: what is written.
    """

    notes: list[str] = field(default_factory=list)
    plan: str = ""
    status: str = ""
    text: str = ""

    def __str__(self) -> str:
        head = [*self.notes, *([] if self.text else [self.plan]), self.status]
        head = [line for line in head if line]
        apart = [""] if self.text and self.status else []
        return "\n".join([*head, *apart, *([self.text] if self.text else [])])


_board: ContextVar[Board | None] = ContextVar("board", default=None)


def _current() -> Board:
    """Of the node that is running. One of somebody else's, such as KSampler, has no board around its run."""
    board, context = _board.get(), get_executing_context()
    return board or _board_of(*((context.prompt_id, context.node_id) if context else (None, None)))


@lru_cache(maxsize=1)
def _board_of(prompt_id: str | None, node_id: str | None) -> Board:
    """Of the last such node."""
    return Board()


@contextmanager
def own_board() -> Iterator[None]:
    """Around one node's run: what it says begins anew."""
    before = _board.set(Board())
    try:
        yield
    finally:
        _board.reset(before)


def show(**parts: str) -> None:
    """Show what is given of plan, status and text on the node that is running, with what it says already.

    The graph editor would leave out <image>: it reads HTML, and Markdown with "Nodes 2.0", where a line that ends
    without two spaces goes on in the next one.
    """
    board = _current()
    for name, words in parts.items():
        setattr(board, name, words)
    context = get_executing_context()
    if context is not None:
        shown = html.escape(printable(str(board)), quote=False).replace("\n", LINE_END)
        PromptServer.instance.send_progress_text(shown, context.node_id)


class Progress:
    """The node's progress bar and live preview. Reporting raises ComfyUI's interruption when the user cancelled."""

    def __init__(self, total: int):
        self.total = total
        self.bar = comfy.utils.ProgressBar(total)
        self.previews = args.preview_method != LatentPreviewMethod.NoPreviews

    def report(self, done: int, image: Tensor | None = None) -> None:
        """image: (batch, height, width, 3) in 0 .. 1, the first of which is shown."""
        stop_if_interrupted()
        self.bar.update_absolute(done, self.total, None if image is None else ("JPEG", _preview(image), PREVIEW_SIDE))


class DrawingProgress(Progress):
    """`Progress` of one picture, and how long its steps take and will take, said on the node."""

    def __init__(self, total: int):
        super().__init__(total)
        self.pace = Pace(total)
        self.report(0)

    def drew(self, step: Step) -> None:
        """A step that is done."""
        self.pace.step(step.index + 1)
        self.report(step.index + 1, step.image() if self.previews else None)
        show(status=str(self.pace))


class DocumentProgress(Progress):
    """`Progress` of a document: of all pictures and text that there may be. Text, and the picture that is being drawn,
    are said on the node. It serves a self-correction as well."""

    EVERY_SECONDS = 0.1

    def __init__(self, *, pictures: int, steps: int, tokens: int, first: int = 0):
        """As `Whole`; first: the index of the first picture that is drawn."""
        self.whole, self.first, self.last_shown = Whole(pictures=pictures, steps=steps, tokens=tokens), first, 0.0
        self.pace: Pace | None = None
        super().__init__(max(1, self.whole.total))
        self.report(0)

    def wrote(self, text: str, tokens: int) -> None:
        """All text so far, of which so many tokens are new."""
        self.pace = None
        self.report(self.whole.wrote(tokens))
        if time.monotonic() - self.last_shown >= self.EVERY_SECONDS:
            show(text=text, status="")
            self.last_shown = time.monotonic()

    def drew(self, event: Drawing, text: str) -> None:
        """A step, of a picture after this text."""
        step = event.step
        if self.pace is None or step.index == 0:
            self.pace = Pace(step.total)
        self.pace.step(step.index + 1)
        done = self.whole.drew(event.index - self.first, step.index + 1)
        self.report(done, step.image() if self.previews else None)
        show(text=text, status=f"picture {event.index + 1}: {self.pace}")

    def finish(self, text: str) -> None:
        """Fill the bar, and leave the text alone on the node."""
        self.report(self.total)
        show(text=text, status="", plan="")


class TextProgress:
    """Text shown on the node while it is written, and the progress bar."""

    EVERY_SECONDS = 0.1

    def __init__(self, total: int):
        """total: tokens, at the most."""
        self.bar = comfy.utils.ProgressBar(total)
        self.last_shown = 0.0

    def report(self, text: str, tokens: int) -> None:
        """All text so far, and how many tokens it is. Raises ComfyUI's interruption when the user cancelled."""
        stop_if_interrupted()
        self.bar.update_absolute(tokens)
        if time.monotonic() - self.last_shown >= self.EVERY_SECONDS:
            show(text=text)
            self.last_shown = time.monotonic()

    def finish(self, text: str) -> None:
        show(text=text, plan="")


def show_text(text: str) -> None:
    """Show text on the node that is running, below its notes."""
    show(text=text)


def show_plan(plan: Plan | None) -> None:
    """Show where weights will be during the run that begins, until there is text."""
    show(plan=in_one_line(plan))


def show_picture(picture: Image.Image) -> None:
    """Put a picture in place of the live preview, which the graph editor goes on showing over a node's own output."""
    if args.preview_method != LatentPreviewMethod.NoPreviews:
        picture = picture.copy()
        picture.thumbnail((PAGE_SIDE, PAGE_SIDE))
        comfy.utils.ProgressBar(1).update_absolute(1, 1, ("JPEG", picture, None))


def tell(message: str) -> None:
    """Say something on the node that is running, and in the log."""
    log.info(printable(message))
    show_text(message)


def note(message: str) -> None:
    """`tell` what stays on the node whatever it says next."""
    log.info(printable(message))
    _keep(message)


def warn(message: str) -> None:
    """The same of what may be wrong."""
    log.warning(printable(message))
    _keep(f"Warning: {message}")


def _keep(message: str) -> None:
    notes = _current().notes
    if message not in notes:
        notes.append(message)
    show()


def _preview(image: Tensor) -> Image.Image:
    """Scaled down on its own device, so that little is copied to system memory."""
    height, width = image.shape[1:3]
    scale = min(1, PREVIEW_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(image[:1].permute(0, 3, 1, 2), size, mode="area")[0]
    return to_pil(small.permute(1, 2, 0))
