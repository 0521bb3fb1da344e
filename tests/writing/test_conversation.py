"""Questions and conversations: what is read again and what is not, and what is refused."""

import pytest

import sensenova_core
from sensenova_core import PromptError
from sensenova_core.reading.prompt import Message
from sensenova_core.settings import DecodingSettings
from tests.support.pictures import picture
from tests.support.watch import images_embedded, saying, tokens_read

FEW = DecodingSettings(max_tokens=12)
SMALL_IMAGE = 65_536 // 32**2  # tokens of a picture of the least size


def image(seed: int = 0):
    return picture(256, 256, seed)


def messages(*texts: str) -> list[Message]:
    """Turns by turns, the user first."""
    return [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts)]


def reply(engine, asked, images=(), settings=FEW, **more):
    *_, answer = engine.understand(asked, images, settings=settings, **more)
    return answer


def fresh(engine, asked, images=(), settings=FEW):
    """The answer of an engine that has read nothing."""
    held, engine.remembered.conversation = engine.remembered.conversation, None
    answer = reply(engine, asked, images, settings)
    engine.remembered.conversation = held
    return answer


def test_a_question_about_nothing_but_text(engine):
    one = reply(engine, "what is 2+2?")
    assert one.ids and one.ids == reply(engine, messages("what is 2+2?")).ids


def test_answers_grow_and_say_how_they_ended(engine):
    answers = list(engine.understand("hi", choose=saying(engine, "a cat <|im_end|>")))
    assert [answer.ended for answer in answers[:-1]] == [None] * (len(answers) - 1)
    assert answers[-1].ended == "end" and answers[-1].text == "a cat"
    assert answers[-2].text == "a cat " == "".join(answer.piece for answer in answers)
    assert engine.tokenizer.decode(answers[-1].ids) == "a cat "


@pytest.mark.parametrize("limit", [1, 7])
def test_an_answer_cut_by_the_limit_says_so(engine, limit):
    answer = reply(engine, "hi", settings=DecodingSettings(max_tokens=limit), choose=saying(engine, "abcdefghijkl"))
    assert answer.ended == "cut" and len(answer.ids) == limit


def test_an_empty_answer(engine):
    answer = reply(engine, "hi", choose=saying(engine, "<|im_end|>"))
    assert (answer.text, answer.ids, answer.ended) == ("", (), "end")


def test_nothing_happens_before_the_first_answer_is_asked_for(engine):
    engine.release()
    answers = engine.understand("hi", [image()], settings=FEW)
    assert engine.model.device.type == "meta"
    next(answers)
    assert engine.model.device.type == "cpu"


def test_the_second_turn_reads_only_what_is_new(engine):
    first = messages("<image>\nWhat is it?")
    with tokens_read(engine) as read, images_embedded(engine) as embedded:
        said = reply(engine, first, [image()], choose=saying(engine, "a red cat<|im_end|>"))
        asked = engine.conversation(first, [image()])
        assert read == [len(asked.ids), *[1] * len(said.ids)]
        second = messages("<image>\nWhat is it?", said.text, "Is it round?")
        read.clear()
        reply(engine, second, [image()], choose=saying(engine, "no<|im_end|>"))
    new = engine.conversation(second, [image()])
    assert read[0] == len(new.ids) - len(asked.ids) - len(said.ids)
    assert embedded == [SMALL_IMAGE]


def test_a_new_image_is_read_and_an_old_one_is_not(engine):
    reply(engine, messages("<image>\nWhat?"), [image(1)], choose=saying(engine, "a cat<|im_end|>"))
    with tokens_read(engine) as read, images_embedded(engine) as embedded:
        reply(engine, messages("<image>\nWhat?", "a cat", "And <image>?"), [image(1), image(2)])
    assert embedded == [SMALL_IMAGE] and SMALL_IMAGE < read[0] < SMALL_IMAGE + 40


CONTINUATIONS = {
    "next turn": (["<image>\nWhat?", "a cat", "Round?"], [1]),
    "the same again": (["<image>\nWhat?"], [1]),
    "another answer in the history": (["<image>\nWhat?", "a dog", "Round?"], [1]),
    "another image in the history": (["<image>\nWhat?", "a cat", "Round?"], [2]),
    "a smaller image": (["<image>\nWhat?", "a cat", "Round?"], [None]),
    "another question": (["<image>\nWhy?"], [1]),
    "no image": (["What?", "a cat", "Round?"], []),
    "one more image": (["<image>\nWhat?", "a cat", "<image> round?"], [1, 3]),
    "another image before": (["<image> <image>\nWhat?"], [3, 1]),
    "cut in the answer": (["<image>\nWhat?", "a", "Round?"], [1]),
    "text alone": (["Hello"], []),
}


@pytest.mark.parametrize("name", CONTINUATIONS)
def test_an_answer_with_reuse_is_that_of_an_engine_that_read_nothing(engine, name):
    texts, seeds = CONTINUATIONS[name]
    images = [picture(320, 256) if seed is None else image(seed) for seed in seeds]
    long = DecodingSettings(max_tokens=16)
    reply(engine, messages("<image>\nWhat?"), [image(1)], choose=saying(engine, "a cat<|im_end|>"))
    with tokens_read(engine) as read:
        answer = reply(engine, messages(*texts), images, long)
    assert answer.ids == fresh(engine, messages(*texts), images, long).ids
    again = reply(engine, messages(*texts, answer.text, "And then?"), images, long)
    assert again.ids == fresh(engine, messages(*texts, answer.text, "And then?"), images, long).ids
    assert len(answer.ids) == 16 and read


def test_a_changed_image_in_the_history_is_read_again(engine):
    said = saying(engine, "a cat<|im_end|>")
    reply(engine, messages("<image>\nWhat?"), [image(1)], choose=said)
    asked = messages("<image>\nWhat?", "a cat", "Round?")
    with tokens_read(engine) as read:
        reply(engine, asked, [image(2)])
    before = engine.conversation(asked, [image(2)]).ids.tolist().index(engine.tokenizer.ids["<IMG_CONTEXT>"])
    assert read[0] == len(engine.conversation(asked, [image(2)]).ids) - before


def test_another_system_message_is_read_anew(engine):
    brief, long = ([Message("system", f"Be {how}."), *messages("What?")] for how in ("brief", "long"))
    reply(engine, brief)
    with tokens_read(engine) as read:
        reply(engine, long)
    before, after = (engine.conversation(asked).ids.tolist() for asked in (brief, long))
    shared = next(index for index, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    assert read[0] == len(after) - shared > len(messages("What?"))


def test_the_same_question_again_reads_one_token(engine):
    first = reply(engine, "What?")
    with tokens_read(engine) as read:
        assert reply(engine, "What?").ids == first.ids
    assert set(read) == {1}


def test_two_conversations_in_turns(engine):
    cat, dog = messages("<image> a cat?"), messages("a dog, not a cat?")
    expected = [fresh(engine, cat, [image(1)]).ids, fresh(engine, dog).ids]
    for _ in range(2):
        assert [reply(engine, cat, [image(1)]).ids, reply(engine, dog).ids] == expected


def test_two_answers_at_once(engine):
    cat, dog = messages("<image> a cat?"), messages("a dog, not a cat?")
    expected = [fresh(engine, cat, [image(1)]).ids, fresh(engine, dog).ids]
    reply(engine, cat, [image(1)])
    running = [engine.understand(cat, [image(1)], settings=FEW), engine.understand(dog, (), settings=FEW)]
    *_, last = zip(*running, strict=True)
    assert [answer.ids for answer in last] == expected
    assert reply(engine, dog).ids == expected[1]


def test_an_answer_given_up_leaves_nothing_behind(engine):
    asked = messages("What is it?")
    expected = fresh(engine, asked).ids
    reply(engine, "another question")
    for stop in (1, 5):
        abandoned = engine.understand(asked, (), settings=FEW)
        for _ in range(stop):
            next(abandoned)
        del abandoned
        assert engine.remembered.conversation is None
        assert reply(engine, asked).ids == expected


def test_release_forgets_the_conversation(engine):
    expected = reply(engine, "What?").ids
    engine.release()
    assert engine.remembered.conversation is None
    assert reply(engine, "What?").ids == expected


def test_pictures_between_turns_disturb_nothing(engine):
    expected = fresh(engine, messages("What?", "a cat", "Round?")).ids
    reply(engine, messages("What?"), choose=saying(engine, "a cat<|im_end|>"))
    list(engine.sample(engine.encode("a cat"), width=64, height=64, steps=1))
    assert reply(engine, messages("What?", "a cat", "Round?")).ids == expected


def test_a_long_conversation_grows_its_buffers(engine):
    """Past several blocks; every answer is that of an engine that read nothing."""
    texts = ["word " * 100]
    for _ in range(3):
        answer = reply(engine, messages(*texts))
        assert answer.ids == fresh(engine, messages(*texts)).ids
        texts += [answer.text, "more " * 150]
    assert engine.remembered.conversation[1].room > 1024


def test_the_context_ends_the_answer(copy_of):
    engine = sensenova_core.load(copy_of(config=lambda raw: raw["llm_config"].update(max_position_embeddings=60)))
    asked = engine.conversation("What is it?")
    answer = reply(engine, asked, settings=DecodingSettings(max_tokens=500), choose=saying(engine, "x" * 500))
    assert answer.ended == "context" and 20 < len(answer.ids) <= 60 - len(asked.ids)
    with pytest.raises(PromptError, match=r"tokens, .* over the model's 60; shorten it"):
        engine.understand(messages("What is it?", "x " * 60, "Why?"))


def test_a_reading_made_ready_before(engine):
    asked = engine.conversation("What is it?", [image()], max_pixels=20_000)
    assert asked.images[0].grid.tokens < 20
    assert reply(engine, asked).ids == reply(engine, asked).ids
