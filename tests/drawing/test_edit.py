"""What an edit promises beyond the right numbers: what is read for it and how often, and what is refused."""

import pytest
import torch

import sensenova_core
from sensenova_core import PromptError, SettingsError
from sensenova_core.settings import DecodingSettings
from tests.support.pictures import picture
from tests.support.watch import (
    SMALL,
    calls,
    calls_of_linears,
    draw,
    images_embedded,
    last_of,
    tokens_read,
)

TWO = (picture(seed=1), picture(80, 200, seed=2))
TOKENS = 19 * 14  # of 160 x 120, enlarged to 608 x 448


def lengths(conditioning) -> dict[str, int]:
    return {name: len(sequence.ids) for name, sequence in conditioning.sequences.items()}


def test_an_image_is_embedded_once_for_all_branches_and_steps(engine):
    conditioning = engine.encode("merge them", TWO, max_pixels=16_384)
    with images_embedded(engine) as embedded:
        engine.think(conditioning, DecodingSettings(max_tokens=3))
        last_of(engine.sample(conditioning, **SMALL, cfg=4.0, img_cfg=2.0))
        last_of(engine.sample(engine.encode("another prompt", TWO[::-1], max_pixels=16_384), **SMALL))
    assert embedded == [image.grid.tokens for image in conditioning.images]


def test_the_same_image_twice_is_embedded_once(engine):
    with images_embedded(engine) as embedded:
        draw(engine, "two of the same", [TWO[0], TWO[0].copy()])
    assert len(embedded) == 1


@pytest.mark.parametrize(
    "cfg, img_cfg, branches",
    [
        (1, 1, ["condition"]),
        (4, 1, ["condition", "images_only"]),
        (0.5, 1, ["condition", "images_only"]),  # an edit guides below 1 too
        (3, 3, ["condition", "unconditional"]),
        (4, 2, ["condition", "images_only", "unconditional"]),
        (1, 3, ["condition", "images_only", "unconditional"]),
    ],
)
def test_only_what_guidance_needs_is_read_and_drawn(engine, cfg, img_cfg, branches):
    conditioning = engine.encode("make it blue", TWO[:1])
    with tokens_read(engine) as read, calls_of_linears(engine.model.generation.decoder.layers) as drawn:
        last_of(engine.sample(conditioning, **SMALL, cfg=cfg, img_cfg=img_cfg))
    assert read == [lengths(conditioning)[branch] for branch in branches]
    assert all(batches == [len(branches)] * 4 for batches in drawn.values()), drawn


def test_three_branches_of_a_batch_are_one_pass(engine):
    """Steps at t = 0, 0.25, 0.5, 0.75: the middle two are guided."""
    with calls_of_linears(engine.model.generation.decoder.layers) as drawn:
        draw(engine, "x", TWO[:1], cfg=4, img_cfg=2, batch_size=2, cfg_interval=(0.2, 0.6), shift=1.0)
    assert all(batches == [2, 6, 6, 2] for batches in drawn.values()), drawn


def test_a_branch_no_step_needs_is_never_read(engine):
    conditioning = engine.encode("x", TWO[:1])
    with tokens_read(engine) as read:
        last_of(engine.sample(conditioning, **SMALL, cfg=4, img_cfg=2, cfg_interval=(0.9, 0.95)))
    assert read == [lengths(conditioning)["condition"]]


def test_the_same_edit_again_reads_nothing(engine):
    draw(engine, "make it blue", TWO, img_cfg=2.0)
    with tokens_read(engine) as read, images_embedded(engine) as embedded:
        draw(engine, "make it blue", [image.copy() for image in TWO], img_cfg=2.0, seed=6)
        assert read == embedded == []
        draw(engine, "make it red", TWO, img_cfg=2.0)  # its other branches are held
    assert len(read) == 1


def test_drawing_never_touches_the_expert_that_reads(engine):
    expected = draw(engine, "x", TWO, img_cfg=2.0)
    engine.model.understanding.to("meta")
    assert torch.equal(draw(engine, "x", TWO, img_cfg=2.0), expected)


def test_release_forgets_images_and_the_picture_returns(engine):
    expected = draw(engine, "x", TWO, img_cfg=2.0)
    assert engine.remembered.embeddings.nbytes > 0
    engine.release()
    assert engine.remembered.embeddings.nbytes == engine.remembered.prefixes.nbytes == 0
    assert torch.equal(draw(engine, "x", TWO, img_cfg=2.0), expected)


@pytest.mark.parametrize("norm", ["none", "global", "channel"])
@pytest.mark.parametrize("name", ["tiny-u15", "tiny-a3b"])
def test_first_of_a_batch_is_the_single_image(engines, name, norm):
    settings = {"cfg": 4.0, "img_cfg": 2.0, "cfg_norm": norm, "steps": 2}
    alone = draw(engines(name), "x", TWO[:1], **settings)
    batch = draw(engines(name), "x", TWO[:1], **settings, batch_size=2)
    torch.testing.assert_close(batch[:1], alone, atol=1e-4, rtol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > 0.1


def test_images_and_their_order_matter(engine):
    both, swapped, alone = (draw(engine, "x", images) for images in (TWO, TWO[::-1], TWO[:1]))
    assert (both - swapped).abs().max() > 1e-3 and (both - alone).abs().max() > 1e-3


def test_placeholders_are_filled_in_order(engine):
    conditioning = engine.encode("put <image> into <image>, please", TWO)
    sequence, ids = conditioning.sequences["condition"], engine.tokenizer.ids
    assert sequence.images == conditioning.images
    user = engine.tokenizer.decode([token for token in sequence.ids.tolist() if token != ids["<IMG_CONTEXT>"]])
    assert "user\nput  into , please\n" in user
    slots = (sequence.ids == ids["<IMG_CONTEXT>"]).sum()
    assert slots == sum(image.grid.tokens for image in conditioning.images)


@pytest.mark.parametrize(
    "prompt, images, expected",
    [
        ("go", 1, "\ngo"),
        ("go", 2, "Image-1:\nImage-2:\ngo"),
        ("<image> go", 2, "\n go"),
        ("<image> <image> go", 2, "  go"),
        ("", 3, "Image-1:\nImage-2:\nImage-3:\n"),
    ],
)
def test_images_without_a_placeholder_come_first(engines, prompt, images, expected):
    engine = engines("tiny-u15")
    sequence = engine.encode(prompt, [picture(seed=seed) for seed in range(images)]).sequences["condition"]
    assert len(sequence.images) == images
    text = engine.tokenizer.decode(sequence.ids.tolist())
    assert f"user\n{expected}\nassistant\n" in text


def test_more_placeholders_than_images_is_refused(engines):
    engine = engines("tiny-u15")
    with pytest.raises(
        PromptError, match=r"2 more <image> than there are images.*remove a placeholder or add an image"
    ):
        engine.encode("<image> and <image> and <image>", TWO[:1])


def test_eleven_images_are_refused_and_ten_are_not(engines):
    engine = engines("tiny-u15")
    assert len(engine.encode("x", [picture()] * 10).images) == 10
    with pytest.raises(PromptError, match=r"11 images; give at most 10"):
        engine.encode("x", [picture()] * 11)


def test_over_the_context_says_by_how_much(copy_of):
    engine = sensenova_core.load(copy_of(config=lambda raw: raw["llm_config"].update(max_position_embeddings=1200)))
    fitting = engine.encode("x", TWO[:1])
    assert fitting.images[0].grid.tokens == TOKENS
    length = lengths(fitting)["condition"] + TOKENS + 2 + len(engine.tokenizer.encode(["Image-1:\nImage-2:"]))
    with pytest.raises(PromptError) as refused:
        engine.encode("x", [TWO[0], picture(seed=3)])
    assert f"{length:,} tokens, {length - 1200:,} over the model's 1,200" in str(refused.value)
    assert "smaller or fewer images" in str(refused.value)
    assert engine.encode("x", [TWO[0], picture(seed=3)], max_pixels=100_000).images[1].grid.tokens < 150


def test_cfg_zero_star_is_refused_and_why(engines):
    engine = engines("tiny-u15")
    with pytest.raises(SettingsError, match=r"cfg_zero_star is for text to image only.*choose none, global or channel"):
        engine.sample(engine.encode("x", TWO), **SMALL, cfg_norm="cfg_zero_star")


def test_text_to_image_ignores_the_weight_of_images(engine):
    expected = draw(engine, "x", img_cfg=1.0)
    with calls(engine.model.generation.decoder) as drawn:
        assert torch.equal(draw(engine, "x", img_cfg=3.0), expected)
    assert drawn == [2, 2, 2, 2]


@pytest.mark.parametrize("spelled", ["<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>", "<|im_start|>"])
def test_spelled_specials_are_plain_text(engines, spelled):
    engine = engines("tiny-u15")
    plain, spelling = (engine.encode(prompt, TWO[:1]).sequences["condition"].ids for prompt in ("a", f"a {spelled}"))
    token = engine.tokenizer.ids[spelled]
    assert (plain == token).sum() == (spelling == token).sum()
