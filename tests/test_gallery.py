"""docs/gallery.md: its pictures are there, are of what they are said to be of, and are small."""

import re
from pathlib import Path

from PIL import Image

from tests.live.workflows import NAMES
from tools.workflows.blueprints import BLUEPRINTS
from tools.workflows.gallery import CHINESE, MOST_BYTES, NODES_2, OTHERS, PICTURES

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^\*\*`?([^`*]+)`?\*\*(.*)\n(?:.+\n)*\n!\[([^]]+)\]\(gallery/(\w+\.jpg)\)$", PAGE, re.MULTILINE)
MOST_OF_ALL = 2_500_000  # bytes


def test_every_picture_is_on_the_page_once_and_no_other_is_there():
    files = [file for *_, file in SHOWN]
    assert sorted(files) == sorted(picture.file for picture in PICTURES)
    assert sorted(files) == sorted(path.name for path in (DOCS / "gallery").iterdir())
    assert PAGE.count("![") == len(files)


def test_pictures_are_small_and_show_something():
    sizes = {path.name: path.stat().st_size for path in (DOCS / "gallery").iterdir()}
    assert {name for name, size in sizes.items() if size > MOST_BYTES} == set()
    assert sum(sizes.values()) <= MOST_OF_ALL
    for name in sizes:
        with Image.open(DOCS / "gallery" / name) as picture:
            assert picture.format == "JPEG" and picture.width >= 1200, name
            assert len(picture.getcolors(picture.width * picture.height)) > 1000, name


def test_the_page_says_what_each_picture_is_of():
    said = {file: (name, about) for name, about, _, file in SHOWN}
    titles = {"blueprint": BLUEPRINTS[0].title, "templates": "Templates"}
    for picture in PICTURES:
        name, about = said[picture.file]
        assert name == titles.get(picture.name, picture.name)
        assert f"({'Nodes 2.0' if picture.editor == NODES_2 else 'classic'})" in about, name
        assert ("in Chinese" in about) == (picture.language == CHINESE), name


def test_pictures_are_of_shipped_workflows_in_both_editors_and_languages():
    assert {picture.name for picture in PICTURES} <= {*NAMES, *OTHERS}
    assert len({(picture.editor, picture.language) for picture in PICTURES}) >= 3


def test_the_readmes_lead_to_it():
    for name in ("README.md", "README_CN.md"):
        assert "(docs/gallery.md)" in (DOCS.parent / name).read_text(encoding="utf-8"), name
