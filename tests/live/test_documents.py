"""Documents of text and pictures on a real server: shown while they are made, saved, and what can be missing."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from nodes.pace import PER_STEP
from sensenova_core.memory.plan_text import IN_PLACE
from sensenova_core.report.markdown import escaped
from tests.live.client import Client, Run
from tests.live.workflows import (
    AUTOMATIC,
    SIDE,
    changed,
    node_id,
    sampled,
    tiny,
)

STEPS, PICTURES = 3, 3
WRITE = sampled(seed=1) | {"steps": STEPS, "max_images": PICTURES}
DOCUMENT = tiny("interleave", Loader={"checkpoint": "talkative"}, Interleave=WRITE)
INTERLEAVE, SAVE_DOCUMENT, SAVE_IMAGE, TEXT = (
    node_id(DOCUMENT, name) for name in ("Interleave", "SaveDocument", "SaveImage", "PreviewAny")
)
SIZE = (SIDE, SIDE)
PAGE_WIDTH = 768
STOPS_IN = 3  # seconds, on a busy machine


@pytest.fixture(scope="module")
def made(server) -> Run:
    with Client(server.url) as client:
        return client.run(DOCUMENT)


def saved(server, run: Run, node: str = SAVE_DOCUMENT) -> Path:
    [path] = run.outputs[node]["text"]
    assert Path(path).is_relative_to(server.base / "output")
    return Path(path)


def test_text_grows_with_marks_where_pictures_stand(made):
    plan, *texts = [text for text in made.texts(INTERLEAVE) if not text.startswith("picture ")]
    assert plan == IN_PLACE
    for one, other in pairwise(texts):
        assert other.startswith(one)
    [text] = made.outputs[TEXT]["text"]
    assert texts[-1].startswith(text)
    assert "max_images" in texts[-1].removeprefix(text)
    assert text.count("<image>") == PICTURES


def test_pictures_follow_one_by_one(client, made):
    assert {image.size for image in client.images(made, SAVE_IMAGE)} == {SIZE}
    assert len({image.tobytes() for image in client.images(made, SAVE_IMAGE)}) == PICTURES


def test_every_step_of_every_picture_shows(made):
    *steps, page = made.previews
    assert len(steps) == PICTURES * STEPS
    assert {preview.data["node_id"] for preview in made.previews} == {INTERLEAVE}
    assert page.image.width == PAGE_WIDTH


def test_one_bar_counts_the_whole_document(made):
    bar = made.of("progress", INTERLEAVE)
    whole = PICTURES * STEPS * PER_STEP + DOCUMENT[INTERLEAVE]["inputs"]["max_tokens"]
    values = [data["value"] for data in bar if data["max"] != 1]  # 1: of the page, which is shown at the end
    assert values == sorted(values) and values[-1] == whole
    assert {data["max"] for data in bar} == {whole, 1} and bar[-1]["value"] == bar[-1]["max"]


def test_steps_are_told_above_the_text(made):
    told = [text for text in made.texts(INTERLEAVE) if text.startswith("picture ")]
    assert len(told) == PICTURES * STEPS
    for number, text in enumerate(told):
        picture, step = divmod(number, STEPS)
        head, _, written = text.partition("\n\n")
        assert head.startswith(f"picture {picture + 1}: step {step + 1} of {STEPS}")
        assert written and made.outputs[TEXT]["text"][0].startswith(written.strip())


def test_the_page_is_shown_at_the_end(client, made):
    [page] = client.images(made, INTERLEAVE)
    assert page.width == PAGE_WIDTH
    assert page.height > PICTURES * SIZE[1]


@pytest.mark.parametrize(
    "form, file, mark", [("markdown", "document.md", r"!\[.*?\]\((.+?)\)"), ("html", "document.html", 'src="(.+?)"')]
)
def test_saved_with_its_pictures_and_never_over_another(client, server, made, form, file, mark):
    prefix = f"stories/{form}"
    first, second = (
        saved(server, client.run(_saving(form, prefix, Interleave={"max_images": number}))) for number in (2, 1)
    )
    assert [first, second] == [server.base / "output/stories" / f"{form}_0000{number}" / file for number in (1, 2)]
    for path, pictures in ((first, 2), (second, 1)):
        named = re.findall(mark, path.read_text(encoding="utf-8"))
        assert len(named) == pictures
        assert {child.name for child in path.parent.iterdir()} == {file, *named}
        assert {Image.open(path.parent / name).size for name in named} == {SIZE}


def test_not_saved_outside_of_the_output_folder(client, server):
    run = client.run(_saving("markdown", "../elsewhere"))
    assert run.error["node_id"] == SAVE_DOCUMENT
    assert not list(server.base.glob("elsewhere*"))


@pytest.mark.parametrize("none", [{"max_images": 0}, {"max_tokens": 1}])
def test_without_pictures_what_follows_goes_on(client, server, none):
    run = client.run(changed(DOCUMENT, Interleave=none))
    assert run.outcome == "execution_success"
    assert SAVE_IMAGE not in run.outputs
    [text] = run.outputs[TEXT]["text"]
    assert "<image>" not in text
    document = saved(server, run)
    assert [child.name for child in document.parent.iterdir()] == [document.name]
    assert document.read_text(encoding="utf-8").strip() == escaped(text).strip()
    [page] = client.images(run, INTERLEAVE)
    assert page.width == PAGE_WIDTH


def test_automatic_size_is_the_models_own_or_of_an_images_ratio(client):
    automatic = changed(DOCUMENT, Interleave={"size": AUTOMATIC, "max_images": 1, "steps": 1})
    modest = changed(automatic, Loader={"checkpoint": "modest"})
    assert [image.size for image in client.images(client.run(modest), SAVE_IMAGE)] == [(SIDE, SIDE)]

    nodes = tiny("edit_one_image")
    for name in ("LoadImage", "ImageCondition"):
        automatic[f"7{node_id(nodes, name)}"] = nodes[node_id(nodes, name)]
    images = f"7{node_id(nodes, 'ImageCondition')}"
    automatic[images]["inputs"]["images.image0"] = [f"7{node_id(nodes, 'LoadImage')}", 0]
    automatic[INTERLEAVE]["inputs"]["images"] = [images, 0]
    [image] = client.images(client.run(automatic), SAVE_IMAGE)
    assert image.width * image.height >= 512 * 512
    assert abs(image.width / image.height - 1.5) < 0.1


@pytest.mark.parametrize(
    "long, shows",
    [
        ({"steps": 1000}, "preview"),
        ({"max_tokens": 20_000, "max_images": 100, "decoding.temperature": 0.01}, "progress_text"),
    ],
    ids=["drawing", "writing"],
)
def test_interruption(client, made, long, shows):
    run, later, seconds = client.interrupted(changed(DOCUMENT, Interleave=long), lambda message: message.type == shows)
    [interruption] = run.of("execution_interrupted")
    assert interruption["node_id"] == INTERLEAVE
    assert seconds < STOPS_IN
    assert len([message for message in later if message.type == "preview"]) <= 1  # on its way

    again = client.run(changed(DOCUMENT, Interleave={"max_tokens": 61}))
    assert again.outputs[TEXT] == made.outputs[TEXT]
    assert _pixels(client, again) == _pixels(client, made)


def _saving(form: str, prefix: str, **changes: dict) -> dict:
    return changed(DOCUMENT, SaveDocument={"format": form, "filename_prefix": prefix}, **changes)


def _pixels(client: Client, run: Run) -> list[bytes]:
    return [image.tobytes() for image in client.images(run, SAVE_IMAGE)]
