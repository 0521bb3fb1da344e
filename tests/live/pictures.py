"""The pictures that live tests edit and ask about."""

from pathlib import Path

from PIL import Image, ImageDraw

PHOTO = (150, 100)  # no multiple of a token's side


def write(folder: Path) -> None:
    """photo.png and twin.png of one size, tall.png, and holed.png with the same picture on white, filled.png."""
    _discs(PHOTO, "orange").save(folder / "photo.png")
    _discs(PHOTO, "teal").save(folder / "twin.png")
    _discs((64, 200), "purple").save(folder / "tall.png")
    hole = Image.new("L", PHOTO, 255)
    ImageDraw.Draw(hole).rectangle((40, 20, 110, 80), 0)
    holed = _discs(PHOTO, "orange")
    holed.putalpha(hole)
    holed.save(folder / "holed.png")
    Image.composite(_discs(PHOTO, "orange"), Image.new("RGB", PHOTO, "white"), hole).save(folder / "filled.png")


def _discs(size: tuple[int, int], colour: str) -> Image.Image:
    picture = Image.new("RGB", size, "navy")
    draw = ImageDraw.Draw(picture)
    for x in range(0, size[0], 40):
        for y in range(0, size[1], 40):
            draw.ellipse((x, y, x + 30, y + 30), colour)
    return picture
