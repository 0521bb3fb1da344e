"""Whole text-to-image runs against the reference implementation, step by step."""

from types import SimpleNamespace

import pytest
import torch

from sensenova_core.drawing import flow
from tests.support.golden_run import BRANCHES, check_ids_and_positions, drawn_case
from tests.support.golden_set import cases, relative_error

PICTURE = 1e-4  # worst measured: 1.3e-5, in the batch of two of the mixture of experts
COMPONENT = 1e-5
CASES = [case for case in cases("t2i") if not case["params"]["think_mode"]]


def having(tensor: str):
    """Only the cases that hold this tensor."""
    chosen = [case for case in CASES if tensor in case["tensors"]]
    return pytest.mark.parametrize("drawn", chosen, indirect=True, ids=lambda case: case["name"])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case["name"])
def drawn(request, engines) -> SimpleNamespace:
    case = request.param
    engine = engines(case["checkpoint"])
    return drawn_case(engine, case, engine.encode(case["prompt"]))


def test_ids_and_positions(drawn):
    guided = drawn.settings["cfg"] > 1
    assert check_ids_and_positions(drawn) == ({"condition", "unconditional"} if guided else {"condition"})


def test_times(drawn):
    reference = drawn.golden["timesteps"]
    torch.testing.assert_close(flow.schedule(drawn.settings["steps"], drawn.settings["shift"]), reference)
    assert [step.t for step in drawn.steps] == pytest.approx(reference[:-1].tolist(), abs=1e-6)
    assert [step.index for step in drawn.steps] == list(range(len(reference) - 1))


def test_noise_scale(drawn):
    noise = drawn.engine.config.noise
    scale = flow.noise_scale(noise, drawn.grid.tokens)
    assert scale == pytest.approx(drawn.case["noise_scale"], rel=1e-12)
    assert scale / noise.max_scale == pytest.approx(drawn.case["noise_scale_embed_input"], rel=1e-12)


@having("init_image")
def test_starting_noise(drawn):
    """The same numbers as the reference draws from a seed, and they are what the model is given first."""
    reference, settings = drawn.golden["init_image"], drawn.settings
    stream = flow.noise_stream(settings["seed"])
    noise = flow.starting_noise(
        stream, batch=settings["batch_size"], height=settings["height"], width=settings["width"]
    )
    assert torch.equal(drawn.case["noise_scale"] * noise, reference)
    if settings["cfg_norm"] != "cfg_zero_star":  # which stands still at step 0, without asking the model
        assert torch.equal(drawn.embedded[0], drawn.grid.image_to_patches(reference))


@having("v_first_cond")
def test_first_velocities(drawn):
    first = [drawn.golden[f"v_first_{name}"] for name in BRANCHES.values() if f"v_first_{name}" in drawn.golden]
    z = drawn.grid.image_to_tokens(drawn.golden["init_image"])
    for guess, reference in zip(drawn.guesses[0].chunk(len(first)), first, strict=True):
        assert relative_error(flow.velocity(guess, z, torch.tensor(0.0), t_eps=0.02), reference) < COMPONENT


@having("z_steps")
def test_each_step(drawn):
    for step, reference in zip(drawn.steps, drawn.golden["z_steps"], strict=True):
        assert relative_error(step.z, reference) < PICTURE


def test_image(drawn):
    assert relative_error(drawn.steps[-1].pixels(), drawn.golden["image"]) < PICTURE


def test_image_ready_to_show(drawn):
    image = drawn.steps[-1].image()  # (batch, height, width, 3) in 0 .. 1
    pixels = drawn.golden["image"]
    expected = drawn.golden.get("image_u8", (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().permute(0, 2, 3, 1))
    assert ((image * 255).round() - expected.float()).abs().max() <= 1


@having("prefix_k_cond")
def test_prefix(drawn):
    """What the prompt has become: keys and values of its last tokens, and its last hidden state."""
    engine, hidden = drawn.engine, []
    hook = engine.model.understanding.decoder.norm.register_forward_hook(lambda _, __, out: hidden.append(out))
    engine.remembered.forget()
    with torch.inference_mode():
        prefix = engine.reader.prefix(drawn.conditioning.sequences["condition"])
    hook.remove()
    for ours, theirs in ((prefix.keys, "prefix_k_cond"), (prefix.values, "prefix_v_cond")):
        reference = drawn.golden[theirs]  # (layers, kv_heads, last tokens, head_dim)
        last = torch.cat(ours)[:, -reference.shape[2] :].transpose(1, 2)
        assert relative_error(last, reference) < COMPONENT
    reference = drawn.golden["prefix_last_hidden_cond"].flatten()
    assert relative_error(hidden[0][0, -1], reference) < COMPONENT
