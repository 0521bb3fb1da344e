"""Pictures that begin from a picture: what a mask keeps is exact, and what is off is as if it had never been."""

import pytest
import torch

import sensenova_core
from sensenova_core import DEMO, SamplingSettings, SettingsError
from sensenova_core.drawing import flow
from sensenova_core.drawing.canvas import Canvas, feathered
from tests.support.each import each
from tests.support.pictures import picture
from tests.support.watch import SMALL

WIDTH, HEIGHT = SMALL["width"], SMALL["height"]


def given(width: int = WIDTH, height: int = HEIGHT, batch: int = 1, *, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def hole(width: int = WIDTH, height: int = HEIGHT) -> torch.Tensor:
    """A disc and a single pixel: no shape of tokens."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = ((x - 30) ** 2 + (y - 21) ** 2 < 17**2).float()
    mask[-3, -2] = 1
    return mask[None]


def steps_of(engine, images=(), **settings) -> list[torch.Tensor]:
    conditioning = engine.encode("a red circle", images, max_pixels=16_384)
    return [step.image() for step in engine.sample(conditioning, **SMALL | settings)]


def drawn(engine, images=(), **settings) -> torch.Tensor:
    return steps_of(engine, images, **settings)[-1]


@each("images", [(), (picture(),)])
@each(
    "change",
    [{}, {"denoise": 0.6}, {"cfg_norm": "channel", "img_cfg": 2.0}, {"batch_size": 2}, {"width": 50, "height": 61}],
)
def test_what_a_mask_keeps_is_the_given_picture_to_the_bit_at_every_step(engine, images, change):
    size = (change.get("width", WIDTH), change.get("height", HEIGHT))
    image, mask = given(*size), hole(*size)
    kept = (mask == 0).expand(change.get("batch_size", 1), -1, -1)
    shown = steps_of(engine, images, init_image=image, mask=mask, crop=True, **change)
    assert len(shown) == SMALL["steps"]
    for each_one in shown:
        assert torch.equal(each_one[kept], image.expand_as(each_one)[kept])
    assert ((shown[-1] - image)[~kept].abs() > 0.02).float().mean() > 0.7


def test_zero_star_paints_too(engine):
    image, mask = given(), hole()
    result = drawn(engine, init_image=image, mask=mask, cfg_norm="cfg_zero_star")
    assert torch.equal(result[mask == 0], image[mask == 0])


@each("images", [(), (picture(),)])
def test_a_canvas_of_which_nothing_is_used_changes_nothing(engine, images):
    plain = drawn(engine, images)
    assert torch.equal(drawn(engine, images, init_image=given()), plain)  # denoise 1 forgets it
    everything = torch.ones(1, HEIGHT, WIDTH)
    assert torch.equal(drawn(engine, images, init_image=given(), mask=everything), plain)
    assert torch.equal(drawn(engine, images, denoise=1.0, feather=9), plain)


def test_the_less_is_drawn_the_nearer_it_stays():
    """By a model that has learned to draw: what the tiny ones make of noise is noise."""
    engine = sensenova_core.load(DEMO)
    settings = {"width": 128, "height": 128, "steps": 8, "seed": 3}

    def drawn_by(words: str, **more) -> torch.Tensor:
        *_, step = engine.sample(engine.encode(words), **settings | more)
        return step.image()

    image = drawn_by("a small red circle on a white background", seed=9)
    parts = [
        (drawn_by("a big blue star on a black background", init_image=image, denoise=part) - image).abs().mean()
        for part in (0.05, 0.7, 0.85, 1.0)
    ]
    assert parts == sorted(parts) and parts[0] < 0.05 and parts[-1] > 0.3
    kept = {"mask": torch.full((1, 128, 128), 0.5), "init_image": image}
    for more in ({"init_image": image}, kept):
        assert (drawn_by("a star", denoise=1e-12, **more) - image).abs().max() < 1e-6


def test_each_of_a_batch_has_its_own(engine):
    images, masks = given(batch=2), torch.cat([hole(), hole().flip(1)])
    both = drawn(engine, init_image=images, mask=masks, batch_size=2)
    assert torch.equal(both[masks == 0], images[masks == 0])
    alone = drawn(engine, init_image=images[:1], mask=masks[:1])
    assert (both[0] - alone[0]).abs().max() < 1e-5


def test_without_a_size_it_has_the_given_picture_s(engine):
    mask = hole(50, 61)
    *_, step = engine.sample(engine.encode("a"), init_image=given(50, 61), mask=mask, steps=2)
    assert step.image().shape == (1, 61, 50, 3) and step.pixels().shape == (1, 3, 64, 64)


def test_a_mask_that_is_soft_mixes(engine):
    image = given()
    full, half = (drawn(engine, init_image=image, mask=torch.full((1, HEIGHT, WIDTH), part)) for part in (1.0, 0.5))
    assert 0.02 < (half - image).abs().mean() < (full - image).abs().mean()


@each("pixels", [1, 2, 5, 16])
def test_feather_fades_out_and_ends(pixels):
    mask = torch.zeros(1, 60, 70)
    mask[0, 25:30, 30:40] = 1
    soft = feathered(mask, pixels)
    assert torch.equal(soft[mask == 1], mask[mask == 1])
    beyond = torch.ones_like(mask) > 0
    beyond[0, 25 - pixels : 30 + pixels, 30 - pixels : 40 + pixels] = False
    assert soft[beyond].count_nonzero() == 0
    down = soft[0, 29:, 35]
    assert (down.diff() <= 0).all() and 0 < down[pixels] < 0.6 and down[1] < 1 + 1e-6
    assert torch.equal(feathered(torch.ones(1, 9, 9), pixels), torch.ones(1, 9, 9))


def test_feathered_pictures_keep_what_lies_beyond(engine):
    image, mask = given(), hole()
    soft = feathered(mask, 6)
    result = drawn(engine, init_image=image, mask=mask, feather=6)
    assert torch.equal(result[soft == 0], image[soft == 0])
    assert (soft > 0).sum() > (mask > 0).sum()
    assert not torch.equal(result, drawn(engine, init_image=image, mask=mask))


def test_denoise_is_cut_from_the_schedule_as_by_ksampler():
    """`steps` of a whole way of int(steps / denoise)."""
    for steps, denoise in ((4, 0.5), (20, 0.6), (7, 0.35)):
        whole = flow.schedule(int(steps / denoise), 3.0)
        torch.testing.assert_close(flow.schedule(steps, 3.0, denoise), whole[-(steps + 1) :], rtol=0, atol=1e-6)
    assert torch.equal(flow.schedule(9, 3.0, 1.0), flow.schedule(9, 3.0))


def test_less_guidance_is_read_for_a_late_start(engine):
    """Nothing is read for a branch that no step needs."""
    settings = SamplingSettings.of(**SMALL, denoise=0.1, cfg_interval=(0, 0.5))
    assert flow.branches_needed(settings, edit=False) == ("condition",)


def test_a_screen_of_4k_is_drawn_and_painted_within_a_mask(engine):
    """8160 tokens of which the last row is cut: a whole step in seconds, for the model is tiny."""
    image, mask = given(3840, 2160), torch.zeros(1, 2160, 3840)
    mask[:, 1000:2155, 700:3001] = 1
    result = drawn(engine, width=3840, height=2160, crop=True, init_image=image, mask=mask, steps=1, cfg=1.0)
    assert result.shape == image.shape and torch.equal(result[mask == 0], image[mask == 0])


BAD = {
    "no size": ({"init_image": given(32, 64)}, "init_image is 32 x 64, and 64 x 64 is drawn"),
    "mask of another size": ({"init_image": given(), "mask": torch.zeros(1, 8, 8)}, "mask is 8 x 8, and 64 x 64"),
    "mask alone": ({"mask": hole()}, "mask is given without the picture that it is a mask of; give init_image too"),
    "batch": ({"init_image": given(batch=3), "batch_size": 2}, "init_image is a batch of 3, and a batch of 2"),
    "denoise alone": ({"denoise": 0.5}, "denoise is 0.5; give 1 to begin from noise; or give init_image"),
    "no denoise": ({"init_image": given(), "denoise": 0.0}, "denoise is 0.0; give a number over 0 and up to 1"),
    "feather": ({"init_image": given(), "feather": -1}, "feather is -1"),
    "channels": ({"init_image": given()[..., :2]}, r"init_image has the shape \(1, 64, 64, 2\)"),
    "bytes": ({"init_image": given().byte()}, "init_image is .*; give a tensor of numbers from 0 to 1"),
    "a name": ({"init_image": "photo.png"}, "init_image is 'photo.png'; give a tensor"),
    "NaN": ({"init_image": given() * torch.nan}, "init_image holds NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_at_the_call(engines, name):
    settings, words = BAD[name]
    engine = engines("tiny-u15")
    with pytest.raises(SettingsError, match=words):
        engine.sample(engine.encode("a"), **SMALL | settings)


def test_what_is_beyond_the_range_of_colours_is_clamped():
    assert Canvas(torch.full((1, 2, 2, 3), 1.2)).image.max() == 1


@each(
    "sigmas, words",
    [
        ([], "sigmas is empty"),
        ([1.0], "makes no step"),
        ([0.0, 1.0], "goes from 0 to 1 at step 1"),
        ([1.0, 0.5, 0.5, 0.0], "goes from 0.5 to 0.5 at step 2"),
        ([14.6, 1.0, 0.0], "14.6, which is outside 0 to 1"),
        ([1.0, float("nan"), 0.0], "nan, which is outside"),
        ([1.0, 0.4], "ends at 0.4, where noise is left"),
        ("simple", "sigmas is 'simple'"),
    ],
)
def test_no_schedule(sigmas, words):
    with pytest.raises(SettingsError, match=words + ".*; connect a falling schedule of a flow model"):
        flow.times_from(sigmas)


def test_a_schedule_of_one_s_own(engine):
    conditioning, settings = engine.encode("a red circle"), SamplingSettings.of(**SMALL)
    own = flow.times_from(1 - flow.schedule(settings.steps, settings.shift))
    *_, step = engine.denoise(conditioning, settings, times=own)
    assert (step.image() - drawn(engine)).abs().max() < 1e-5
    steps = list(engine.denoise(conditioning, settings, times=flow.times_from([1, 0.7, 0])))
    assert [step.index for step in steps] == [0, 1] and steps[-1].total == 2
    with pytest.raises(SettingsError, match=r"sigmas begins at 0\.7; give a schedule from 1, or an init image"):
        engine.denoise(conditioning, settings, times=flow.times_from([0.7, 0]))
