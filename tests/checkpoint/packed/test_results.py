"""Packed weights: what they draw is what their numbers draw, wherever they lie."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import sensenova_core
from sensenova_core import DecodingSettings, Engine
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.checkpoint.packed.conftest import SCALINGS
from tests.support.geometries import geometry, write_checkpoint
from tests.support.golden_set import relative_error
from tests.support.packing import write_gguf
from tests.support.streaming import WAYS, check_same, draw_short, story

GROUPED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def tell_briefly(engine: Engine) -> dict:
    """A picture, and what an answer was chosen from, which takes the output head."""
    seen: list[torch.Tensor] = []
    letter = engine.tokenizer.encode(["a"])[0]
    choose = lambda logits, chosen: seen.append(logits.clone()) or letter  # noqa: E731
    list(engine.understand("what?", settings=DecodingSettings(3), choose=choose))
    return {"picture": draw_short(engine, steps=2), "logits": torch.stack(seen)}


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_plain_gguf_draws_what_its_folder_draws(tmp_path, name):
    dtype = {"F32": torch.float32, "F16": torch.float16}[name]
    folder = write_checkpoint(tmp_path / "source", geometry(0), dtype)
    packed, _ = write_gguf(folder, tmp_path, lambda key, value: "F32" if value.dtype == torch.float32 else name)
    ways = [{}, {"vram_mode": "balanced"}]
    for settings in ways:
        engine = sensenova_core.load(packed, **settings)
        assert engine.stored.compute_dtype == dtype and not any(
            map(engine.memory.sizes.unpacking, (UNDERSTANDING, GENERATION))
        )
        check_same(tell_briefly(engine), tell_briefly(sensenova_core.load(folder, **settings)))


@pytest.mark.parametrize("name", [*GROUPED, "mixed", *SCALINGS])
def test_packed_weights_draw_what_their_numbers_draw(made, name):
    packed, plain = made(name)
    expected = tell_briefly(sensenova_core.load(plain))
    engine = sensenova_core.load(packed, dtype="float32")
    assert engine.memory.in_place and engine.memory.sizes.unpacking(GENERATION)
    check_same(tell_briefly(engine), expected)


@pytest.mark.parametrize("name", ["Q4_K", "scale_weight", "rows", "weight_scale_inv"])
def test_numbers_are_rounded_once_to_the_type_they_run_in(made, name):
    """bfloat16, unless another one is asked for; norms stay as they are stored."""
    packed, plain = made(name)
    engine = sensenova_core.load(packed)
    assert engine.stored.compute_dtype == engine.model.dtype == torch.bfloat16
    rounded = sensenova_core.load(plain, dtype="bfloat16", vram_mode="balanced")  # aligned, as in the working buffer
    numbers = load_file(plain / "model.safetensors")
    first = next(iter(engine.memory.residency.layers(GENERATION)))
    expected = numbers["language_model.model.layers.0.mlp_mot_gen.down_proj.weight"].bfloat16()
    assert torch.equal(first.mlp.down_proj.weight, expected)
    assert first.input_layernorm.weight.dtype == torch.float32
    assert relative_error(draw_short(engine), draw_short(rounded)) < 0.05  # norms apart, which that one rounds


@pytest.mark.parametrize("name, bound", [("Q8_0", 0.03), ("Q5_1", 0.22), ("Q4_K", 0.4), ("scale_weight", 0.13)])
def test_the_picture_is_close_to_that_of_the_weights_before(source, made, name, bound):
    """Of random weights, which keep all of an error; of its root mean square. docs/memory.md has what was measured."""
    before = draw_short(sensenova_core.load(source), steps=2, cfg=1.0)
    error = draw_short(sensenova_core.load(made(name)[0], dtype="float32"), steps=2, cfg=1.0) - before
    assert 0 < error.norm() < bound * before.norm()


@pytest.fixture(scope="module")
def expected(made) -> Callable[[str], dict]:
    told: dict[str, dict] = {}

    def find(name: str) -> dict:
        if name not in told:
            told[name] = story(sensenova_core.load(made(name)[1]))
        return told[name]

    return find


@pytest.mark.parametrize("way", WAYS)
def test_results_are_the_same_bit_for_bit_whatever_the_memory(load, expected, way):
    settings = dict(WAYS[way])
    locked = settings.pop("locked", None)
    engine = load(**settings)
    if locked is not None:
        engine.memory.limits = replace(engine.memory.limits, page_locked=locked * engine.memory.sizes.slot)
    assert not engine.memory.in_place
    check_same(story(engine), expected("mixed"))


@pytest.mark.parametrize("name, way", [("mixed", None), ("weight_scale_inv", "some stay"), ("rows", "low, one kept")])
def test_in_place_and_scaled_as_well(load, expected, name, way):
    settings = {"vram_mode": "auto"} if way is None else dict(WAYS[way])
    settings.pop("locked", None)
    check_same(story(load(name, **settings)), expected(name))
