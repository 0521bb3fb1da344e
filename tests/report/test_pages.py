"""Documents as files and as one picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sensenova_core import SettingsError
from sensenova_core.report.pages import Document, page, save_document
from tests.support.pictures import picture

RED, BLUE = Image.new("RGB", (64, 32), "red"), Image.new("RGB", (2000, 500), "blue")
STORY = Document(("Once upon\na time, ", RED, " there was <b>bold</b> & 一只猫. ", BLUE, "\n\nThe end."), "max_images")


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_text_and_images():
    assert STORY.images == [RED, BLUE] and STORY.ended == "max_images"
    assert STORY.text == "Once upon\na time, <image> there was <b>bold</b> & 一只猫. <image>\n\nThe end."


def test_markdown(tmp_path):
    path = save_document(STORY, tmp_path / "deep" / "story", "markdown")
    assert path == tmp_path / "deep" / "story" / "document.md"
    assert path.read_text(encoding="utf-8") == (
        "Once upon\na time, \n\n![image 1](image_1.png)\n\n there was &lt;b&gt;bold&lt;/b&gt; &amp; 一只猫. "
        "\n\n![image 2](image_2.png)\n\n\n\nThe end."
    )
    assert below(path.parent) == ["document.md", "image_1.png", "image_2.png"]


def test_html(tmp_path):
    path = save_document(STORY, tmp_path / "story", "html")
    text = path.read_text(encoding="utf-8")
    assert path.name == "document.html" and text.startswith("<!DOCTYPE html>") and 'charset="utf-8"' in text
    assert "there was &lt;b&gt;bold&lt;/b&gt; &amp; 一只猫." in text and "<b>" not in text
    assert "<p>Once upon<br>a time,</p>" in text
    places = [text.index(part) for part in ("Once", 'src="image_1.png"', "there", 'src="image_2.png"', "The end")]
    assert places == sorted(places)


def test_html_escapes_what_would_run(tmp_path):
    path = save_document(Document(('<script>alert("1")</script>',)), tmp_path / "story", "html")
    assert "<script" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_saved_images_are_the_document_s(tmp_path, form):
    original = picture(50, 40, seed=3)
    path = save_document(Document(("a", original, "b")), tmp_path / "story", form)
    saved = Image.open(path.parent / "image_1.png")
    assert saved.mode == "RGB" and np.array_equal(np.asarray(saved), np.asarray(original))


@pytest.mark.parametrize("form", ["markdown", "html"])
@pytest.mark.parametrize(
    "document", [Document(()), Document(("only text",)), Document((RED,))], ids=["", "text", "image"]
)
def test_parts_may_be_missing(tmp_path, form, document):
    path = save_document(document, tmp_path / "story", form)
    assert len(below(path.parent)) == 1 + len(document.images) and page(document).width == 768


@pytest.mark.parametrize("fault", ["an image", "the text", "the end"])
def test_nothing_half_written_stays(tmp_path, monkeypatch, fault):
    def fail(*_, **__):
        raise OSError("disk full")

    target, name = {"an image": (Image.Image, "save"), "the text": (Path, "write_text"), "the end": (Path, "chmod")}[
        fault
    ]
    monkeypatch.setattr(target, name, fail)
    with pytest.raises(OSError, match="disk full"):
        save_document(STORY, tmp_path / "story", "html")
    assert below(tmp_path) == []


def test_an_interruption_leaves_nothing_either(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_document(STORY, tmp_path / "story", "html")
    assert below(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_never_written_over(tmp_path, kind):
    target = tmp_path / "story"
    target.mkdir() if kind == "folder" else target.write_text("mine")
    before = below(tmp_path)
    with pytest.raises(SettingsError, match=r"story exists already; choose another name"):
        save_document(STORY, target, "html")
    assert below(tmp_path) == before


@pytest.mark.parametrize("form", ["pdf", "", "Markdown"])
def test_an_unknown_format_is_refused(tmp_path, form):
    with pytest.raises(SettingsError, match=rf"format '{form}' is unknown; choose one of markdown, html"):
        save_document(STORY, tmp_path / "story", form)
    assert below(tmp_path) == []


def colours(image: Image.Image) -> dict[tuple, int]:
    return {colour: count for count, colour in image.getcolors(image.width * image.height)}


def test_a_page_shows_everything_in_order():
    shown = page(STORY)
    assert shown.mode == "RGB" and shown.width == 768
    seen = colours(shown)
    assert seen[(255, 0, 0)] == RED.width * RED.height  # as large as it is
    assert seen[(0, 0, 255)] == 704 * 176  # as wide as the page's text
    pixels = np.asarray(shown).astype(int)
    red, blue = ((np.abs(pixels - colour).sum(-1) == 0).any(1).nonzero()[0] for colour in ((255, 0, 0), (0, 0, 255)))
    dark = (pixels.sum(-1) < 200).any(1).nonzero()[0]
    assert dark.min() < red.min() < red.max() < blue.min() < blue.max() < dark.max()


@pytest.mark.parametrize("text", ["word " * 200, "字" * 300, "x" * 500, "i" * 500, "W" * 300])
def test_text_stays_inside_the_margins(text):
    pixels = np.asarray(page(Document((text,))))
    columns = (pixels.min(-1) < 250).any(0).nonzero()[0]
    rows = (pixels.min(-1) < 250).any(1).nonzero()[0]
    assert len(rows) and columns.min() >= 28 and columns.max() < 768 - 16 and rows.max() < pixels.shape[0] - 16


def test_a_page_grows_with_its_text():
    short, long = (page(Document(("word " * count,))).height for count in (10, 1000))
    assert long > 5 * short
    assert page(Document(("one\n\ntwo",))).height > page(Document(("one",))).height


def test_a_page_has_a_largest_size():
    pictures = (Image.new("RGB", (704, 4000), "blue"),) * 12
    for parts in (pictures, ("w\n" * 5000,), ("W" * 10**6,), ("a", Image.new("RGB", (10, 100_000)), "b", *pictures)):
        shown = page(Document(parts))
        assert 10_000 < shown.height <= 32_768
        last = np.asarray(shown)[-64:]
        assert last.min() < 100  # which says that there is more


def test_a_page_of_a_tall_and_a_thin_image():
    assert page(Document((Image.new("RGB", (704, 5000)),))).height > 5000
    assert page(Document((Image.new("RGB", (20_000, 10)),))).height >= 128
