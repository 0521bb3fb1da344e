"""Engine.guess, by which another program takes the steps: the same picture, and nothing left behind."""

from itertools import pairwise

import pytest
import torch
from PIL import Image

import sensenova_core
from sensenova_core.drawing import flow
from sensenova_core.errors import SettingsError
from sensenova_core.settings import CONDITION, IMAGES_ONLY, Guidance, SamplingSettings

SETTINGS = SamplingSettings(64, 96, steps=5, guidance=Guidance(4.0), seed=3, batch_size=2)
CLOSE = 1e-4


@pytest.fixture(scope="module")
def engine():
    return sensenova_core.load(sensenova_core.DEMO, dtype="float32")


@pytest.fixture
def edit(engine):
    return engine.encode("make it green", [Image.effect_noise((64, 64), 50).convert("RGB")])


def stepped(engine, conditioning, settings=SETTINGS) -> torch.Tensor:
    """Euler's method on guesses: guided, from the noise that the engine would begin with."""
    sequences = [conditioning.sequences[name] for name in (CONDITION, IMAGES_ONLY)]
    scale = flow.noise_scale(
        engine.config.noise, engine.config.grid(width=settings.width, height=settings.height).tokens
    )
    noise = flow.starting_noise(
        flow.noise_stream(settings.seed), batch=settings.batch_size, height=settings.height, width=settings.width
    )
    z, sigmas = scale * noise, 1 - flow.schedule(settings.steps, settings.shift)
    for sigma, after in pairwise(sigmas):
        noisy, times = z.repeat(2, 1, 1, 1), sigma.expand(2 * settings.batch_size)
        condition, images = engine.guess(noisy, times, sequences=sequences, settings=settings).chunk(2)
        clean = images + settings.guidance.cfg * (condition - images)
        z = clean + after / sigma * (z - clean)
    return z


@pytest.mark.parametrize("t_eps", [0.02, 0.5])
def test_steps_taken_outside_draw_the_same_picture(engine, edit, t_eps):
    settings = SamplingSettings(64, 96, steps=5, guidance=Guidance(4.0), seed=3, batch_size=2, t_eps=t_eps)
    *_, last = engine.denoise(edit, settings)
    assert (stepped(engine, edit, settings) - last.pixels()).abs().max() < CLOSE


def test_a_run_in_between_changes_nothing(engine, edit):
    *_, expected = engine.denoise(edit, SETTINGS)
    sequences = [edit.sequences[CONDITION]]
    one = SamplingSettings(64, 96)
    noisy = torch.ones(1, 3, 96, 64)
    first = engine.guess(noisy, torch.tensor([0.5]), sequences=sequences, settings=one)
    *_, between = engine.denoise(edit, SETTINGS)
    engine.release()
    assert torch.equal(engine.guess(noisy, torch.tensor([0.5]), sequences=sequences, settings=one), first)
    assert torch.equal(between.pixels(), expected.pixels())


def test_pictures_of_one_pass_may_be_at_different_times(engine, edit):
    noisy, sequences = (
        torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0)),
        [edit.sequences[CONDITION]],
    )
    both = engine.guess(noisy, torch.tensor([0.9, 0.2]), sequences=sequences, settings=SETTINGS)
    for index, sigma in enumerate((0.9, 0.2)):
        alone = engine.guess(
            noisy[index : index + 1], torch.tensor([sigma]), sequences=sequences, settings=SamplingSettings(64, 96)
        )
        assert (both[index] - alone[0]).abs().max() < CLOSE


def test_pictures_that_are_too_few_are_refused(engine, edit):
    with pytest.raises(SettingsError, match="1 noisy pictures for 1 branches of 2 images"):
        engine.guess(
            torch.ones(1, 3, 96, 64), torch.tensor([0.5]), sequences=[edit.sequences[CONDITION]], settings=SETTINGS
        )


def test_a_size_that_is_no_multiple_is_refused(engine, edit):
    with pytest.raises(SettingsError, match="height is 90; this model draws multiples of 32"):
        engine.guess(
            torch.ones(1, 3, 90, 64),
            torch.tensor([0.5]),
            sequences=[edit.sequences[CONDITION]],
            settings=SamplingSettings(64, 90),
        )
