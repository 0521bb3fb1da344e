"""Documents of text and pictures: collected from events, shown as one page, saved as one file with its images."""

import html
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..errors import SettingsError, check_choice
from ..writing.document import Drawing, End, Event, Text
from .png import to_pil

IMAGE_MARK = "<image>"
FORMATS = ("markdown", "html")

# Fonts with letters for most languages, by the names that systems install them under; the first found is used.
_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf")
_TAG = re.compile(r"<(/?think)>")  # which a reader of Markdown would take for HTML, and hide
_WIDTH, _MARGIN, _TEXT, _LINE = 768, 32, 20, 30


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
        self._ended, self._tokens = "end", 0

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
    check_choice("format", form, tuple(FORMATS))
    if folder.exists():
        raise SettingsError(f"{folder} exists already", "choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".document-", dir=folder.parent))
    try:
        for index, image in enumerate(document.images, 1):
            image.save(unfinished / f"image_{index}.png")
        name, content = (
            ("document.md", _markdown(document)) if form == "markdown" else ("document.html", _html(document))
        )
        (unfinished / name).write_text(content, encoding="utf-8")
        unfinished.chmod(0o755)
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder / name


def _markdown(document: Document) -> str:
    return _rendered(
        document,
        text=lambda text: _TAG.sub(r"&lt;\1&gt;", text),
        image=lambda n: f"\n\n![image {n}](image_{n}.png)\n\n",
    )


def _html(document: Document) -> str:
    body = _rendered(
        document,
        text=lambda text: f"<p>{html.escape(text.strip()).replace(chr(10), '<br>')}</p>\n" if text.strip() else "",
        image=lambda n: f'<p><img src="image_{n}.png" alt="image {n}"></p>\n',
    )
    style = "body{max-width:48em;margin:2em auto;font-family:sans-serif;line-height:1.5}img{max-width:100%}"
    return f'<!DOCTYPE html>\n<meta charset="utf-8">\n<style>{style}</style>\n{body}'


def _rendered(document: Document, text, image) -> str:
    content, images = "", 0
    for part in document.parts:
        if isinstance(part, str):
            content += text(part)
        else:
            images += 1
            content += image(images)
    return content


def page(document: Document) -> Image.Image:
    """The document as one picture to look at, 768 pixels wide: texts and pictures in order."""
    font, blocks = _font(), []
    for part in document.parts:
        if isinstance(part, Image.Image):
            scale = min(1, (_WIDTH - 2 * _MARGIN) / part.width)
            blocks.append(part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale)))))
        else:
            blocks += [line for text in part.strip().splitlines() for line in _lines(text, font)]
    height = 2 * _MARGIN + sum(_LINE if isinstance(block, str) else block.height + _LINE for block in blocks)
    sheet = Image.new("RGB", (_WIDTH, max(height, 4 * _MARGIN)), "white")
    draw, top = ImageDraw.Draw(sheet), _MARGIN
    for block in blocks:
        if isinstance(block, str):
            draw.text((_MARGIN, top), block, "black", font)
            top += _LINE
        else:
            sheet.paste(block, (_MARGIN, top))
            top += block.height + _LINE
    return sheet


def _lines(text: str, font) -> list[str]:
    """Cut a paragraph to the width of the page: at spaces where there are any, else between characters."""
    lines, width = [""], _WIDTH - 2 * _MARGIN
    for word in re.findall(r"\s+|[^\s\u2e80-\uffff]+|\S", text):  # letters of wide scripts stand alone
        if font.getlength(lines[-1] + word) <= width:
            lines[-1] += word
            continue
        if lines[-1].strip():
            lines.append("")
        for letter in word.lstrip():
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines]


def _font():
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _TEXT)
        except OSError:
            continue
    return ImageFont.load_default(_TEXT)
