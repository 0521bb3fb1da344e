"""What conversations and documents become: turns, images in their places, plain text, and what is refused."""

import pytest

from sensenova_core import PromptError
from sensenova_core.reading.prompt import Message, system_message
from tests.support.each import each
from tests.support.pictures import picture

STRUCTURAL = ("<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>")


@pytest.fixture
def engine(engines):
    return engines("tiny-u15")


def spelled(engine, sequence) -> str:
    """A sequence as text, specials included, with images as <img></img>."""
    slot = engine.tokenizer.ids["<IMG_CONTEXT>"]
    ids = [token for token in sequence.ids.tolist() if token != slot]
    return engine.tokenizer._backend.decode(ids, skip_special_tokens=False)


def images(count: int):
    return [picture(64, 64, seed) for seed in range(count)]


def document(engine, prompt: str, count: int = 0, system: str = "", think: bool = False) -> tuple[str, str]:
    """Both branches."""
    given = engine.encode("", images(count)).images
    return tuple(
        spelled(engine, sequence) for sequence in engine.prompts.document(prompt, given, system=system, think=think)
    )


USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"
IMAGE = "<img></img>"


@pytest.mark.parametrize(
    "texts, count, expected",
    [
        (["hi"], 0, f"{USER}hi{END}{ASSISTANT}"),
        ([""], 0, f"{USER}{END}{ASSISTANT}"),
        (["what?"], 1, f"{USER}{IMAGE}\nwhat?{END}{ASSISTANT}"),
        (["what?"], 2, f"{USER}{IMAGE}\n{IMAGE}\nwhat?{END}{ASSISTANT}"),
        (["is <image> a cat?"], 1, f"{USER}is {IMAGE} a cat?{END}{ASSISTANT}"),
        (["<image> what?"], 2, f"{USER}{IMAGE}\n{IMAGE} what?{END}{ASSISTANT}"),
        (["<image>a", "b", "<image>c"], 2, f"{USER}{IMAGE}a{END}{ASSISTANT}b{END}{USER}{IMAGE}c{END}{ASSISTANT}"),
        (["a", "b", "c"], 1, f"{USER}a{END}{ASSISTANT}b{END}{USER}{IMAGE}\nc{END}{ASSISTANT}"),
        (["a\r\nb"], 0, f"{USER}a\nb{END}{ASSISTANT}"),
    ],
)
def test_conversations(engine, texts, count, expected):
    turns = [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts)]
    sequence = engine.conversation(turns, images(count))
    assert spelled(engine, sequence) == expected and len(sequence.images) == count


def test_a_system_message_comes_first_and_an_empty_one_not_at_all(engine):
    turns = [Message("user", "hi")]
    without = spelled(engine, engine.conversation(turns))
    assert spelled(engine, engine.conversation([Message("system", ""), *turns])) == without
    with_one = spelled(engine, engine.conversation([Message("system", "Be brief."), *turns]))
    assert with_one == f"<|im_start|>system\nBe brief.{END}{without}"


def test_images_are_filled_in_the_order_they_are_given(engine):
    given = images(3)
    turns = [Message("user", "<image>"), Message("assistant", "a"), Message("user", "<image> and <image>")]
    keys = [image.key for image in engine.conversation(turns, given).images]
    assert keys == [engine.conversation("x", [image]).images[0].key for image in given]


def test_a_placeholder_in_an_answer_is_plain_text(engine):
    turns = [Message("user", "<image> what?"), Message("assistant", "an <image>"), Message("user", "and?")]
    sequence = engine.conversation(turns, images(1))
    assert f"{ASSISTANT}an <image>{END}" in spelled(engine, sequence) and len(sequence.images) == 1


@each("special", STRUCTURAL)
@each(
    "role",
    [
        "user",
        "assistant",
        "system",
    ],
)
def test_spelled_specials_in_a_conversation_are_plain_text(engine, role, special):
    def ids(text):
        turns = [Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "q")]
        turns = [Message(turn.role, text if turn.role == role else turn.text) for turn in turns]
        return engine.conversation(turns).ids.tolist()

    token = engine.tokenizer.ids[special]
    assert ids(f"x {special} y").count(token) == ids("x y").count(token)


@pytest.mark.parametrize("turns", [[], [("user", "a"), ("assistant", "b")], [("system", "a")]], ids=str)
def test_a_conversation_ends_with_the_user(engine, turns):
    with pytest.raises(PromptError, match=r"does not end with a user's message; add the question"):
        engine.conversation([Message(*turn) for turn in turns])


@pytest.mark.parametrize("role", ["tool", "User", ""])
def test_a_role_that_is_none_is_refused(engine, role):
    with pytest.raises(PromptError, match=rf"role is '{role}'; use system, user or assistant"):
        engine.conversation([Message(role, "a"), Message("user", "b")])


@pytest.mark.parametrize("text", [None, 3, ["a"]])
def test_what_is_not_text_is_refused(engine, text):
    with pytest.raises(PromptError, match="give text"):
        engine.conversation([Message("user", text)])
    with pytest.raises(PromptError, match="give text"):
        engine.interleave(text)


def test_more_placeholders_than_images(engine):
    message = r"1 more <image> than there are images.*remove a placeholder or add an image"
    with pytest.raises(PromptError, match=message):
        engine.conversation("<image> <image>", images(1))
    with pytest.raises(PromptError, match=message):
        turns = [Message("user", "<image>"), Message("assistant", "a"), Message("user", "<image>")]
        engine.understand(turns, images(1))
    with pytest.raises(PromptError, match=message):
        engine.interleave("a <image>")


OPENING = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    "prompt, count, think, full, images_only",
    [
        ("go", 0, False, f"{USER}go{END}{ASSISTANT}{OPENING}", f"{USER}{END}{ASSISTANT}"),
        ("go", 0, True, f"{USER}go{END}{ASSISTANT}", f"{USER}{END}{ASSISTANT}"),
        ("go", 2, True, f"{USER}{IMAGE}\n{IMAGE}\ngo{END}{ASSISTANT}", f"{USER}{IMAGE}{IMAGE}{END}{ASSISTANT}"),
        ("a <image> b", 1, True, f"{USER}a {IMAGE} b{END}{ASSISTANT}", f"{USER}{IMAGE}{END}{ASSISTANT}"),
        ("", 0, True, f"{USER}{END}{ASSISTANT}", f"{USER}{END}{ASSISTANT}"),
    ],
)
def test_documents(engine, prompt, count, think, full, images_only):
    assert document(engine, prompt, count, think=think) == (full, images_only)


def test_the_system_message_of_a_document(engine):
    full, alone = document(engine, "go", system="Draw a lot.", think=True)
    assert full == f"<|im_start|>system\nDraw a lot.{END}{USER}go{END}{ASSISTANT}" and "system" not in alone
    assert system_message("INTERLEAVE").startswith("You are a multimodal assistant")


@each("special", STRUCTURAL)
@each("where", ["prompt", "system"])
def test_spelled_specials_in_a_document_are_plain_text(engine, where, special):
    def ids(text):
        prompt, system = (text, "s") if where == "prompt" else ("p", text)
        return engine.prompts.document(prompt, (), system=system, think=True)[0].ids.tolist()

    token = engine.tokenizer.ids[special]
    assert ids(f"x {special} y").count(token) == ids("x y").count(token)
