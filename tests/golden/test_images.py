"""Reference images against the reference implementation: sizes, pixels, and how they are resized."""

import numpy as np
import pytest
import torch
from PIL import Image

from sensenova_core import PromptError
from sensenova_core.drawing.sizes import document_size, edit_size
from sensenova_core.reading.images import MEAN, STD, ReferenceImage, reference_image, smart_resize
from sensenova_core.settings import UNDERSTAND_MAX_PIXELS
from tests.support.each import each
from tests.support.golden_set import GOLDEN, case_named, manifest, relative_error, tensors

CASE = case_named("images_load_image_native")
SIZES = manifest()["tables"]["smart_resize"]
RESIZED = sorted(path.name for path in (GOLDEN / "images" / "resized").iterdir())


def loaded(row) -> ReferenceImage:
    image = Image.open(GOLDEN / "images" / row["image"])
    assert image.mode == row["mode"] and list(image.size) == row["size_wh"]
    return reference_image(image, 2 * row["patch"], limits=(row["min_pixels"], UNDERSTAND_MAX_PIXELS))


def patches(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """(3, height, width) -> (patches, 3 * patch * patch): row-major, each channel first."""
    channels, height, width = pixels.shape
    grid = pixels.view(channels, height // patch, patch, width // patch, patch)
    return grid.permute(1, 3, 0, 2, 4).reshape(-1, channels * patch * patch)


@each("row", CASE["rows"])
def test_pixels(row):
    image, golden = loaded(row), tensors(CASE)
    assert [2 * image.grid.rows, 2 * image.grid.columns] == row["grid_hw"] and image.original == tuple(row["size_wh"])
    ours = patches(image.pixels, row["patch"])
    assert list(ours.shape) == row["shape"]
    assert float(ours.double().sum()) == pytest.approx(row["sum"], rel=1e-6)
    assert float(ours.double().abs().sum()) == pytest.approx(row["abs_sum"], rel=1e-6)
    assert float(ours.min()) == pytest.approx(row["min"], rel=1e-6)
    assert float(ours.max()) == pytest.approx(row["max"], rel=1e-6)
    name = f"{row['image'].removesuffix('.png')}/{row['setting']}"
    if f"{name}/rows" in golden:
        assert relative_error(ours[golden[f"{name}/rows"].long()], golden[f"{name}/pixel_values_rows"]) < 1e-6


@pytest.mark.parametrize("name", RESIZED)
def test_resized_images(name):
    row = next(row for row in CASE["rows"] if row["image"] == name and row["setting"] == "p16_default")
    levels = (loaded(row).pixels * STD + MEAN) * 255
    expected = np.asarray(Image.open(GOLDEN / "images" / "resized" / name), dtype=np.float32)
    assert (levels.permute(1, 2, 0) - torch.from_numpy(expected)).abs().max() < 1e-3


@each("row", SIZES["rows"])
@each("factor", [16, 32])
def test_sizes(row, factor):
    for name, limits in SIZES["limits"].items():
        expected = row[f"{name}/factor{factor}"]
        if expected == "ValueError":
            with pytest.raises(PromptError, match=f"{row['w']}x{row['h']}.*200 times.*crop it or pad it"):
                smart_resize(row["h"], row["w"], factor, limits=limits)
        else:
            assert list(smart_resize(row["h"], row["w"], factor, limits=limits)) == expected


@each("row", SIZES["rows"])
@each("size, rule", [(edit_size, "edit_cli_output_target/factor32"), (document_size, "interleave_cli")])
def test_size_drawn_at(row, size, rule):
    if row[rule] == "ValueError":
        with pytest.raises(PromptError, match="200 times"):
            size(row["w"], row["h"])
    else:
        height, width = row[rule]
        assert size(row["w"], row["h"]) == (width, height)
