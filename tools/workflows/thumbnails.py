"""Draw the picture that stands for each workflow in ComfyUI's template browser: what it was given, asked and gave.

    python -m tools.workflows.thumbnails workflows/api/sensenova_u1_text_to_image.json ...

Each becomes ../NAME.jpg beside its folder, from a run of the workflow in a real ComfyUI with the built-in demo model.
Needs ComfyUI (COMFYUI_PATH).
"""

import argparse
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tests.live import comfyui
from tests.live.client import Client
from tests.live.workflows import AUTOMATIC, changed

SIDE, GAP, TEXT_TOP = 400, 12, 284  # of the card, in pixels; where the text begins below pictures
PAPER, PICTURE_PAPER, ASKED, GIVEN = "#f4f4f2", "#ffffff", "#667077", "#1b2730"
SIZES = (22, 20, 18, 16, 14, 13)  # of the text: the largest in which all of it has room
MOST_PICTURES = 4
QUALITY = 88
UNTOLD = re.compile(r"</think>|<image>\n*|^free .*\n", re.MULTILINE)  # what is no word, or other in every run
WORDS = ("prompt", "question")  # inputs that ask for something
AUTOMATIC_SIZES = {"Resolution": {"size": AUTOMATIC}}  # those that the demo draws best


def shown(client: Client, api: dict[str, Any]) -> tuple[list[Image.Image], list[tuple[str, str]]]:
    """(pictures, [(colour, text)]): what was given and asked before what the workflow made of it."""
    run = client.run(changed(api, **AUTOMATIC_SIZES))
    if run.outcome != "execution_success":
        raise RuntimeError(run.error["exception_message"])
    pictures: list[Image.Image] = []
    texts: list[tuple[str, str]] = []
    for id, node in api.items():
        kind, inputs = node["class_type"], node["inputs"]
        asked = [inputs[name] for name in (*WORDS, "value") if isinstance(inputs.get(name), str)]
        texts += [(ASKED, text) for text in asked if kind != "SenseNovaCoreLoader"]
        if kind == "LoadImage":
            pictures.insert(0, client.view({"filename": inputs["image"], "type": "input"}))
        elif kind in ("SaveImage", "PreviewImage"):
            pictures += client.images(run, id)
        elif kind == "PreviewAny":
            texts += [(GIVEN, UNTOLD.sub("", text).strip()) for text in run.outputs[id]["text"]]
    return pictures, texts


def card(pictures: list[Image.Image], texts: list[tuple[str, str]]) -> Image.Image:
    """A square with pictures above text."""
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    top = 0
    if pictures:
        top = TEXT_TOP
        page.paste(_row(pictures[:1] + pictures[1:][-(MOST_PICTURES - 1) :]), (0, 0))
    _write(page, texts, top + GAP)
    return page


def _row(pictures: list[Image.Image]) -> Image.Image:
    """Pictures side by side, each as large as there is room for."""
    band = Image.new("RGB", (SIDE, TEXT_TOP), PICTURE_PAPER)
    rows = 1 if len(pictures) < 4 else 2
    columns = -(-len(pictures) // rows)
    room = (SIDE - GAP * (columns + 1)) // columns, (TEXT_TOP - GAP * (rows + 1)) // rows
    for place, picture in enumerate(pictures):
        scale = min(room[0] / picture.width, room[1] / picture.height)
        size = round(picture.width * scale), round(picture.height * scale)
        row, column = divmod(place, columns)
        center = (SIDE * (2 * column + 1) // (2 * columns), TEXT_TOP * (2 * row + 1) // (2 * rows))
        fitted = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        corner = center[0] - size[0] // 2, center[1] - size[1] // 2
        band.paste("#d8dcde", (corner[0] - 1, corner[1] - 1, corner[0] + size[0] + 1, corner[1] + size[1] + 1))
        band.paste(fitted, corner)
    return band


def _write(page: Image.Image, texts: list[tuple[str, str]], top: int) -> None:
    """Put texts below each other, in letters that let all of them in; what is still too long is cut."""
    pen = ImageDraw.Draw(page)
    for size in SIZES:
        font = ImageFont.load_default(size)
        lines = [(colour, line) for colour, text in texts for line in _lines(text, font)]
        if top + len(lines) * size * 1.25 <= SIDE - GAP:
            break
    for place, (colour, line) in enumerate(lines[: int((SIDE - GAP - top) / (size * 1.25))]):
        pen.text((GAP, top + place * size * 1.25), line, fill=colour, font=font)


def _lines(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > SIDE - 2 * GAP:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def main(paths: list[Path]) -> None:
    installation = comfyui.find()
    if installation is None:
        sys.exit(comfyui.NOT_FOUND)
    with tempfile.TemporaryDirectory() as folder:
        comfyui.prepare_base(installation, Path(folder))
        with comfyui.Server(installation, Path(folder)) as server, Client(server.url) as client:
            for path in paths:
                picture = card(*shown(client, json.loads(path.read_text(encoding="utf-8"))))
                written = io.BytesIO()
                picture.save(written, "JPEG", quality=QUALITY, optimize=True)
                target = path.parents[1] / f"{path.stem}.jpg"
                target.write_bytes(written.getvalue())
                print(target, f"{len(written.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workflows", type=Path, nargs="+", metavar="API_FILE")
    main(parser.parse_args().workflows)
