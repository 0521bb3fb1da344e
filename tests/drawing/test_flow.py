"""Times, noise scale and guidance: the formulas against the reference, and what is refused."""

from dataclasses import replace

import pytest
import torch

from sensenova_core import Guidance, SamplingSettings, SettingsError
from sensenova_core.drawing import flow
from sensenova_core.model.config import NoiseConfig
from tests.support.each import each
from tests.support.golden_set import case_named, manifest, relative_error, tensors

ROWS = case_named("guidance_cfg_math")["rows"]
SCHEDULES = sorted(case_named("time_schedule")["tensors"])
BRANCHES = {"v_cond": flow.CONDITION, "v_img_cond": flow.IMAGES_ONLY, "v_uncond": flow.UNCONDITIONAL}
RESOLUTION = NoiseConfig(mode="resolution", scale=1.0, base_tokens=64, max_scale=8.0, embedded=True)


@pytest.fixture(scope="module")
def velocities() -> dict[str, torch.Tensor]:
    return tensors(case_named("guidance_cfg_math"))


@each("name", ROWS)
def test_guidance_equals_the_reference(name, velocities):
    row = ROWS[name]
    edit, step = row["mode"] == "edit", row.get("step", 1)
    guidance = Guidance(row["cfg_scale"], row.get("img_cfg_scale", 1.0), row["cfg_norm"])
    branches = flow.branches(guidance, edit=edit, t=0.5)
    assert list(branches) == [BRANCHES[branch] for branch in row["branches"]]
    if flow.skips(guidance, edit=edit, step=step, t=0.0):
        assert velocities[name].count_nonzero() == 0
    else:
        given = {BRANCHES[branch]: velocities[branch] for branch in row["branches"]}
        assert relative_error(flow.combine(guidance, given), velocities[name]) < 1e-5


@each("name", SCHEDULES)
def test_times_equal_the_reference(name):
    shift, steps = (int(part.lstrip("shiftep")) for part in name.split("_"))
    reference = tensors(case_named("time_schedule"))[name]
    ours = flow.schedule(steps, shift)
    assert relative_error(ours, reference) < 1e-6
    assert ours[0] == 0 and ours[-1] == 1 and (ours.diff() > 0).all()


@each("row", manifest()["tables"]["noise_scale"]["rows"])
def test_noise_scale_of_each_size(row):
    tokens = row["w"] * row["h"] // 32**2
    assert tokens == row["tokens"]
    for most in (8, 16):
        config = replace(RESOLUTION, max_scale=float(most))
        assert flow.noise_scale(config, tokens) == pytest.approx(row[f"max{most}"], rel=1e-12)


@pytest.mark.parametrize(
    "mode, tokens, expected",
    [
        ("static", 4096, 1.5),  # whatever the size
        ("resolution", 256, 3.0),
        ("dynamic", 256, 3.0),
        ("dynamic_sqrt", 256, 3.0**0.5),
        ("resolution", 16384, 8.0),  # 24 without the cap
        ("dynamic", 16384, 8.0),
        ("dynamic_sqrt", 16384, 24.0**0.5),
        ("dynamic_sqrt", 64 * 10**4, 8.0),  # the cap comes after the root: 12.2 without it
    ],
)
def test_noise_scale_modes(mode, tokens, expected):
    config = replace(RESOLUTION, mode=mode, scale=1.5)
    assert flow.noise_scale(config, tokens) == pytest.approx(expected)


def test_velocity_reaches_the_guess():
    z, guess, t = torch.full((1, 1, 3), 2.0), torch.full((1, 1, 3), 5.0), torch.tensor(0.25)
    assert torch.allclose(z + (1 - t) * flow.velocity(guess, z, t, t_eps=0.02), guess)


def test_velocity_near_the_end_is_divided_by_t_eps():
    z, guess, t = torch.zeros(1, 1, 3), torch.ones(1, 1, 3), torch.tensor(0.99)
    assert torch.allclose(flow.velocity(guess, z, t, t_eps=0.05), torch.full((1, 1, 3), 20.0))


@pytest.mark.parametrize("t, guided", [(0.19, False), (0.2, True), (0.5, True), (0.8, True), (0.81, False)])
def test_interval_includes_both_ends(t, guided):
    guidance = Guidance(cfg=4, interval=(0.2, 0.8))
    assert (len(flow.branches(guidance, edit=False, t=t)) == 2) is guided
    assert (len(flow.branches(guidance, edit=True, t=t)) == 2) is guided


@pytest.mark.parametrize("cfg", [1.0, 0.5, 0.0, -1.0])
def test_one_branch_where_the_prompt_has_no_extra_weight(cfg):
    assert flow.branches(Guidance(cfg=cfg), edit=False, t=0.5) == (flow.CONDITION,)


def test_zero_star_skips_only_a_guided_first_step():
    guidance = Guidance(cfg=4, norm="cfg_zero_star")
    assert flow.skips(guidance, edit=False, step=0, t=0.0)
    assert not flow.skips(guidance, edit=False, step=1, t=0.1)
    assert not flow.skips(Guidance(cfg=1, norm="cfg_zero_star"), edit=False, step=0, t=0.0)
    assert not flow.skips(Guidance(cfg=4, norm="cfg_zero_star", interval=(0.1, 1)), edit=False, step=0, t=0.0)
    assert not flow.skips(Guidance(cfg=4, norm="global"), edit=False, step=0, t=0.0)


def test_norms_never_lengthen():
    """A guided velocity that is already shorter than the unguided one stays as it is."""
    condition = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    nothing = condition * 1.1  # so that guidance with weight 2 shortens
    given = {flow.CONDITION: condition, flow.UNCONDITIONAL: nothing}
    plain = flow.combine(Guidance(cfg=2), given)
    for norm in ("global", "channel"):
        assert torch.equal(flow.combine(Guidance(cfg=2, norm=norm), given), plain)


def refusal(**settings) -> str:
    guidance = {name: settings.pop(name) for name in ("cfg", "img_cfg", "norm", "interval") if name in settings}
    with pytest.raises(SettingsError) as refused:
        SamplingSettings(guidance=Guidance(**guidance), **settings)
    return str(refused.value)


@pytest.mark.parametrize(
    "settings, value, remedy",
    [
        ({"norm": "locl"}, "'locl'", "none, global, channel, cfg_zero_star"),
        ({"interval": (0.8, 0.2)}, "0.8 to 0.2", "0 to 1"),
        ({"interval": (-0.1, 0.5)}, "-0.1 to 0.5", "0 to 1"),
        ({"interval": (0.5, 1.5)}, "0.5 to 1.5", "0 to 1"),
        ({"interval": (float("nan"), 1)}, "nan", "0 to 1"),
        ({"cfg": float("nan")}, "cfg is nan", "finite"),
        ({"cfg": float("inf")}, "cfg is inf", "finite"),
        ({"img_cfg": float("nan")}, "img_cfg is nan", "finite"),
        ({"steps": 0}, "steps is 0", "from 1"),
        ({"steps": -3}, "steps is -3", "from 1"),
        ({"steps": 2.5}, "steps is 2.5", "whole number"),
        ({"batch_size": 0}, "batch_size is 0", "from 1"),
        ({"seed": -1}, "seed is -1", "from 0"),
        ({"seed": 2**64}, f"seed is {2**64}", str(2**64 - 1)),
        ({"shift": 0}, "shift is 0", "over 0"),
        ({"shift": -3.0}, "shift is -3.0", "over 0"),
        ({"shift": float("nan")}, "shift is nan", "over 0"),
        ({"t_eps": 0.0}, "t_eps is 0.0", "over 0"),
    ],
    ids=str,
)
def test_refused_with_value_and_remedy(settings, value, remedy):
    message = refusal(**settings)
    assert value in message and remedy in message


@pytest.mark.parametrize(
    "setting",
    ["steps", "seed", "cfg", "img_cfg", "shift", "t_eps"],
)
def test_a_number_as_text_is_refused(setting):
    """Old graphs hand numbers over as strings."""
    assert "'4'" in refusal(**{setting: "4"})


@pytest.mark.parametrize("side, nearest", [(1000, 992), (1030, 1024), (31, 32), (0, 32), (-64, 32)])
def test_sizes_are_multiples_of_a_token(engines, side, nearest):
    config = engines("tiny-u15").config  # a token covers 32 x 32
    for name in ("width", "height"):
        with pytest.raises(SettingsError, match=f"{name} is {side};.* of 32, such as {nearest}"):
            SamplingSettings(**{name: side}).check_size(config.token_pixels)
    SamplingSettings(width=32, height=4096).check_size(config.token_pixels)


@pytest.mark.parametrize("interval", [(0.5,), (0, 0.5, 1), "0, 1", None, ("0", "1")], ids=repr)
def test_an_interval_is_two_numbers(engines, interval):
    engine = engines("tiny-u15")
    with pytest.raises(SettingsError, match="interval"):
        engine.sample(engine.encode("a"), width=64, height=64, cfg_interval=interval)


def test_a_size_as_text_is_refused(engines):
    with pytest.raises(SettingsError, match="'64'"):
        SamplingSettings(width="64").check_size(engines("tiny-u15").config.token_pixels)


def test_a_seed_draws_the_same_noise_for_the_first_of_a_batch():
    alone, batch, other = (
        flow.starting_noise(flow.noise_stream(seed), batch=images, height=32, width=64)
        for seed, images in ((7, 1), (7, 3), (8, 1))
    )
    assert torch.equal(alone[0], batch[0]) and not torch.equal(batch[0], batch[1])
    assert not torch.equal(alone, other)
