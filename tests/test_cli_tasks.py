"""The command line beyond drawing from text: edits, thinking, questions, conversations, documents."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import sensenova_core
from sensenova_core.cli import main
from sensenova_core.decode import DecodingSettings
from tests.golden_set import checkpoint

SMALL = ["--width", "64", "--height", "64", "--num-steps", "2"]


@pytest.fixture
def model() -> str:
    return str(checkpoint("tiny-u15"))


@pytest.fixture
def photo(tmp_path) -> str:
    pixels = np.linspace(0, 255, 90 * 70 * 3).reshape(70, 90, 3).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def drawn(model: str, output, *arguments: str) -> Image.Image:
    assert main(["generate", "--model", model, "--num-steps", "2", "--output", str(output), *arguments]) == 0
    return Image.open(output)


def test_an_edit_equals_the_engine_s(model, photo, tmp_path):
    picture = drawn(model, tmp_path / "e.png", *SMALL, "--prompt", "blue", "--image", photo, "--img-cfg-scale", "2")
    engine = sensenova_core.load(model)
    conditioning = engine.encode("blue", [Image.open(photo)])
    *_, last = engine.sample(conditioning, width=64, height=64, steps=2, img_cfg=2.0)
    assert np.array_equal(np.asarray(picture), (last.image()[0].numpy() * 255).round())


def test_the_size_of_an_edit(model, photo, tmp_path):
    assert drawn(model, tmp_path / "s.png", "--image", photo, "--same-size").size == (90, 70)
    with pytest.raises(SystemExit):
        main(["generate", "--model", model, "--image"])
    assert main(["generate", "--model", model, "--image", photo, "--width", "64"]) == 1


def test_a_size_is_cropped(model, tmp_path):
    assert drawn(model, tmp_path / "c.png", "--width", "70", "--height", "50", "--crop").size == (70, 50)


def test_thinking_is_printed_and_kept(model, tmp_path, capsys):
    picture = drawn(model, tmp_path / "t.png", *SMALL, "--think", "--print-think", "--max-think-tokens", "6")
    engine = sensenova_core.load(model)
    thought = engine.think(engine.encode("A cute cat"), DecodingSettings(6)).think_text
    assert json.loads(picture.text["sensenova"])["think_text"] == thought
    assert thought.strip()[:4] in capsys.readouterr().out


def test_a_repeated_seed_and_size_warns(model, tmp_path, caplog):
    drawn(model, tmp_path / "a.png", *SMALL, "--seed", "5")
    arguments = [*SMALL, "--image", str(tmp_path / "a.png"), "--seed"]
    drawn(model, tmp_path / "b.png", *arguments, "6")
    assert not caplog.records
    drawn(model, tmp_path / "b.png", *arguments, "5")
    assert "seed 5 at 64x64 also drew the image" in caplog.text


@pytest.mark.parametrize("modality", ["img2text", "text2text"])
def test_text_modalities_answer(model, photo, capsys, modality):
    images = ["--image", photo] if modality == "img2text" else []
    arguments = ["generate", "--model", model, "--modality", modality, "--prompt", "what?", *images]
    assert main([*arguments, "--max-tokens", "5"]) == 0
    engine = sensenova_core.load(model)
    *_, answer = engine.understand("what?", [Image.open(photo)] if images else [], DecodingSettings(5))
    printed = capsys.readouterr()
    assert printed.out.strip() == answer.text
    assert ("cut at 5 tokens" in printed.err) == (answer.ended == "cut")


def test_a_conversation_goes_on_until_an_empty_line(model, photo, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"hello\n/image {photo}\nwhat is it?\n\nnever asked\n"))
    assert main(["chat", "--model", model, "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.count("> ") == 4


def test_a_document_is_saved_with_its_pictures(model, tmp_path, capsys):
    arguments = ["interleave", "--model", model, "--prompt", "a story", *SMALL, "--max-tokens", "12"]
    assert main([*arguments, "--format", "html", "--output", str(tmp_path), "--stem", "story"]) == 0
    assert main([*arguments, "--output", str(tmp_path), "--stem", "story"]) == 0
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("document.*")) == [
        "story_00001/document.html",
        "story_00002/document.md",
    ]
    assert "ended: --max-tokens reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--modality", "img2img"], "--modality img2img needs --image"),
        (["generate", "--modality", "text2img", "--image", "PHOTO"], "--modality text2img takes no --image"),
        (["generate", "--modality", "img2text"], "--modality img2text needs --image"),
        (["generate", "--modality", "text2text", "--image", "PHOTO"], "--modality text2text takes no --image"),
        (["generate", "--image", "/nowhere.png"], "image /nowhere.png: "),
        (["generate", *SMALL, "--image", "PHOTO", "--cfg-norm", "cfg_zero_star"], "is for text to image only"),
        (
            ["generate", *SMALL, "--image", "PHOTO", "--prompt", "<image> <image>"],
            "1 more <image> than there are images",
        ),
        (
            ["generate", *SMALL, "--think", "--top-p", "2", "--do-sample"],
            "top_p is 2.0; give a number over 0 and up to 1",
        ),
        (["chat", "--prompt", "a", "--temperature", "0"], "temperature is 0.0; give a number over 0"),
        (
            ["interleave", "--prompt", "a", "--resolution", "5:7"],
            "resolution '5:7' is unknown; choose one of 1:1, 16:9",
        ),
        (["interleave", "--prompt", "a", "--resolution", "1:1", "--width", "64"], "exclude each other"),
        (["interleave", "--prompt", "a", "--width", "64"], "--width and --height go together"),
        (["interleave", "--prompt", "a", "--max-images", "-1"], "max_images is -1"),
    ],
)
def test_a_user_s_mistake_is_one_line_that_names_value_and_remedy(
    model, photo, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    arguments = [photo if argument == "PHOTO" else argument for argument in arguments]
    assert main([*arguments, "--model", model]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sensenova: error: ") and message in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
