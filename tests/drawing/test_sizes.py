"""Sizes: those the models were trained at, pictures cropped to any other, and the memory that sizes take."""

import pytest
import torch

from sensenova_core import ModelConfig, SettingsError
from sensenova_core.drawing.sizes import best_size, document_size, edit_size
from sensenova_core.reading.images import smart_resize
from sensenova_core.settings import (
    INTERLEAVE_SIZES,
    TRAINED_SIZES,
    TRAINED_SIZES_U15,
    edit_pixel_limits,
    understanding_pixel_limits,
)
from tests.support.each import each
from tests.support.pictures import picture
from tests.support.watch import SMALL
from tools.tiny_checkpoint import CONFIG

GIB = 2**30


@pytest.mark.parametrize("sizes", [TRAINED_SIZES, TRAINED_SIZES_U15, INTERLEAVE_SIZES])
def test_trained_sizes(sizes):
    for label, (width, height) in sizes.items():
        assert width % 32 == height % 32 == 0 and label.endswith(f"{width}x{height}")
        columns, rows = map(int, label.split()[-2].split(":"))
        assert width / height == pytest.approx(columns / rows, rel=0.02)
    assert len(set(sizes.values())) == len(sizes)


def test_sizes_of_the_published_tables():
    assert len(TRAINED_SIZES) == len(INTERLEAVE_SIZES) == 11
    assert TRAINED_SIZES["16:9 2720x1536"] == (2720, 1536) and INTERLEAVE_SIZES["16:9 2048x1152"] == (2048, 1152)
    assert all(abs(width * height / 2048**2 - 1) < 0.06 for width, height in TRAINED_SIZES.values())
    assert all(abs(width * height / 1536**2 - 1) < 0.06 for width, height in INTERLEAVE_SIZES.values())


def test_automatic_sizes_keep_the_shape():
    assert edit_size(1000, 1000) == (2048, 2048) and document_size(1536, 1536) == (1440, 1440)
    for size in (edit_size, document_size):
        wide, tall = size(1600, 900), size(900, 1600)
        assert wide == tall[::-1] and wide[0] / wide[1] == pytest.approx(16 / 9, rel=0.03)


def test_a_small_model_draws_at_its_own_size():
    small = ModelConfig.from_dict(CONFIG | {"max_pixels": 128 * 128}).best_area
    assert best_size(small) == edit_size(500, 500, small) == document_size(500, 500, small) == (128, 128)
    for other in (4096 * 4096, 10**4000, 1023, -1, True, 1e5, "16384", None):
        assert best_size(ModelConfig.from_dict(CONFIG | {"max_pixels": other}).best_area) == (2048, 2048)


@pytest.mark.parametrize("size", [(128, 128), (480, 288), (300, 200), (96, 4000), (40, 40)])
def test_a_small_model_reads_references_at_the_size_it_draws(size):
    area = 128 * 128
    for limits in (edit_pixel_limits(1, area), edit_pixel_limits(10, area), understanding_pixel_limits(area)):
        height, width = smart_resize(size[1], size[0], 32, limits=limits)
        assert (width, height) == edit_size(*size, area)


def shown(engine, width, height, images=(), **settings) -> torch.Tensor:
    conditioning = engine.encode("a red circle", images, max_pixels=16_384)
    *_, step = engine.sample(conditioning, **SMALL | {"width": width, "height": height} | settings)
    return step.image()


@each("images", [(), (picture(),)])
@each("width, height", [(50, 90), (64, 65), (1, 33), (95, 96)])
def test_a_cropped_picture_is_the_corner_of_the_next_larger(engine, width, height, images):
    whole = shown(engine, -(-width // 32) * 32, -(-height // 32) * 32, images)
    cropped = shown(engine, width, height, images, crop=True)
    assert torch.equal(cropped, whole[:, :height, :width])


def test_cropping_what_fits_changes_nothing(engine):
    assert torch.equal(shown(engine, 64, 96, crop=True), shown(engine, 64, 96))


@pytest.mark.parametrize("size", [0, -32, 2.5, "64"])
def test_a_size_that_is_none_is_refused_with_crop_too(engines, size):
    engine = engines("tiny-u15")
    with pytest.raises(SettingsError, match="width is"):
        engine.sample(engine.encode("a"), width=size, height=64, crop=True)


def test_every_step_of_a_cropped_picture_is_cropped(engine):
    steps = list(engine.sample(engine.encode("a"), **SMALL | {"width": 40, "batch_size": 2}, crop=True))
    assert {tuple(step.image().shape) for step in steps} == {(2, 64, 40, 3)}
    assert steps[-1].pixels().shape == (2, 3, 64, 64)
