"""Pictures with what was asked under each, on one page."""

import re

from PIL import Image, ImageDraw, ImageFont

LINE, LINES = 14, 5  # pixels and most lines of the text under a picture
PAGE_WIDTH, GAP = 1088, 6


def sheet(shown: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """From left to right and line by line."""
    corners, x, y = [], 0, 0
    tallest = max(picture.height for _, pictures in shown for picture in pictures)
    for _, pictures in shown:
        width = _width(pictures) + 3 * GAP
        if x + width > PAGE_WIDTH:
            x, y = 0, y + tallest + LINES * LINE + 3 * GAP
        corners.append((x + GAP, y + GAP))
        x += width
    page = Image.new("RGB", (PAGE_WIDTH, y + tallest + LINES * LINE + 3 * GAP), "white")
    pen, font = ImageDraw.Draw(page), _font()
    for (asked, pictures), (x, y) in zip(shown, corners, strict=True):
        for place, picture in enumerate(pictures):
            page.paste(picture, (x + _width(pictures[:place]), y))
        for line, text in enumerate(_lines(asked, _width(pictures), font)[:LINES]):
            pen.text((x, y + tallest + 2 + LINE * line), text, fill="black", font=font)
    return page


def _width(pictures: list[Image.Image]) -> int:
    return sum(picture.width + GAP for picture in pictures)


def _lines(text: str, width: int, font: ImageFont.ImageFont) -> list[str]:
    """Cut where a word, or in Chinese a letter, would go beyond so many pixels."""
    lines = [""]
    for word in re.findall(r"[\u3000-\uffff]|[^\s\u3000-\uffff]+ *", text):
        if font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return lines


def _font() -> ImageFont.ImageFont:
    for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf"):
        try:
            return ImageFont.truetype(name, 11)
        except OSError:
            continue
    return ImageFont.load_default(11)
