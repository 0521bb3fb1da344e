"""Whole edits against the reference implementation: what is read, and what is drawn from it."""

from types import SimpleNamespace

import pytest
import torch

from sensenova_core.drawing import flow
from tests.support.golden_run import BRANCHES, check_ids_and_positions, drawn_case
from tests.support.golden_set import (
    case_named,
    cases,
    images,
    relative_error,
    sample_settings,
    tensors,
)
from tests.support.watch import calls

PICTURE = 1e-4  # worst measured: 7.1e-6, where guidance covers every step
COMPONENT = 1e-5
CASES = [case for case in cases("edit") if not case["params"]["think_mode"]]
REGIMES = {  # (guided at all, img_cfg is 1, cfg is img_cfg) -> branches
    (False, True, True): {"condition"},
    (True, True, False): {"condition", "images_only"},
    (True, False, True): {"condition", "unconditional"},
    (True, False, False): {"condition", "images_only", "unconditional"},
}


def having(tensor: str):
    """Only the cases that hold this tensor."""
    chosen = [case for case in CASES if tensor in case["tensors"]]
    return pytest.mark.parametrize("drawn", chosen, indirect=True, ids=lambda case: case["name"])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case["name"])
def drawn(request, engines) -> SimpleNamespace:
    case = request.param
    engine = engines(case["checkpoint"])
    return drawn_case(engine, case, engine.encode(case["prompt"], images(case)))


def test_ids_and_positions(drawn):
    cfg, img_cfg = drawn.settings["cfg"], drawn.settings["img_cfg"]
    regime = REGIMES[not cfg == img_cfg == 1, img_cfg == 1, cfg == img_cfg]
    assert check_ids_and_positions(drawn) == regime
    assert set(drawn.conditioning.sequences) == set(BRANCHES)


def test_grids(drawn):
    ours = [[2 * image.grid.rows, 2 * image.grid.columns] for image in drawn.conditioning.images]
    assert ours == drawn.case["input_grid_hw"]  # in patches


@having("vit_embeds")
def test_embedded_images(drawn):
    with torch.inference_mode():
        ours = torch.cat([drawn.engine.reader.embed(image) for image in drawn.conditioning.images])
    assert relative_error(ours[drawn.golden["vit_embeds_rows"].long()], drawn.golden["vit_embeds"]) < COMPONENT


@having("prefix_last_hidden_cond")
def test_prefix(drawn):
    with torch.inference_mode():
        _, hidden = drawn.engine.reader.open(drawn.conditioning.sequences["condition"])
    assert relative_error(hidden[0], drawn.golden["prefix_last_hidden_cond"]) < COMPONENT


@having("init_image")
def test_starting_noise(drawn):
    assert torch.equal(drawn.embedded[0], drawn.grid.image_to_patches(drawn.golden["init_image"]))


@having("v_first_cond")
def test_first_velocities(drawn):
    names = [name for name in BRANCHES.values() if f"v_first_{name}" in drawn.golden]
    z = drawn.grid.image_to_tokens(drawn.golden["init_image"])
    for name, guess in zip(names, drawn.guesses[0].chunk(len(names)), strict=True):
        ours = flow.velocity(guess, z, torch.tensor(0.0), t_eps=drawn.settings["t_eps"])
        assert relative_error(ours, drawn.golden[f"v_first_{name}"]) < COMPONENT


def test_image(drawn):
    assert [step.t for step in drawn.steps] == pytest.approx(drawn.golden["timesteps"][:-1].tolist(), abs=1e-6)
    assert relative_error(drawn.steps[-1].pixels(), drawn.golden["image"]) < PICTURE


@pytest.mark.skipif(case_named("u1_edit_interval_from_zero") is None, reason="only in the whole set")
def test_an_interval_from_zero_has_an_end(engines):
    """The reference guides to the end whenever an edit's interval starts at 0. Ours ends where it says."""
    case = case_named("u1_edit_interval_from_zero")
    assert case["params"]["cfg_interval"] == [0, 0.5]
    engine = engines(case["checkpoint"])
    conditioning = engine.encode(case["prompt"], images(case))
    with calls(engine.model.generation.decoder) as seen:
        *_, step = engine.sample(conditioning, **sample_settings(case) | {"cfg_interval": (0, 0.5)})
    assert seen == [2, 2, 2, 1, 1]  # at 0, 0.2, 0.4; 0.6, 0.8
    assert relative_error(step.pixels(), tensors(case)["image"]) > 0.01
