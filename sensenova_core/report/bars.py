"""Stacked bars as a picture: what something consists of, beside what it may be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN = 768, 24
BAR, TITLE_SIZE, TEXT_SIZE = 30, 18, 15
LINE, GAP = 22, 18  # of text; between bars
SWATCH, LEAST = 12, 3  # sides of squares; pixels of a piece, however small
BACKGROUND, INK, EMPTY, LIMIT = "#FFFFFF", "#222222", "#EEEEEE", "#D62728"


@dataclass(frozen=True)
class Piece:
    name: str
    amount: float
    colour: str


@dataclass(frozen=True)
class Bar:
    """limit: where a line is drawn across it, and what it is called."""

    title: str
    pieces: tuple[Piece, ...]
    limit: tuple[float, str] | None = None

    @property
    def total(self) -> float:
        return sum(piece.amount for piece in self.pieces)


@dataclass(frozen=True)
class Chart:
    """Bars of one scale under a heading, "" for the one before. words: an amount -> what is written of it."""

    heading: str
    bars: tuple[Bar, ...]
    words: Callable[[float], str]

    @property
    def most(self) -> float:
        """What fills the whole width."""
        return max([*(bar.total for bar in self.bars), *(bar.limit[0] for bar in self.bars if bar.limit)], default=0)


def spans(chart: Chart, width: int) -> list[list[tuple[float, float]]]:
    """Where each piece of each bar begins and ends, of a width in pixels."""
    unit, found = width / (chart.most or 1), []
    for bar in chart.bars:
        left, of_bar = 0.0, []
        for piece in bar.pieces:
            of_bar.append((left, left + piece.amount * unit))
            left = of_bar[-1][1]
        found.append(of_bar)
    return found


def picture(charts: Sequence[Chart]) -> Image.Image:
    """RGB, 768 pixels wide, to be read as it is."""
    height = _draw(charts, ImageDraw.Draw(Image.new("RGB", (WIDTH, 1))))
    image = Image.new("RGB", (WIDTH, height), BACKGROUND)
    _draw(charts, ImageDraw.Draw(image))
    return image


def _draw(charts: Sequence[Chart], draw: ImageDraw.ImageDraw) -> int:
    """Returns the height that it takes."""
    large, small = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(TEXT_SIZE)
    top = MARGIN
    for chart in charts:
        if chart.heading:
            top += GAP if top > MARGIN else 0
            for line in _wrapped(chart.heading, draw, large):
                draw.text((MARGIN, top), line, fill=INK, font=large)
                top += TITLE_SIZE + 6
            top += 6
        for bar, places in zip(chart.bars, spans(chart, WIDTH - 2 * MARGIN), strict=True):
            top = _bar(draw, small, bar, places=places, chart=chart, top=top)
    return top + MARGIN // 2 - GAP // 2


def _bar(
    draw: ImageDraw.ImageDraw, font, bar: Bar, *, places: list[tuple[float, float]], chart: Chart, top: int
) -> int:
    """A title, the bar, and what its pieces are. Returns where it ends."""
    right = WIDTH - MARGIN
    draw.text((MARGIN, top), f"{bar.title}: {chart.words(bar.total)}", fill=INK, font=font)
    if bar.limit:
        draw.text((right, top), f"{bar.limit[1]} {chart.words(bar.limit[0])}", fill=LIMIT, font=font, anchor="ra")
    top += LINE
    draw.rectangle((MARGIN, top, right, top + BAR), EMPTY)
    for piece, (begin, end) in zip(bar.pieces, places, strict=True):
        last = max(round(end), round(begin) + LEAST) - 1
        draw.rectangle((MARGIN + round(begin), top, MARGIN + last, top + BAR), piece.colour)
    if bar.limit and chart.most:
        at = MARGIN + round((WIDTH - 2 * MARGIN) * bar.limit[0] / chart.most)
        draw.line((at, top - 4, at, top + BAR + 4), LIMIT, 3)
    if [piece.name for piece in bar.pieces] == [bar.title]:
        return top + BAR + GAP
    return _legend(draw, font, bar, chart=chart, top=top + BAR + 8) + GAP


def _legend(draw: ImageDraw.ImageDraw, font, bar: Bar, *, chart: Chart, top: int) -> int:
    left = MARGIN
    for piece in bar.pieces:
        told = f"{piece.name} {chart.words(piece.amount)}"
        wide = SWATCH + 6 + draw.textlength(told, font)
        if left > MARGIN and left + wide > WIDTH - MARGIN:
            left, top = MARGIN, top + LINE
        draw.rectangle((left, top + 3, left + SWATCH, top + 3 + SWATCH), piece.colour)
        draw.text((left + SWATCH + 6, top), told, fill=INK, font=font)
        left += round(wide) + 18
    return top + LINE


def _wrapped(text: str, draw: ImageDraw.ImageDraw, font) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font) > WIDTH - 2 * MARGIN:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
