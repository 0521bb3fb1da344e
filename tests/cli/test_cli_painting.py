"""`generate --init-image --mask`: what is kept is exact in the saved picture, and a line may have its own."""

import json

import numpy as np
import pytest
from PIL import Image

from sensenova_core.cli import main
from tests.support.golden_set import checkpoint

MODEL = str(checkpoint("tiny-u15"))
SIZE = (70, 45)  # no multiples of 32
HOLE = (slice(10, 30), slice(20, 50))


@pytest.fixture
def photo(tmp_path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    hole = np.zeros(pixels.shape[:2], np.uint8)
    hole[HOLE] = 255
    Image.fromarray(hole).save(tmp_path / "white.png")
    Image.fromarray(np.dstack([pixels, 255 - hole])).save(tmp_path / "holed.png")
    return pixels


def drawn(folder, *arguments: str, output: str = "out.png") -> np.ndarray:
    common = ["generate", "--model", MODEL, "--num-steps", "2", "--output", str(folder / output)]
    assert main([*common, *arguments]) == 0
    return np.asarray(Image.open(folder / output))


@pytest.mark.parametrize("mask", ["white.png", "holed.png"])
def test_all_but_what_the_mask_names_is_as_it_was(tmp_path, photo, mask):
    arguments = ["--init-image", str(tmp_path / "photo.png"), "--mask", str(tmp_path / mask)]
    picture = drawn(tmp_path, *arguments)
    outside = np.ones(photo.shape[:2], bool)
    outside[HOLE] = False
    assert np.array_equal(picture[outside], photo[outside]) and not np.array_equal(picture[HOLE], photo[HOLE])
    wider = drawn(
        tmp_path, *arguments, "--feather", "4", "--image", str(tmp_path / "photo.png"), "--max-pixels", "9999"
    )
    outside[6:34, 16:54] = False
    assert np.array_equal(wider[outside], photo[outside]) and (wider[6:10] != photo[6:10]).any()


def test_an_init_image_is_scaled_to_a_size_that_is_asked_for(tmp_path, photo, caplog):
    picture = drawn(
        tmp_path, "--init-image", str(tmp_path / "photo.png"), "--denoise", "0.4", "--width", "64", "--height", "32"
    )
    assert picture.shape == (32, 64, 3)
    assert "--init-image: 70 x 45 is scaled to the 64 x 32 that is drawn" in caplog.text


def test_lines_have_their_own_and_are_known_again(tmp_path, photo, capsys):
    lines = [{"prompt": "a", "init_image": str(tmp_path / "photo.png"), "mask": str(tmp_path / "white.png")}]
    lines.append(lines[0] | {"denoise": 0.5, "feather": 2})
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ["--num-steps", "1", "--jsonl", str(tmp_path / "lines.jsonl"), "--output", str(tmp_path / "out")]
    for expected in (2, 0):
        assert main(["generate", "--model", MODEL, "--resume", *arguments]) == 0
        assert len(capsys.readouterr().out.splitlines()) == expected
    first, second = (np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("*.png")))
    assert np.array_equal(first[35:], photo[35:]) and not np.array_equal(first, second)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--mask", "white.png"], "--mask is given without the picture that it is a mask of; give --init-image too"),
        (["--denoise", "0.5"], "--denoise is 0.5; give 1 to begin from noise; or give --init-image, a picture"),
        (["--init-image", "nothing.png"], "nothing.png: there is no such file"),
        (["--init-image", "photo.png", "--mask", "nothing.png"], "nothing.png: there is no such file"),
        (["--init-image", "photo.png", "--denoise", "0"], "--denoise is 0.0; give a number over 0 and up to 1"),
    ],
)
def test_what_cannot_be(tmp_path, photo, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--model", MODEL, "--num-steps", "1", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_what_has_no_effect_is_said(tmp_path, photo, caplog):
    drawn(tmp_path, "--init-image", str(tmp_path / "photo.png"), "--feather", "3")
    assert "--init-image: nothing of it is used, for there is no --mask and --denoise is 1" in caplog.text
    assert "--feather: no effect without --mask" in caplog.text
    Image.new("L", SIZE).save(tmp_path / "black.png")
    drawn(tmp_path, "--init-image", str(tmp_path / "photo.png"), "--mask", str(tmp_path / "black.png"))
    assert "--mask: nothing in it is white or transparent" in caplog.text
