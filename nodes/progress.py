"""What a running node shows: progress, previews, text and warnings; and how it learns that the user cancelled."""

import html
import logging
import time

import comfy.model_management as mm
import comfy.utils
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor
from torch.nn import functional as F

from ..sensenova_core.errors import printable
from ..sensenova_core.report.png import to_pil

PREVIEW_SIDE = 512
PAGE_SIDE = 8192  # a JPEG ends at 65500 pixels, and browsers before that
log = logging.getLogger(__name__)


def stop_if_interrupted() -> None:
    """Raises ComfyUI's own interruption, which must not be caught."""
    mm.throw_exception_if_processing_interrupted()


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


class TextProgress:
    """Text shown on the node while it is written, and the progress bar where the number of tokens is known."""

    EVERY_SECONDS = 0.1

    def __init__(self, total: int | None):
        self.bar = comfy.utils.ProgressBar(total) if total else None
        self.last_shown = 0.0

    def report(self, text: str, tokens: int = 0) -> None:
        """All text so far, and how many tokens it is. Raises ComfyUI's interruption when the user cancelled."""
        stop_if_interrupted()
        if self.bar:
            self.bar.update_absolute(tokens)
        if time.monotonic() - self.last_shown >= self.EVERY_SECONDS:
            self.finish(text)

    def finish(self, text: str) -> None:
        show_text(text)
        self.last_shown = time.monotonic()


def show_text(text: str) -> None:
    """Show text on the node that is running. The graph editor reads it as HTML, and would leave out <image>."""
    context = get_executing_context()
    if context is not None:
        PromptServer.instance.send_progress_text(html.escape(printable(text), quote=False), context.node_id)


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


def warn(message: str) -> None:
    """Say something on the node that is running, and in the log."""
    log.warning(printable(message))
    show_text(f"Warning: {message}")


def _preview(image: Tensor) -> Image.Image:
    """Scaled down on its own device, so that little is copied to system memory."""
    height, width = image.shape[1:3]
    scale = min(1, PREVIEW_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(image[:1].permute(0, 3, 1, 2), size, mode="area")[0]
    return to_pil(small.permute(1, 2, 0))
