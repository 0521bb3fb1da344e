"""Picture files as people have them -> PIL images, decoded and turned upright; and what text lies in them."""

import io
import logging
import os
import stat
import struct
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

from PIL import Image, PngImagePlugin

from ..errors import PromptError, SenseNovaError
from ..system.paths import path_of
from . import picture_kinds
from .colours import scale_transparency
from .images import MAX_METADATA, METADATA_KEY, check_ratio

MAX_PIXELS = 2**29  # of one file: 180 megapixels of a camera are a third of it, and decoded it takes 1.5 GiB
MAX_BYTES = 2**30  # of a pipe
QUOTED = 100  # characters of a name that a message repeats
_TEXT = 2**26  # bytes of one text or profile of a PNG: Pillow's own bound for all of them together
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ONE_PICTURE = ("MPO", "PSD", "ICO", "ICNS")  # of which the first, the whole or the largest is all that is meant
_limits = threading.RLock()
log = logging.getLogger(__name__)


def open_picture(given: str | bytes | os.PathLike) -> Image.Image:
    """The picture in a file or pipe, upright, in Pillow's mode for it; its metadata in `info`.

    given: as people write paths, see `path_of`; - is standard input. Raises PromptError that names it.
    """
    name = f"image {shown(given)}"
    source = _source(given, name)
    try:
        with _stream(source) as stream:
            head = stream.read(picture_kinds.HEAD)
    except OSError as error:
        raise PromptError(f"{name}: it cannot be read ({error.strerror}); give the path of a picture file") from error
    suffixed = "" if isinstance(source, bytes) else str(source)
    try:
        if picture_kinds.must_not_open(head):
            raise OSError("not opened")
        with _no_limits():
            image, several = _decoded(source, head, name)
    except (PromptError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PromptError(_too_large(name, "more")) from error
    except Exception as error:  # Pillow's readers raise anything on damaged files
        with _no_limits():
            what = picture_kinds.what_is(suffixed, head, reopened=partial(_stream, source), error=error)
        raise PromptError(f"{name}: {what}") from error
    check_ratio(*image.size, name)
    if several:
        _say(f"{name}: it holds several frames or pages; the first is read")
    return image


def is_pipe(given: str | bytes | os.PathLike) -> bool:
    """Whether it can be read once only."""
    if given == "-":
        return True
    try:
        mode = os.stat(path_of(given)).st_mode
    except (OSError, ValueError, SenseNovaError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def text_of(path: str | os.PathLike) -> dict[str, str]:
    """What a picture file's metadata says of how it was drawn; nothing where it cannot be read. Decodes no pixels."""
    try:
        with _no_limits(), Image.open(path) as image:
            found = {key: image.info.get(key) for key in (METADATA_KEY, "prompt")}
            return {key: text for key, text in found.items() if isinstance(text, str) and len(text) <= MAX_METADATA}
    except Exception:  # it is only for a warning, whatever is wrong
        log.debug("no metadata of %s", shown(path), exc_info=True)
        return {}


def shown(given: str | bytes | os.PathLike) -> str:
    """A name as any terminal can print it, its end if it is long."""
    text = os.fsencode(given).decode("utf-8", "replace")
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= QUOTED else "\u2026" + text[1 - QUOTED :]


def _source(given: str | bytes | os.PathLike, name: str) -> Path | bytes:
    """A file's path, or all that comes out of a pipe. Raises PromptError where there is neither."""
    if not os.fspath(given):
        raise PromptError("an image's name is empty; give the path of a picture file")
    if is_pipe(given):
        return _piped(given, name)
    try:
        path = path_of(given)
        mode = os.stat(path).st_mode
    except (OSError, ValueError, SenseNovaError) as error:
        raise PromptError(f"{name}: there is no such file; give the path of a picture file") from error
    if stat.S_ISDIR(mode):
        raise PromptError(f"{name}: it is a folder; give the path of a picture file in it")
    return path


def _stream(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _piped(given: str | bytes | os.PathLike, name: str) -> bytes:
    if given == "-" and sys.stdin.isatty():
        raise PromptError(f"{name}: it is the terminal; send a picture into it, as in: --image - < FILE")
    try:
        with open(sys.stdin.fileno() if given == "-" else path_of(given), "rb", closefd=given != "-") as stream:
            if stream.isatty():
                raise PromptError(f"{name}: it is a terminal; give the path of a picture file")
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise PromptError(f"{name}: it cannot be read ({error.strerror}); give the path of a picture file") from error
    if len(content) > MAX_BYTES:
        raise PromptError(f"{name}: it sends more than {MAX_BYTES >> 30} GiB; give a smaller picture")
    return content


@contextmanager
def _no_limits() -> Iterator[None]:
    """Have Pillow open what this package has limits of its own for, and keep its warnings to itself.

    Its limits are the process's: meanwhile other threads have these too, and nothing else changes for them.
    """
    with _limits, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = MAX_PIXELS, _TEXT
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before


def _decoded(source: Path | bytes, head: bytes, name: str) -> tuple[Image.Image, bool]:
    """The picture upright, and whether its file holds others."""
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Exception:
        with _stream(source) as stream:
            bare = _without_extras(head, stream)
        if bare is None:
            raise
        image = Image.open(io.BytesIO(bare))
    if image.width * image.height > MAX_PIXELS:
        raise PromptError(_too_large(name, f"{image.width}x{image.height}"))
    if picture_kinds.raw_thumbnail(image):
        raise PromptError(f"{name}: it is a camera's raw file, which is not read; {picture_kinds.CONVERT}")
    check_ratio(*image.size, name)
    several = image.format not in _ONE_PICTURE and _is_animated(image)
    scale_transparency(image)
    image.load()
    turned = _upright(image)
    if turned is not image:
        turned.info = image.info
    return turned, several


def _too_large(name: str, size: str) -> str:
    return f"{name}: it has {size} pixels, over {MAX_PIXELS // 10**6} million; scale it down first"


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # later frames that are damaged are not read anyway
        return False


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it is where that cannot be read."""
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow's reader of EXIF raises anything on damaged blocks
        turn = None
    return image if turn is None else image.transpose(turn)


def _without_extras(head: bytes, stream: BinaryIO) -> bytes | None:
    """A PNG or JPEG without the text, profiles and EXIF that keep Pillow from opening it; None for other files."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_pixels(stream.read())
    return _jpeg_pixels(stream.read()) if head.startswith(b"\xff\xd8") else None


def _png_pixels(content: bytes) -> bytes:
    kept, place = [content[:8]], 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        kind = content[place + 4 : place + 8]
        if not kind[0] & 32 or kind == b"tRNS":  # a small first letter: nothing that pixels need
            kept.append(content[place : place + 12 + size])
        place += 12 + size
    return b"".join(kept)


def _jpeg_pixels(content: bytes) -> bytes:
    """APP0 and APP14 say how colours are stored, and APP2 may be a colour profile; all others go."""
    kept, place = [content[:2]], 2
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, (size,) = content[place + 1], struct.unpack_from(">H", content, place + 2)
        segment = content[place : place + 2 + size]
        if marker == 0xDA:
            break
        profile = marker == 0xE2 and segment[4:].startswith(b"ICC_PROFILE\0")
        if profile or not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            kept.append(segment)
        place += 2 + size
    return b"".join([*kept, content[place:]])


@cache
def _say(text: str) -> None:
    """Once, however often its picture is opened."""
    log.warning(text)
