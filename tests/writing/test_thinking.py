"""What reasoning before a picture promises beyond the right numbers."""

import pytest
import torch

import sensenova_core
from sensenova_core import PromptError
from sensenova_core.reading.prompt import THINKING
from sensenova_core.settings import DecodingSettings
from tests.support.each import each
from tests.support.pictures import picture
from tests.support.watch import (
    SMALL,
    images_embedded,
    last_of,
    saying,
    thought_through,
    tokens_read,
)

REASONING = "a red circle, on white\nbecause it was asked for.</think>"
EMPTY_PROMPT = 13  # tokens of the unconditional branch
OPENING = 3  # "\n", "\n" and <img>


def think(engine, text: str = REASONING, prompt: str = "draw it", images=(), **settings):
    conditioning = engine.encode(prompt, images, max_pixels=16_384)
    return thought_through(engine.think(conditioning, DecodingSettings(**settings), choose=saying(engine, text)))


def condition(conditioning) -> list[int]:
    return conditioning.sequences["condition"].ids.tolist()


@pytest.mark.parametrize("limit", [1, 5])
def test_the_limit_is_kept(engine, limit):
    asked = engine.encode("draw it")
    before = engine.prompts.thinking(asked)
    thought = thought_through(engine.think(asked, DecodingSettings(max_tokens=limit)))
    ids = condition(thought)
    assert ids[: len(before.ids)] == before.ids.tolist()
    assert len(ids) == len(before.ids) + limit + OPENING
    assert engine.tokenizer.decode(ids[len(before.ids) : -OPENING]) == thought.think_text
    assert ids[-1] == engine.tokenizer.ids["<img>"]


def test_the_turn_s_end_stops_and_is_not_read(engine):
    thought = think(engine, "it is red<|im_end|>never said")
    assert thought.think_text == "it is red"
    before = engine.prompts.thinking(thought).ids.tolist()
    said = engine.tokenizer.encode(["it is red"])
    assert condition(thought) == [*before, *said, *engine.tokenizer.encode(["\n\n"]), engine.tokenizer.ids["<img>"]]


def test_text_comes_as_it_is_written(engine):
    text = "一只猫 😀</think>"
    *begun, last = engine.think(engine.encode("draw it"), choose=saying(engine, text))
    pieces = [thought.piece for thought in (*begun, last)]
    assert "".join(pieces) == last.text == last.conditioning.think_text == text
    assert [thought.text for thought in begun] == ["".join(pieces[:count]) for count in range(1, len(pieces))]
    assert "\ufffd" not in "".join(pieces) and len([piece for piece in pieces if piece]) > 5


@pytest.mark.parametrize("text, closed", [("one two</think>", True), ("one two<|im_end|>", False)])
def test_tokens_are_counted_as_they_are_written(engine, text, closed):
    *begun, last = engine.think(engine.encode("draw it"), choose=saying(engine, text))
    written = len(engine.tokenizer.encode(["one two"])) + closed  # the turn's end is no token of the reasoning
    assert [thought.tokens for thought in begun] == [*range(1, written + 1)] and last.tokens == written
    assert all(thought.conditioning is None for thought in begun)
    assert last.closed == closed


def test_each_token_is_read_once(engine):
    thought = engine.tokenizer.encode(["a b"])
    with tokens_read(engine) as read:
        conditioning = think(engine, "a b<|im_end|>")
    assert read == [len(engine.prompts.thinking(conditioning).ids), *[1] * len(thought), OPENING]


def test_the_original_conditioning_stays_as_it_was(engine):
    asked = engine.encode("draw it")
    before = condition(asked)
    thought = thought_through(engine.think(asked, choose=saying(engine, REASONING)))
    assert condition(asked) == before and asked.think_text is None
    assert thought.think_text == REASONING and thought.prompt == asked.prompt
    assert thought.sequences["unconditional"] is asked.sequences["unconditional"]


def test_reasoning_changes_the_picture(engine):
    plain = last_of(engine.sample(engine.encode("draw it"), **SMALL))
    red, blue = (last_of(engine.sample(think(engine, f"{colour}</think>"), **SMALL)) for colour in ("red", "blue"))
    assert (red - plain).abs().max() > 1e-3 and (red - blue).abs().max() > 1e-3


def test_reasoning_over_the_context_is_named_and_not_the_prompt(copy_of):
    engine = sensenova_core.load(copy_of(config=lambda raw: raw["llm_config"].update(max_position_embeddings=900)))
    room = engine.prompts.room_after(engine.prompts.thinking(engine.encode("draw it")))
    word = engine.tokenizer.encode(["<think>\n a a"])[-1:]
    longest = engine.tokenizer.decode(word * (room - 1))  # and its closing token
    conditioning = engine.encode("draw it", think_text=longest)
    assert len(condition(conditioning)) <= 900
    with pytest.raises(PromptError, match=rf"the reasoning comes to [\d,]+ tokens, .* over the {room} that .*shorten"):
        engine.encode("draw it", think_text=longest * 2)
    with pytest.raises(PromptError, match=r"the prompt comes to"):
        engine.encode("draw it" * 1000, think_text="because")


@pytest.mark.parametrize("images", [(), (picture(),)], ids=["text to image", "edit"])
def test_reasoning_fed_back_is_the_same_picture(engine, images):
    thought = think(engine, images=images)
    again = engine.encode("draw it", images, think_text=thought.think_text, max_pixels=16_384)
    assert condition(again) == condition(thought)
    assert torch.equal(again.sequences["condition"].positions, thought.sequences["condition"].positions)
    expected = last_of(engine.sample(thought, **SMALL))
    with tokens_read(engine) as read:
        assert torch.equal(last_of(engine.sample(again, **SMALL)), expected)
    assert read == []  # found by content
    engine.remembered.forget()
    anew = last_of(engine.sample(again, **SMALL))  # in one go, where thinking read it token by token
    torch.testing.assert_close(anew, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompt, images", [("go", 0), ("go", 1), ("go", 3), ("a <image> b", 2)])
def test_reasoning_begins_as_the_picture_does(engines, prompt, images):
    """The same turns, with images numbered or placed alike."""
    engine = engines("tiny-u15")
    given = [picture(seed=seed) for seed in range(images)]
    before = engine.prompts.thinking(engine.encode(prompt, given, max_pixels=4096)).ids.tolist()
    with_reasoning = condition(engine.encode(prompt, given, think_text="x", max_pixels=4096))
    assert with_reasoning[: len(before)] == before and before[-2] == engine.tokenizer.ids["<think>"]


@pytest.mark.parametrize("given", [REASONING.removesuffix("</think>"), THINKING + REASONING, REASONING])
def test_reasoning_is_completed(engines, given):
    engine = engines("tiny-u15")
    expected = condition(engine.encode("draw it", think_text=REASONING))
    assert condition(engine.encode("draw it", think_text=given)) == expected
    ids = engine.tokenizer.ids
    assert expected[-4:] == [ids["</think>"], *engine.tokenizer.encode(["\n\n"]), ids["<img>"]]


@pytest.mark.parametrize("given", [f"{REASONING}\n", f"{REASONING} ", f"\n{REASONING}\n\n"])
def test_white_space_around_edited_reasoning_adds_no_second_end(engines, given):
    engine = engines("tiny-u15")
    end = engine.tokenizer.ids["</think>"]
    expected = condition(engine.encode("draw it", think_text=REASONING)).count(end)
    assert condition(engine.encode("draw it", think_text=given)).count(end) == expected


def test_empty_reasoning_differs_from_none(engines):
    engine = engines("tiny-u15")
    ids, empty = engine.tokenizer.ids, condition(engine.encode("draw it", think_text=""))
    newline = engine.tokenizer.encode(["\n"])
    assert empty[-6:-3] == [ids["<think>"], *newline, ids["</think>"]]
    assert len(condition(engine.encode("draw it"))) == len(empty) + 1  # "\n\n" between the two


@each("spelled", ["<img>", "<|im_end|>", "<|im_start|>", "</img>", "<IMG_CONTEXT>", "<image>"])
@each("images", [(), (picture(),)])
def test_edited_reasoning_that_spells_a_special_is_plain_text(engines, spelled, images):
    engine = engines("tiny-u15")
    plain, spelling = (
        engine.encode("draw it", images, think_text=f"red {text} blue</think>", max_pixels=16_384)
        for text in ("and", spelled)
    )
    for token in engine.tokenizer.ids.values():
        assert condition(plain).count(token) == condition(spelling).count(token)
    assert engine.tokenizer.decode(condition(spelling)).count(f"red {spelled} blue</think>") == 1
    assert spelling.sequences["condition"].images == spelling.images


def test_after_reasoning_only_the_empty_prompt_is_read(engine):
    thought = think(engine)
    with tokens_read(engine) as read:
        last_of(engine.sample(thought, **SMALL))
    assert read == [EMPTY_PROMPT]


def test_after_reasoning_an_edit_reads_only_its_other_branches(engine):
    with images_embedded(engine) as embedded:
        thought = think(engine, images=[picture()])
        with tokens_read(engine) as read:
            last_of(engine.sample(thought, **SMALL, img_cfg=2.0))
    assert read == [len(thought.sequences[name].ids) for name in ("images_only", "unconditional")]
    assert embedded == [thought.images[0].grid.tokens]


def test_a_second_picture_reads_nothing(engine):
    thought = think(engine)
    first = last_of(engine.sample(thought, **SMALL))
    with tokens_read(engine) as read:
        last_of(engine.sample(thought, **SMALL | {"seed": 6}))
        assert torch.equal(last_of(engine.sample(thought, **SMALL)), first)
    assert read == []


def test_thinking_again_starts_over(engine):
    first = think(engine)
    again = thought_through(engine.think(first, choose=saying(engine, "blue</think>")))
    assert condition(again) == condition(think(engine, "blue</think>")) and again.think_text == "blue</think>"


def test_stopping_in_the_middle_leaves_nothing_behind(engine):
    def begin():
        return engine.think(engine.encode("draw it"), DecodingSettings(max_tokens=6))

    expected = thought_through(begin()).think_text
    engine.remembered.forget()
    for _ in begin():
        break
    assert engine.remembered.prefixes.nbytes == 0
    assert thought_through(begin()).think_text == expected


def test_nothing_is_read_before_it_is_asked_for(engine):
    with tokens_read(engine) as read:
        engine.think(engine.encode("draw it"))
    assert read == []


def test_a_released_engine_thinks_and_draws_the_same(engine):
    thought = think(engine)
    expected = last_of(engine.sample(thought, **SMALL))
    engine.release()
    drawn = last_of(engine.sample(thought, **SMALL))  # what was read is read again, in one go
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)


def test_reasoning_leaves_room_for_the_image(copy_of):
    """At the end of the context it stops in time for what opens the image."""
    engine = sensenova_core.load(copy_of(config=lambda raw: raw["llm_config"].update(max_position_embeddings=760)))
    asked = engine.encode("draw it")
    before = len(engine.prompts.thinking(asked).ids)
    thought = thought_through(engine.think(asked, DecodingSettings(max_tokens=1000), choose=saying(engine, "x" * 1000)))
    assert before < len(condition(thought)) - OPENING and len(condition(thought)) <= 760
    with pytest.raises(PromptError, match=r"the reasoning comes to .* of the model's 760"):
        engine.encode("draw it", think_text="x" * 1000)


def test_sampled_reasoning_follows_its_seed(engines):
    engine = engines("tiny-u15")
    asked = engine.encode("draw it")

    def text(seed):
        settings = DecodingSettings(max_tokens=12, sample=True, temperature=1.0, seed=seed)
        return thought_through(engine.think(asked, settings)).think_text

    assert text(1) == text(1) != text(2)
