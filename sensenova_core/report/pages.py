"""Documents of text and pictures: collected from events, shown as one page, saved as one file with its images."""

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..errors import SettingsError, check_choice
from ..settings import PAGE_FORMATS
from ..writing.document import Drawing, End, Event, Text
from .markdown import escaped
from .outputs import publish_folder, synced, take_name, unfinished
from .png import to_pil

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
IMAGE_MARK = "<image>"

# Fonts with letters for most languages, by the names that systems install them under; the first found is used.
_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf")
_WIDTH, _MARGIN, _TEXT, _LINE = 768, 32, 20, 30
_HIGHEST = 32_768  # pixels of a page, 75 MB: a document of 10 tall pictures and 8192 tokens is lower
_LONGEST = 400_000  # characters of a paragraph that are looked at; the narrowest fill a page earlier


@dataclass(frozen=True)
class Document:
    """Texts and RGB pictures in order, and why it ended ("end", "max_tokens", "max_images"). tokens: of its text."""

    parts: tuple[str | Image.Image, ...]
    ended: str = "end"
    tokens: int = 0

    @property
    def images(self) -> list[Image.Image]:
        return [part for part in self.parts if isinstance(part, Image.Image)]

    @property
    def text(self) -> str:
        """All text, with <image> where a picture stands."""
        return "".join(part if isinstance(part, str) else IMAGE_MARK for part in self.parts)


class DocumentBuilder:
    """Gathers a document from the events of its making."""

    def __init__(self):
        self._parts: list[str | Image.Image] = []
        self._ended = "end"
        self._tokens = 0

    def add(self, event: Event) -> None:
        if isinstance(event, Text):
            self._tokens += event.tokens
            if self._parts and isinstance(self._parts[-1], str):
                self._parts[-1] += event.text
            else:
                self._parts.append(event.text)
        elif isinstance(event, Drawing) and event.step.index + 1 == event.step.total:
            self._parts.append(to_pil(event.step.image()[0]))
        elif isinstance(event, End):
            self._ended = event.reason

    def document(self) -> Document:
        """As far as it has come."""
        return Document(tuple(self._parts), self._ended, self._tokens)


def save_document(document: Document, folder: Path, form: str) -> Path:
    """Write `folder` with document.md or document.html and its pictures beside it; returns the document's path.

    The folder appears whole or not at all. Raises SettingsError for an unknown format or a folder that exists.
    """
    check_choice("format", form, PAGE_FORMATS)
    with unfinished(folder.parent) as own:
        name = _write(document, own, form)
        try:
            publish_folder(own, folder)
        except FileExistsError:
            raise SettingsError(f"{folder} exists already", "choose another name") from None
    return folder / name


def save_numbered_document(document: Document, folder: Path, stem: str, *, form: str) -> Path:
    """`save_document` into the first of stem_00001, stem_00002, ... in `folder` that nobody has."""
    with unfinished(folder) as own:
        name = _write(document, own, form)
        return take_name(folder, stem, "", take=partial(publish_folder, own)) / name


def _write(document: Document, folder: Path, form: str) -> str:
    """Returns the name of the file of text."""
    folder.mkdir()
    for index, image in enumerate(document.images, 1):
        image.save(folder / f"image_{index}.png")
    name, content = ("document.md", _markdown(document)) if form == "markdown" else ("document.html", _html(document))
    (folder / name).write_text(content, encoding="utf-8", errors="replace")
    folder.chmod(0o755)
    for file in folder.iterdir():
        synced(file)
    return name


def _markdown(document: Document) -> str:
    return _rendered(document, text=escaped, image=lambda n: f"\n\n![image {n}](image_{n}.png)\n\n")


def _html(document: Document) -> str:
    body = _rendered(
        document,
        text=lambda text: f"<p>{html.escape(text.strip()).replace(chr(10), '<br>')}</p>\n" if text.strip() else "",
        image=lambda n: f'<p><img src="image_{n}.png" alt="image {n}"></p>\n',
    )
    style = "body{max-width:48em;margin:2em auto;font-family:sans-serif;line-height:1.5}img{max-width:100%}"
    return f'<!DOCTYPE html>\n<meta charset="utf-8">\n<style>{style}</style>\n{body}'


def _rendered(document: Document, *, text: Callable[[str], str], image: Callable[[int], str]) -> str:
    content = ""
    images = 0
    for part in document.parts:
        if isinstance(part, str):
            content += text(part)
        else:
            images += 1
            content += image(images)
    return content


def page(document: Document) -> Image.Image:
    """The document as one picture to look at, 768 pixels wide: texts and pictures in order.

    It is at most 32,768 pixels high; what is left out then, it says.
    """
    font = _font()
    blocks: list[str | Image.Image] = []
    height = 2 * _MARGIN
    for block in _blocks(document, font):
        tall = _LINE if isinstance(block, str) else block.height + _LINE
        if height + tall + _LINE > _HIGHEST:
            blocks.append("[the page ends here; the document goes on]")
            height += _LINE
            break
        blocks.append(block)
        height += tall
    sheet = Image.new("RGB", (_WIDTH, max(height, 4 * _MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for block in blocks:
        if isinstance(block, str):
            draw.text((_MARGIN, top), block, fill="black", font=font)
            top += _LINE
        else:
            sheet.paste(block, (_MARGIN, top))
            top += block.height + _LINE
    return sheet


def _blocks(document: Document, font: Font) -> Iterator[str | Image.Image]:
    """Lines and pictures, no wider than the page."""
    for part in document.parts:
        if isinstance(part, Image.Image):
            scale = min(1, (_WIDTH - 2 * _MARGIN) / part.width, _HIGHEST / 2 / part.height)
            yield part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))))
        else:
            for text in part.strip().splitlines():
                yield from _lines(text[:_LONGEST], font)


def _lines(text: str, font: Font) -> Iterator[str]:
    """Cut a paragraph to the width of the page: at spaces where there are any, else between characters."""
    line = ""
    width = _WIDTH - 2 * _MARGIN
    for word in re.findall(r"\s+|[^\s\u2e80-\uffff]+|\S", text):  # letters of wide scripts stand alone
        if font.getlength(line + word) <= width:
            line += word
            continue
        if line.strip():
            yield line.rstrip()
            line = ""
        for letter in word.lstrip():
            if font.getlength(line + letter) > width:
                yield line.rstrip()
                line = ""
            line += letter
    yield line.rstrip()


def _font() -> Font:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _TEXT)
        except OSError:
            continue
    return ImageFont.load_default(_TEXT)
