"""ComfyUI's own samplers on our model, by numbers: see core_samplers.py."""

import json

import pytest

import sensenova_core
from tests.live import comfyui
from tests.live.conftest import GOLDEN
from tests.support.loras import matrices, write_lora

EQUAL = 1e-4  # largest difference of any pixel, in about -1 to 1
STEPS = 8
EQUALS = {
    "equal": [
        *(f"{prompt}, cfg {cfg}" for prompt in ("text", "edit", "two references", "thought") for cfg in (1, 4)),
        *("1 steps", "13 steps", "50 steps", "100 steps", "t_eps", "shift", "batch"),
        *("against nothing", "dual guidance", "guider", "unguided", "zeroed out", "combined with itself"),
        *("masked everywhere", "in two halves"),
    ],
    "patched": [
        *("shifted", "shifted as AuraFlow", "not shifted any more"),
        *("another size", "another size, shifted", "a function for guidance"),
    ],
}
CASES = [(part, case) for part, cases in EQUALS.items() for case in cases]


@pytest.fixture(scope="module")
def seen(installation, tmp_path_factory) -> dict[str, dict]:
    lora = tmp_path_factory.mktemp("lora") / "x.safetensors"
    write_lora(lora, matrices(sensenova_core.DEMO))
    arguments = ("tests/live/core_samplers.py", installation.folder, sensenova_core.DEMO, GOLDEN, lora)
    return json.loads(comfyui.run_python(installation, *arguments))


@pytest.mark.parametrize("part, case", CASES)
def test_euler_draws_what_our_sampler_draws(seen, part, case):
    assert seen[part][case] < EQUAL


def test_noise_is_the_models_own_unless_a_node_says_otherwise(seen):
    own, *others = seen["patched"]["its own noise"][::-1]
    assert others == [1.0] and own > 1
    assert seen["patched"]["other noise"] > 0.01


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "uni_pc", "res_multistep"])
def test_other_samplers_draw_other_pictures(seen, name):
    finite, from_euler = seen["sampled"][name]
    assert finite and 0.01 < from_euler < 3


def test_every_sampler_and_scheduler_runs(seen):
    assert seen["sampled"]["tried"] > 40 and seen["sampled"]["not finite"] == []


def test_the_vae_loses_nothing(seen):
    assert seen["begun_from_a_picture"]["there and back"] is True


def test_less_denoising_stays_nearer_to_the_picture(seen):
    all_of_it, most, little = seen["begun_from_a_picture"]["denoised"]
    assert all_of_it > most > little > 0


@pytest.mark.parametrize("how", ["kept", "kept by differential diffusion"])
@pytest.mark.parametrize("denoise", ["1", "0.6"])
def test_a_mask_keeps_what_it_leaves_out(seen, how, denoise):
    kept, change = seen["begun_from_a_picture"][f"{how}, denoise {denoise}"]
    assert kept is True and change > 0.1


@pytest.mark.parametrize("run, drawing", [("guided", STEPS), ("unguided", STEPS), ("dual", STEPS), ("batch", STEPS)])
def test_all_branches_and_images_are_one_pass(seen, run, drawing):
    assert seen["passes"][run] == [drawing, 1]


def test_heun_asks_twice_but_at_the_end(seen):
    assert seen["passes"]["heun"] == [2 * STEPS - 1, 1]


def test_several_on_one_engine_do_not_disturb_each_other(seen):
    assert seen["in_turns"]["changes"] > 0.01
    assert max(seen["in_turns"]["turns"]) < EQUAL


def test_goes_on_when_its_memory_was_given_back(seen):
    part = seen["evicted"]
    assert part["apart"] < EQUAL and part["let go"] and part["left"] == [0, 0]


def test_streaming_changes_nothing(seen):
    assert seen["streamed"] == 0


def test_comfyui_knows_of_one_model_as_long_as_its_loader_is_there(seen):
    assert seen["known"] == [1, 1, 0]


@pytest.mark.parametrize(
    "what, said",
    [
        ("clip", "CLIP Text Encode, whose text this model cannot read; connect positive and negative"),
        ("another model's", "was made for 'tiny-u15', and the MODEL is 'demo'"),
        ("area", "the conditioning has area"),
        ("joined", "joined or averaged"),
        ("averaged", "joined or averaged"),
        ("latent", "shape (4, 32, 32), and this model draws pixels"),
        ("size", "the latent's height is 100 pixels, and this model draws multiples of 32"),
        ("core LoRA", "put the LoRA into SenseNova U1 LoRA, between the Loader and To ComfyUI"),
        ("sampling", "use ModelSamplingSD3 for another shift"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(seen, what, said):
    assert said in seen["refused"][what]
