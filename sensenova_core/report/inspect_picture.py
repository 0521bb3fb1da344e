"""An inspection as a picture: one bar of groups, and one bar for each pathway."""

from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFont

from .inspect import GENERATION, PATHWAYS, SHARED, UNDERSTANDING, Inspection

COLOURS = {UNDERSTANDING: "#4C78A8", GENERATION: "#F58518", SHARED: "#54A24B"}
OTHERS = ("#B279A2", "#E45756", "#72B7B2", "#EECA3B", "#9D755D")
BACKGROUND, INK = "#FFFFFF", "#222222"
WIDTH, BAR, GAP, MARGIN = 1024, 56, 44, 40


def picture(inspection: Inspection) -> Image.Image:
    """RGB, 1024 pixels wide; lengths are shares of all parameters."""
    spare = iter(OTHERS * len(inspection.groups))
    colours = {group: COLOURS.get(group) or next(spare) for group in inspection.by_size()}
    pathways = inspection.pathways()
    height = MARGIN * 2 + (1 + len(pathways)) * (BAR + GAP) + 36 * len(colours)
    image = Image.new("RGB", (WIDTH, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(20)
    unit = (WIDTH - 2 * MARGIN) / inspection.total

    def bar(top: int, title: str, groups: Iterable[str]) -> int:
        total = sum(map(inspection.group_total, groups))
        draw.text((MARGIN, top), f"{title}: {total / 1e9:.3f}B", fill=INK, font=font)
        left = float(MARGIN)
        for group in groups:
            right = left + inspection.group_total(group) * unit
            draw.rectangle((left, top + 28, right, top + 28 + BAR), colours[group], BACKGROUND)
            left = right
        return top + BAR + GAP

    top = bar(MARGIN // 2, "all parameters", colours)
    for name in pathways:
        top = bar(top, name, PATHWAYS[name])
    for group, colour in colours.items():
        top += 36
        numel = inspection.group_total(group)
        draw.rectangle((MARGIN, top, MARGIN + 22, top + 22), colour)
        about = f"{group}  {numel / 1e9:.3f}B  {numel / inspection.total:.2%}"
        draw.text((MARGIN + 34, top), about, fill=INK, font=font)
    return image
