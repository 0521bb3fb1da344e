"""What the engine promises beyond the right numbers: what it computes when, what it keeps, what it refuses."""

import gc
import importlib.util
import weakref

import pytest
import torch

import sensenova_core
from sensenova_core import SenseNovaError, SettingsError
from tests.support.golden_set import checkpoint
from tests.support.watch import SMALL, calls, calls_of_linears, draw, last_of


def test_branches_go_through_each_layer_as_one_batch(engine):
    with calls_of_linears(engine.model.generation.decoder.layers) as seen:
        draw(engine, cfg=4.0)
    assert len(seen) == 3 * 7
    assert all(batches == [2, 2, 2, 2] for batches in seen.values()), seen


def test_branches_outside_the_interval_cost_nothing(engine):
    """Steps at t = 0, 0.25, 0.5, 0.75: the middle two are guided."""
    with calls_of_linears(engine.model.generation.decoder.layers) as seen:
        draw(engine, cfg=4.0, cfg_interval=(0.2, 0.6), shift=1.0, batch_size=3)
    assert all(batches == [3, 6, 6, 3] for batches in seen.values()), seen


def test_each_expert_of_the_mixture_runs_at_most_once_a_step(engines):
    engine = engines("tiny-a3b")
    with calls_of_linears(engine.model.generation.decoder.layers) as seen:
        draw(engine, cfg=4.0)
    assert all(len(rows) == 4 for name, rows in seen.items() if "experts" not in name)
    assert all(len(rows) <= 4 for name, rows in seen.items() if "experts" in name)


def test_drawing_never_touches_the_expert_that_reads(engine):
    conditioning = engine.encode("a red circle")
    expected = last_of(engine.sample(conditioning, **SMALL))
    engine.model.understanding.to("meta")
    assert torch.equal(last_of(engine.sample(conditioning, **SMALL)), expected)


def test_seeds(engine):
    assert torch.equal(draw(engine), draw(engine))
    assert (draw(engine, seed=6) - draw(engine)).abs().max() > 0.1


def test_a_prompt_changes_the_picture(engine):
    assert (draw(engine, "a blue square") - draw(engine)).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["none", "global", "channel", "cfg_zero_star"])
@pytest.mark.parametrize("name", ["tiny-u15", "tiny-a3b"])
def test_first_of_a_batch_is_the_single_image(engines, name, norm):
    alone = draw(engines(name), cfg_norm=norm)
    batch = draw(engines(name), cfg_norm=norm, batch_size=3)
    torch.testing.assert_close(batch[:1], alone, atol=1e-4, rtol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > 0.1


def test_sizes_other_than_squares(engine):
    steps = list(engine.sample(engine.encode("wide"), **SMALL | {"width": 96, "height": 32}))
    assert steps[-1].pixels().shape == (1, 3, 32, 96) and steps[-1].image().shape == (1, 32, 96, 3)


def test_stopping_leaves_nothing_behind(engine):
    conditioning = engine.encode("a red circle")
    expected = last_of(engine.sample(conditioning, **SMALL))
    for stop in (1, 3):
        abandoned = engine.sample(conditioning, **SMALL)
        for _ in range(stop):
            next(abandoned)
        del abandoned
        assert torch.equal(last_of(engine.sample(conditioning, **SMALL)), expected)


def test_two_drawings_at_once(engine):
    first, second = engine.encode("a red circle"), engine.encode("a blue square, somewhat longer")
    expected = [last_of(engine.sample(prompt, **SMALL)) for prompt in (first, second)]
    running = [engine.sample(prompt, **SMALL) for prompt in (first, second)]
    *_, last = zip(*running, strict=True)
    assert all(torch.equal(step.pixels(), image) for step, image in zip(last, expected, strict=True))


def test_steps_count_up_and_end_in_the_result(engine):
    steps = list(engine.sample(engine.encode("a"), **SMALL))
    assert [(step.index, step.total) for step in steps] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert torch.equal(steps[-1].guess, steps[-1].z)
    assert all(step.image().min() >= 0 and step.image().max() <= 1 for step in steps)
    assert all(step.image().dtype == torch.float32 for step in steps)


def test_a_second_run_reads_nothing_again(engine):
    conditioning = engine.encode("a red circle")
    with calls(engine.model.understanding.decoder.layers[0]) as reads:
        last_of(engine.sample(conditioning, **SMALL))
        assert len(reads) == 2  # the prompt, and the empty one
        last_of(engine.sample(conditioning, **SMALL | {"seed": 6, "width": 32}))
        last_of(engine.sample(engine.encode("a red circle"), **SMALL))  # found by content
    assert len(reads) == 2


def test_the_empty_prompt_is_shared(engine):
    with calls(engine.model.understanding.decoder.layers[0]) as reads:
        draw(engine, "one")
        draw(engine, "two")
    assert len(reads) == 3


@pytest.mark.parametrize("settings", [{"cfg": 1.0}, {"cfg_interval": (0.9, 0.95)}])
def test_a_branch_no_step_needs_is_never_read(engine, settings):
    with calls(engine.model.understanding.decoder.layers[0]) as reads:
        draw(engine, **settings)
    assert len(reads) == 1


def test_one_guided_step_is_enough_to_read_a_branch(engine):
    plain = draw(engine, cfg=1.0)
    with calls(engine.model.understanding.decoder.layers[0]) as reads:
        guided = draw(engine, cfg=4.0, cfg_interval=(0.0, 0.01))  # step 0 alone
    assert len(reads) == 1  # the empty prompt; the other is held
    assert (guided - plain).abs().max() > 1e-3


def test_nothing_happens_before_the_first_step_is_asked_for(engine):
    engine.release()
    steps = engine.sample(engine.encode("a"), **SMALL)
    assert engine.remembered.prefixes.nbytes == 0 and engine.model.device.type == "meta"
    with calls(engine.model.generation.decoder) as drawn:
        next(steps)
    assert len(drawn) == 1 and engine.remembered.prefixes.nbytes > 0


@pytest.mark.parametrize(
    "settings",
    [{"width": 50}, {"steps": 0}, {"cfg": float("nan")}, {"cfg_norm": "x"}, {"cfg_interval": (1, 0)}],
    ids=str,
)
def test_settings_are_refused_at_the_call(engines, settings):
    engine = engines("tiny-u15")
    conditioning = engine.encode("a")
    with pytest.raises(SettingsError):
        engine.sample(conditioning, **SMALL | settings)


def test_release_gives_everything_back_and_the_picture_returns(engine):
    conditioning = engine.encode("a red circle")
    expected = last_of(engine.sample(conditioning, **SMALL))
    engine.release()
    assert {value.device.type for value in engine.model.parameters()} == {"meta"}
    assert engine.remembered.prefixes.nbytes == 0
    assert torch.equal(last_of(engine.sample(conditioning, **SMALL)), expected)


def test_the_oldest_prefix_goes_first(engine):
    draw(engine, "one", cfg=1.0)
    held = engine.remembered.prefixes
    held.limit_bytes = int(2.5 * held.nbytes)  # room for two prompts of about this length
    with calls(engine.model.understanding.decoder.layers[0]) as reads:
        for prompt in ("two", "one", "six", "one", "two"):  # "two" makes room for "six"
            draw(engine, prompt, cfg=1.0)
    assert len(reads) == 3
    assert held.nbytes <= held.limit_bytes


@pytest.mark.parametrize("expert", ["understanding", "generation"])
def test_nan_in_the_weights_is_an_error_not_a_black_picture(copy_of, expert):
    def spoil(tensors):
        suffix = "_mot_gen" if expert == "generation" else ""
        tensors[f"language_model.model.layers.1.mlp{suffix}.up_proj.weight"][0, 0] = float("nan")

    engine = sensenova_core.load(copy_of(weights=spoil))
    *_, step = engine.sample(engine.encode("a"), **SMALL)
    with pytest.raises(SenseNovaError, match=r"NaN or infinity after step 4 of 4.*float32"):
        step.image()


def test_conditioning_holds_on_to_nothing():
    """It may stay in somebody's cache for long: no weights, no prefix, no engine."""
    engine = sensenova_core.load(checkpoint("tiny-u15"))
    conditioning = engine.encode("a red circle")
    last_of(engine.sample(conditioning, **SMALL))
    sequences = conditioning.sequences.values()
    assert sum(sequence.ids.nbytes + sequence.positions.nbytes for sequence in sequences) < 100_000
    prefix = engine.reader.prefix(conditioning.sequences["condition"])
    watched = [weakref.ref(part) for part in (engine, engine.model, prefix)]
    del engine, prefix
    gc.collect()
    assert [part() for part in watched] == [None] * 3 and conditioning.prompt == "a red circle"


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_flash_without_flash_attn():
    with pytest.raises(SettingsError, match=r"flash-attn package.*install flash-attn, or choose 'auto' or 'sdpa'"):
        sensenova_core.load(checkpoint("tiny-u15"), attention="flash")


@pytest.mark.parametrize(
    "settings, value, remedy",
    [
        ({"dtype": "int8"}, "'int8'", "bfloat16"),
        ({"dtype": torch.int8}, "'int8'", "bfloat16"),
        ({"dtype": None}, "None", "auto"),
        ({"attention": "xformers"}, "'xformers'", "sdpa"),
        ({"vram_mode": "tiny"}, "'tiny'", "balanced"),
        ({"max_memory": "much"}, "'much'", "13GiB"),
        ({"max_memory": "0=13GiB,gpu=1GiB"}, "'gpu=1GiB'", "0=13GiB"),
        ({"max_memory": "-1GiB"}, "'-1GiB'", "13GiB"),
        ({"max_memory": "0=,cpu=1GiB"}, "'0='", "13GiB"),
    ],
    ids=str,
)
def test_load_refuses_with_value_and_remedy(settings, value, remedy):
    with pytest.raises(SettingsError) as refused:
        sensenova_core.load(checkpoint("tiny-u15"), **settings)
    assert value in str(refused.value) and remedy in str(refused.value)
