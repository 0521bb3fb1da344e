"""What came of the self-test as a picture: its table, what is wrong in red."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ..selftest import ABSENT, WRONG, Outcome, row, summary

TITLES = ("", "", "off by", "at most", "", "")
COLUMNS = (24, 120, 400, 480, 560, 640)  # where they begin, in pixels
WIDTH, MARGIN, LINE, SIZE = 1180, 24, 22, 15
CUT = 64  # letters of a note
BACKGROUND, INK, FAINT, RED = "#FFFFFF", "#222222", "#999999", "#D62728"


def selftest_picture(found: Sequence[Outcome], machine: str) -> Image.Image:
    """RGB, to be read as it is."""
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + LINE * (len(found) + 5)), BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(SIZE)

    def write(line: int, cells: Sequence[str], colour: str) -> None:
        for left, cell in zip(COLUMNS, cells, strict=False):
            draw.text((left, MARGIN + LINE * line), cell, fill=colour, font=font)

    write(0, (machine,), INK)
    write(2, TITLES, FAINT)
    last = ""
    for number, each in enumerate(found, 3):
        group, *cells, note = row(each)
        colour = {WRONG: RED, ABSENT: FAINT}.get(each.verdict, INK)
        write(number, ("" if group == last else group, *cells, note[:CUT]), colour)
        last = group
    wrong = any(each.verdict == WRONG for each in found)
    write(len(found) + 4, (summary(found)[: 2 * CUT],), RED if wrong else INK)
    return image
