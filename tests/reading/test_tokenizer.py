"""Text -> ids: user text never becomes structure, and every form of the tokenizer's files reads the same."""

import json

import pytest

import sensenova_core
from sensenova_core import CheckpointError, PromptError
from sensenova_core.reading.prompt import system_message
from sensenova_core.reading.tokenizer import SPECIALS, Special, Tokenizer, markup
from tests.conftest import edit_json
from tests.support.each import each
from tests.support.golden_set import cases, checkpoint

TEXTS = [
    "A watercolor painting of a red lighthouse on a rocky coast at sunset.",
    "一只橘色的猫坐在窗台上，窗外下着小雨。",
    "first line\n  second line, indented\n\n\nfourth\tline \n",
    "mixed 中文 and English, 1234 numbers, it's, naïve, 🙂",
    "",
    " ",
]
STRUCTURAL = ("<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(checkpoint("tiny-u15"))


@pytest.fixture
def encode(engines):
    """Prompt -> ids of the whole conditioned sequence."""
    return lambda prompt: engines("tiny-u15").encode(prompt).sequences["condition"].ids.tolist()


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_slow_files_give_the_same_ids(tokenizer, copy_of, text):
    folder = copy_of()
    (folder / "tokenizer.json").unlink()
    slow = Tokenizer(folder)
    pieces = [*markup("<|im_start|>user\n"), text, *markup("<|im_end|>\n<think>\n\n</think>\n\n<img>")]
    assert slow.encode(pieces) == tokenizer.encode(pieces)
    assert slow.ids == tokenizer.ids


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode([text])) == text


def test_special_ids_are_the_checkpoints(tokenizer):
    added = json.loads((checkpoint("tiny-u15") / "added_tokens.json").read_text(encoding="utf-8"))
    assert tokenizer.ids == {name: added[name] for name in SPECIALS}
    assert tokenizer.encode(Special(name) for name in SPECIALS) == [added[name] for name in SPECIALS]


@each("spelled", STRUCTURAL)
@each("prompt", ["{}", "a {} b", "x{}", "{0}{0}", "猫{}\n"])
def test_spelled_specials_are_plain_text(engines, encode, spelled, prompt):
    """A user's text may spell a special token; it must not become one, or positions and turns would break."""
    ids = engines("tiny-u15").tokenizer.ids
    without = encode("a plain prompt")
    with_it = encode(prompt.format(spelled))
    for name in STRUCTURAL:
        assert with_it.count(ids[name]) == without.count(ids[name]), name


@pytest.mark.parametrize("name", ["tokenizer.json", "slow files"])
def test_spelled_specials_are_read_letter_by_letter(copy_of, name):
    folder = copy_of()
    if name == "slow files":
        (folder / "tokenizer.json").unlink()
    tokenizer = Tokenizer(folder)
    ids = tokenizer.encode(["a <|im_end|> b"])
    assert tokenizer.ids["<|im_end|>"] not in ids
    assert tokenizer.decode(ids) == "a <|im_end|> b"


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_line_ends_are_the_same_prompt(encode, ends):
    assert encode(f"one{ends}two{ends}{ends}three") == encode("one\ntwo\n\nthree")


def test_a_placeholder_without_an_image_is_refused(engines):
    with pytest.raises(PromptError, match=r"2 more <image> than there are images.*remove"):
        engines("tiny-u15").encode("make <image> look like <image>")


def test_a_prompt_over_the_context_says_by_how_much(copy_of):
    engine = sensenova_core.load(copy_of(config=lambda raw: raw["llm_config"].update(max_position_embeddings=800)))
    fitting = len(engine.encode("").sequences["condition"].ids)
    engine.encode("你" * 5)
    with pytest.raises(PromptError) as refused:
        engine.encode("x" * 10_000)
    whole = fitting + len(engine.tokenizer.encode(["x" * 10_000]))
    assert f"{whole:,} tokens, {whole - 800:,} over" in str(refused.value) and "shorten" in str(refused.value)


@pytest.mark.parametrize("prompt", ["half \ud83d of a character", "\udfff", "one\r\n\r\n\ud83d"])
def test_half_a_character_is_refused(engines, prompt):
    """Its place is counted in the text as it was given."""
    place = next(index for index, letter in enumerate(prompt) if "\ud800" <= letter <= "\udfff")
    engine = engines("tiny-u15")
    for name, refuse in {
        "the prompt": lambda: engine.encode(prompt),
        "the reasoning": lambda: engine.encode("a cat", think_text=prompt),
        "the system message": lambda: engine.prompts.document("a cat", (), system=prompt, think=False),
    }.items():
        with pytest.raises(PromptError, match=rf"{name} holds .*not Unicode.*ud.*after {place} others\); remove"):
            refuse()
    with pytest.raises(PromptError, match=f"after {place} others"):
        engine.conversation(prompt)


@pytest.mark.parametrize("prompt", [None, 3, b"bytes", ["a list"]])
def test_what_is_not_text_is_refused(engines, prompt):
    with pytest.raises(PromptError, match="give text"):
        engines("tiny-u15").encode(prompt)


def test_system_message_is_the_trained_one():
    case = next(case for case in cases("t2i") if not case["params"]["think_mode"])
    start = case["queries"]["cond"].removeprefix("<|im_start|>system\n")
    assert start.startswith(system_message("GEN") + "<|im_end|>\n")


def test_no_tokenizer(copy_of):
    folder = copy_of()
    (folder / "tokenizer.json").unlink()
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer; it needs tokenizer\.json, or vocab\.json, merges\.txt"):
        sensenova_core.load(folder)


def test_broken_tokenizer(copy_of):
    folder = copy_of()
    (folder / "tokenizer.json").write_text('{"version": "1.0"', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not readable.*fetch the file again"):
        sensenova_core.load(folder)


def test_tokenizer_of_another_model(copy_of):
    folder = copy_of()

    def rename(content):
        for token in content["added_tokens"]:
            if token["content"] in ("<img>", "</img>"):
                token["content"] = token["content"].replace("img", "picture")

    edit_json(folder / "tokenizer.json", rename)
    with pytest.raises(CheckpointError, match=r"lacks <img>, </img>; it is another model's"):
        sensenova_core.load(folder)
