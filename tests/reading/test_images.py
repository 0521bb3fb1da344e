"""Reference images of every kind: modes, sizes at the edges, budgets, and what their metadata says."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from sensenova_core import PromptError, SenseNovaError
from sensenova_core.model.grid import Grid
from sensenova_core.reading.images import MEAN, STD, ReferenceImage, reference_image, seeds_of
from sensenova_core.report.png import save_png
from sensenova_core.settings import edit_pixel_limits, understanding_pixel_limits
from tests.support.each import each
from tests.support.pictures import picture

SIDE = 32
SAMPLER = "SenseNovaCoreFlowMatchSampler"


def read(image: Image.Image, limits: tuple[int, int] = (1024, 4_194_304)) -> ReferenceImage:
    return reference_image(image, SIDE, limits=limits)


def levels(image: ReferenceImage) -> torch.Tensor:
    """(3, height, width) in 0 .. 255 again."""
    return (image.pixels * STD + MEAN) * 255


def stored(image: Image.Image, form: str, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def test_ten_references_share_the_budget(engines):
    """4096 x 4096 pixels over all of them, however large they are."""
    engine = engines("tiny-u15")
    low, high = edit_pixel_limits(10)
    assert high == 4096 * 4096 // 10 and edit_pixel_limits(4) == (low, 2048 * 2048)
    images = [Image.new("RGB", size) for size in ((1312, 1248), (5000, 3000), (1280, 1312), (16, 16))]
    conditioning = engine.encode("x", [*images, *images[2:] * 3])
    assert all(low <= image.pixels[0].numel() <= high for image in conditioning.images)
    grids = [image.grid for image in conditioning.images]
    assert grids[:3] == [Grid(39, 41, SIDE), Grid(31, 52, SIDE), Grid(40, 39, SIDE)]
    assert sum(grid.tokens for grid in grids) * SIDE**2 <= 4096 * 4096


@pytest.mark.parametrize("images, high", [(1, 4_194_304), (4, 4_194_304), (5, 3_355_443), (10, 1_677_721)])
def test_limits_of_edits(images, high):
    assert edit_pixel_limits(images) == (262_144, high)


def test_limits_of_questions():
    assert understanding_pixel_limits() == (65_536, 4_194_304)


@pytest.mark.parametrize("size", [(32, 6400), (6400, 32)])
def test_two_hundred_times_as_long_as_wide_is_read(size):
    image = read(Image.new("RGB", size, "red"))
    assert (image.grid.columns, image.grid.rows) == tuple(side // SIDE for side in size)


@pytest.mark.parametrize("size", [(32, 6432), (6432, 32), (1, 201)])
def test_longer_than_that_is_refused(engines, size):
    with pytest.raises(PromptError, match=rf"{size[0]}x{size[1]} is more than 200 times.*crop it or pad it"):
        engines("tiny-u15").encode("x", [Image.new("RGB", size)])


@pytest.mark.parametrize("size, grid", [((1, 1), (16, 16)), ((1, 2), (12, 23)), ((33, 31), (17, 16))])
def test_tiny_images_are_enlarged(engines, size, grid):
    (image,) = engines("tiny-u15").encode("x", [Image.new("RGB", size, "blue")]).images
    assert (image.grid.columns, image.grid.rows) == grid and image.original == size
    assert (levels(image) - torch.tensor([0.0, 0, 255]).view(3, 1, 1)).abs().max() < 1e-3


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1", "CMYK", "RGB"])
def test_modes_without_colour_of_their_own(mode):
    """As PIL itself shows them, whatever it takes."""
    image = picture(64, 32, mode="CMYK" if mode == "CMYK" else "RGB").convert(mode)
    expected = np.asarray(image.convert("RGB"), dtype=np.float32)
    assert (levels(read(image)).permute(1, 2, 0) - torch.from_numpy(expected)).abs().max() < 1e-3


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_keep_their_brightness(mode):
    """PIL's own conversion would clip all but the darkest 1/256 to white."""
    greys = np.linspace(0, 65535, 64).round()
    values = np.tile(greys, (32, 1))
    image = Image.fromarray(values.astype(np.int32 if mode == "I" else np.uint16))
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (64, 32), values.astype(">u2").tobytes())
    assert image.mode == mode
    expected = torch.from_numpy((greys / 257).round()).float()
    assert (levels(read(image)) - expected).abs().max() < 1e-3


def test_a_sixteen_bit_file():
    image = stored(Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16)), "PNG")
    assert image.mode.startswith("I")
    assert (levels(read(image)) - 40_000 / 257).abs().max() < 1


def test_transparency_is_flattened_on_white():
    image = Image.new("RGBA", (64, 32), (200, 100, 0, 0))
    image.paste((200, 100, 0, 255), (32, 0, 64, 32))
    left, right = levels(read(image)).split(32, 2)
    assert (left - 255).abs().max() < 1e-3
    assert (right - torch.tensor([200.0, 100, 0]).view(3, 1, 1)).abs().max() < 1e-3
    half = levels(read(Image.new("RGBA", (32, 32), (0, 0, 0, 128))))
    assert (half - 127).abs().max() < 1.5


@pytest.mark.parametrize("form", ["WEBP", "GIF", "PNG"])
def test_an_animation_is_its_first_frame(form):
    frames = [Image.new("RGB", (64, 32), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    image = stored(frames[0], form, save_all=True, append_images=frames[1:], duration=100, **options)
    assert image.n_frames == 3
    red = torch.tensor([255.0, 0, 0]).view(3, 1, 1)
    assert (levels(read(image)) - red).abs().max() < 2


@each("size", [(3000, 2000), (1024, 1024), (700, 701)])
@each("budget", [300_000, 262_144, 65_536, 5000])
def test_a_budget_of_pixels_is_kept(engines, size, budget):
    engine = engines("tiny-u15")
    (image,) = engine.encode("x", [Image.new("RGB", size)], max_pixels=budget).images
    assert 0.4 * budget < image.pixels[0].numel() <= budget
    (image,) = engine.conversation("x", [Image.new("RGB", size)], max_pixels=budget).images
    assert 0.4 * budget < image.pixels[0].numel() <= budget


@pytest.mark.parametrize("budget", [200_000, 100_000])
def test_a_budget_of_pixels_is_kept_by_small_images(engines, budget):
    (image,) = engines("tiny-u15").encode("x", [Image.new("RGB", (160, 120))], max_pixels=budget).images
    assert image.pixels[0].numel() <= budget


@pytest.mark.parametrize("budget", [300_000, 600_000])
def test_a_budget_that_an_image_does_not_reach_changes_nothing(engines, budget):
    engine, images = engines("tiny-u15"), [picture()]
    (free,), (budgeted,) = (engine.encode("x", images, max_pixels=most).images for most in (None, budget))
    assert free.pixels[0].numel() < budget and free.key == budgeted.key


def test_a_budget_over_the_model_s_own_limit_changes_nothing(engines):
    images = [Image.new("RGB", (5000, 5000))]
    (image,) = engines("tiny-u15").encode("x", images, max_pixels=10**9).images
    assert image.pixels[0].numel() == 2048 * 2048


@pytest.mark.parametrize("budget", [0, -5, "4096"])
def test_a_budget_that_is_no_number_of_pixels_is_refused(engines, budget):
    with pytest.raises(SenseNovaError):
        engines("tiny-u15").encode("x", [picture()], max_pixels=budget)


def test_equal_images_have_equal_keys():
    assert read(picture(seed=1)).key == read(picture(seed=1).convert("RGBA")).key
    assert len({read(image).key for image in (picture(seed=1), picture(seed=2), picture(120, 160, seed=1))}) == 3
    turned = Image.new("RGB", (64, 32)), Image.new("RGB", (32, 64))
    assert read(turned[0]).key != read(turned[1]).key  # the same bytes in another shape


def test_the_given_image_stays_as_it_is():
    image = picture(50, 40, mode="RGBA")
    before = image.tobytes()
    read(image)
    assert image.tobytes() == before and image.mode == "RGBA" and image.size == (50, 40)


def graph(*seeds, kind: str = SAMPLER) -> str:
    return json.dumps({str(index): {"class_type": kind, "inputs": {"seed": seed}} for index, seed in enumerate(seeds)})


@pytest.mark.parametrize(
    "metadata, seeds",
    [
        ({}, set()),
        ({"sensenova": '{"seed": 7, "prompt": "a"}'}, {7}),
        ({"prompt": graph(7, 8)}, {7, 8}),
        ({"prompt": graph(7, kind="KSampler")}, set()),
        ({"prompt": graph(["3", 0])}, set()),  # linked from another node
        ({"sensenova": '{"seed": 7}', "prompt": graph(8)}, {7, 8}),
        ({"sensenova": "{"}, set()),
        ({"sensenova": "[1]"}, set()),
        ({"prompt": "a cat, masterpiece"}, set()),  # another program's
        ({"prompt": '{"1": 5}'}, set()),
        ({"prompt": b"\xff"}, set()),
    ],
    ids=str,
)
def test_seeds_in_metadata(metadata, seeds):
    image = picture()
    image.info |= metadata
    assert seeds_of(image) == seeds


def test_an_edit_with_the_seed_of_its_image_is_warned_of(engines, tmp_path):
    save_png(torch.rand(64, 96, 3), tmp_path / "drawn.png", {"seed": 7})
    engine, drawn = engines("tiny-u15"), Image.open(tmp_path / "drawn.png")
    conditioning = engine.encode("make it blue", [picture(), drawn])
    warning = conditioning.repeated_noise(7, (96, 64))
    assert "seed 7 at 96x64" in warning and "another seed" in warning
    assert conditioning.repeated_noise(8, (96, 64)) is None
    assert conditioning.repeated_noise(7, (64, 96)) is None
    assert engine.encode("a cat").repeated_noise(7, (96, 64)) is None


@pytest.mark.parametrize("name", ["caf\udce9.safetensors", "\ud800", "\udfff\U0001f600"], ids=ascii)
def test_settings_that_are_not_utf_8_are_saved_too(tmp_path, name):
    save_png(torch.rand(4, 4, 3), tmp_path / "drawn.png", {"seed": 7, "model": name, "prompt": "\u732b"})
    image = Image.open(tmp_path / "drawn.png")
    assert seeds_of(image) == {7}
    assert json.loads(image.info["sensenova"])["model"] == name
