"""The command line beyond drawing from text: edits, thinking, questions, conversations, documents."""

import gc
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

import sensenova_core
from sensenova_core import Engine, SettingsError
from sensenova_core.cli import generate, main
from sensenova_core.reading.images import ReferenceImage
from sensenova_core.settings import DecodingSettings
from tests.support.golden_set import checkpoint
from tests.support.watch import thought_through

SMALL = ["--width", "64", "--height", "64", "--num-steps", "2"]


@pytest.fixture
def model() -> str:
    return str(checkpoint("tiny-u15"))


@pytest.fixture
def photo(tmp_path) -> str:
    pixels = np.linspace(0, 255, 90 * 70 * 3).reshape(70, 90, 3).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def drawn(model: str, output, *arguments: str) -> Image.Image:
    assert main(["generate", "--model", model, "--num-steps", "2", "--output", str(output), *arguments]) == 0
    return Image.open(output)


def test_an_edit_equals_the_engine_s(model, photo, tmp_path):
    picture = drawn(model, tmp_path / "e.png", *SMALL, "--prompt", "blue", "--image", photo, "--img-cfg-scale", "2")
    engine = sensenova_core.load(model)
    conditioning = engine.encode("blue", [Image.open(photo)])
    *_, last = engine.sample(conditioning, width=64, height=64, steps=2, img_cfg=2.0)
    assert np.array_equal(np.asarray(picture), (last.image()[0].numpy() * 255).round())


def test_the_size_of_an_edit(model, photo, tmp_path):
    assert drawn(model, tmp_path / "s.png", "--image", photo, "--same-size").size == (90, 70)
    with pytest.raises(SystemExit):
        main(["generate", "--model", model, "--image"])
    assert main(["generate", "--model", model, "--image", photo, "--width", "64"]) == 1


def test_a_size_and_same_size_exclude_each_other(model, photo, tmp_path, capsys):
    arguments = ["generate", "--model", model, "--same-size"]
    assert main([*arguments, "--image", photo, *SMALL]) == 1
    assert "--same-size is the first image's size, and 64 x 64 is another" in capsys.readouterr().err
    lines = tmp_path / "edits.jsonl"
    lines.write_text(json.dumps({"prompt": "blue", "image": photo, "width": 64}))
    assert main([*arguments, "--jsonl", str(lines)]) == 1
    assert "line 1: --same-size is the first image's size, and width 64 is another" in capsys.readouterr().err


def test_a_size_is_cropped(model, tmp_path):
    assert drawn(model, tmp_path / "c.png", "--width", "70", "--height", "50", "--crop").size == (70, 50)


def test_thinking_is_printed_and_kept(model, tmp_path, capsys):
    picture = drawn(model, tmp_path / "t.png", *SMALL, "--think", "--print-think", "--max-think-tokens", "6")
    engine = sensenova_core.load(model)
    thought = thought_through(engine.think(engine.encode("A cute cat"), DecodingSettings(6))).think_text
    assert json.loads(picture.text["sensenova"])["think_text"] == thought
    assert thought.strip()[:4] in capsys.readouterr().out


def test_a_repeated_seed_and_size_warns(model, tmp_path, caplog):
    drawn(model, tmp_path / "a.png", *SMALL, "--seed", "5")
    arguments = [*SMALL, "--image", str(tmp_path / "a.png"), "--seed"]
    drawn(model, tmp_path / "b.png", *arguments, "6")
    assert "WARNING" not in caplog.text
    drawn(model, tmp_path / "b.png", *arguments, "5")
    assert "seed 5 at 64x64 also drew the image" in caplog.text


@pytest.mark.parametrize("modality", ["img2text", "text2text"])
def test_text_modalities_answer(model, photo, capsys, modality):
    images = ["--image", photo] if modality == "img2text" else []
    arguments = ["generate", "--model", model, "--modality", modality, "--prompt", "what?", *images]
    assert main([*arguments, "--max-tokens", "5"]) == 0
    engine = sensenova_core.load(model)
    *_, answer = engine.understand("what?", [Image.open(photo)] if images else [], settings=DecodingSettings(5))
    printed = capsys.readouterr()
    assert printed.out.strip() == answer.text
    assert ("cut at 5 tokens" in printed.err) == (answer.ended == "cut")


def test_a_conversation_goes_on_until_an_empty_line(model, photo, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"hello\n/image {photo}\nwhat is it?\n\nnever asked\n"))
    assert main(["chat", "--model", model, "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.count("> ") == 4


def converse(model: str, monkeypatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert main(["chat", "--model", model, "--max-tokens", "3"]) == 0


@pytest.fixture
def asked(monkeypatch) -> list:
    """The conversations that models are asked to answer."""
    found, understand = [], Engine.understand
    monkeypatch.setattr(Engine, "understand", lambda *args, **kw: found.append(args[1]) or understand(*args, **kw))
    return found


def test_commands_of_a_conversation_are_not_sent_to_the_model(model, capsys, monkeypatch, asked):
    converse(model, monkeypatch, "/help", "/image", "/imagine", "/etc/passwd is what?", "/quit", "never asked")
    printed = capsys.readouterr()
    assert len(asked) == 1 and printed.out.count("adds a picture to the next question") == 2
    assert "/image needs the name of a picture file" in printed.err
    assert "/imagine is unknown; /help shows all commands" in printed.err


def test_a_picture_that_cannot_be_shown_does_not_stay(model, photo, tmp_path, capsys, monkeypatch, asked):
    Image.new("L", (1, 300)).save(tmp_path / "long.png")
    pictures = [f"/image {photo}"] * 11
    converse(model, monkeypatch, f"/image {tmp_path}/long.png", *pictures, "what?", "and?")
    error = capsys.readouterr().err
    assert "long.png of 1x300 is more than 200 times" in error and "11 images; give at most 10" in error
    assert [len(conversation.images) for conversation in asked] == [10, 10]


def test_a_mistake_in_a_line_does_not_end_the_conversation(model, capsys, monkeypatch, asked):
    conversation = Engine.conversation

    def fail_once(self, messages, *args):
        if messages[-1].text == "wrong":
            raise SettingsError(setting="max_pixels", value=0, remedy="give more")
        return conversation(self, messages, *args)

    monkeypatch.setattr(Engine, "conversation", fail_once)
    converse(model, monkeypatch, "wrong", "<image>", "right")
    error = capsys.readouterr().err
    assert len(asked) == 1 and "--max-pixels is 0" in error and "names 1 more <image>" in error


@pytest.mark.parametrize("said", [0, 1], ids=["before the answer", "in the answer"])
def test_an_interruption_ends_the_answer_and_not_the_conversation(model, capsys, monkeypatch, said):
    asked, understand = [], Engine.understand

    def interrupted_once(self, conversation, **kw):
        asked.append(self.tokenizer.decode(conversation.ids.tolist()))
        for index, answer in enumerate(understand(self, conversation, **kw)):
            if len(asked) == 1 and index == said:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(Engine, "understand", interrupted_once)
    converse(model, monkeypatch, "first", "second")
    assert len(asked) == 2 and ("first" in asked[1]) == bool(said)
    assert "[interrupted]" in capsys.readouterr().err


def test_one_question_ends_with_its_interruption(model, monkeypatch):
    def interrupted(*args, **kw):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "understand", interrupted)
    assert main(["chat", "--model", model, "--prompt", "a"]) == 130


def profiled(capsys, *arguments: str) -> dict[str, str]:
    """The rows of the profile of a command."""
    assert main([*arguments, "--profile"]) == 0
    summary = capsys.readouterr().out.split("Profile summary")[1]
    return dict(re.split(r"\s+: ", line, maxsplit=1) for line in summary.splitlines() if " : " in line)


IMAGE_ROWS = {"avg per image", "image tokens", "throughput", "drawing"}


def test_the_profile_of_an_answer_is_of_text(model, capsys):
    rows = profiled(capsys, "chat", "--model", model, "--prompt", "a", "--max-tokens", "4")
    assert not IMAGE_ROWS & rows.keys() and "thinking" not in rows
    assert re.match(r"[1-4] \(", rows["text tokens"]) and "writing" in rows
    assert "image" not in rows["generations"]


def test_the_profile_of_a_picture_has_no_text(model, tmp_path, capsys):
    rows = profiled(capsys, "generate", "--model", model, *SMALL, "--output", str(tmp_path))
    assert rows.keys() >= IMAGE_ROWS and not {"writing", "text tokens"} & rows.keys()


def test_the_profile_of_reasoning_counts_its_tokens(model, tmp_path, capsys):
    thinking = ["--think", "--max-think-tokens", "3", "--output", str(tmp_path)]
    rows = profiled(capsys, "generate", "--model", model, *SMALL, *thinking)
    assert rows["text tokens"].startswith("3 (") and {"writing", "drawing"} <= rows.keys()


def test_the_profile_of_a_document_counts_its_text(model, tmp_path, capsys):
    arguments = ["interleave", "--model", model, "--prompt", "a", *SMALL, "--max-tokens", "12"]
    rows = profiled(capsys, *arguments, "--output", str(tmp_path))
    assert rows["text tokens"].startswith("12 (") and "writing" in rows


def many_edits(tmp_path, *names: str) -> list[str]:
    file = tmp_path / "edits.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": "blue", "image": str(tmp_path / name)}) for name in names))
    return ["--jsonl", str(file), *SMALL, "--output", str(tmp_path / "out")]


def test_the_images_of_a_line_are_let_go_when_its_picture_is_drawn(model, photo, tmp_path, monkeypatch):
    held, save = [], generate.save

    def count(*args, **kw):
        held.append(sum(type(thing) is ReferenceImage for thing in gc.get_objects()))
        return save(*args, **kw)

    monkeypatch.setattr(generate, "save", count)
    assert main(["generate", "--model", model, *many_edits(tmp_path, *["photo.png"] * 3)]) == 0
    assert held == [0, 0, 0] and len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: Image.new("L", (1, 300)).save(path), "bad.png of 1x300 is more than 200 times"),
        (lambda path: path.write_bytes(path.with_name("photo.png").read_bytes()[:200]), "bad.png: "),
    ],
    ids=["ratio", "truncated"],
)
def test_a_line_s_bad_image_is_named_before_anything_is_drawn(model, photo, tmp_path, capsys, make, message):
    make(tmp_path / "bad.png")
    assert main(["generate", "--model", model, *many_edits(tmp_path, "photo.png", "bad.png")]) == 1
    error = capsys.readouterr().err
    assert "edits.jsonl, line 2: image " in error and message in error
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_gone_when_its_turn_comes(model, photo, tmp_path, capsys, monkeypatch):
    save = generate.save
    monkeypatch.setattr(generate, "save", lambda *args, **kw: os.unlink(photo) or save(*args, **kw))
    assert main(["generate", "--model", model, *many_edits(tmp_path, "photo.png", "photo.png")]) == 1
    assert f"edits.jsonl, line 2: image {photo}: " in capsys.readouterr().err


def test_a_document_is_saved_with_its_pictures(model, tmp_path, capsys):
    arguments = ["interleave", "--model", model, "--prompt", "a story", *SMALL, "--max-tokens", "12"]
    assert main([*arguments, "--format", "html", "--output", str(tmp_path), "--stem", "story"]) == 0
    assert main([*arguments, "--output", str(tmp_path), "--stem", "story"]) == 0
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("document.*")) == [
        "story_00001/document.html",
        "story_00002/document.md",
    ]
    assert "ended: --max-tokens reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--modality", "img2img"], "--modality img2img needs --image"),
        (["generate", "--modality", "text2img", "--image", "PHOTO"], "--modality text2img takes no --image"),
        (["generate", "--modality", "img2text"], "--modality img2text needs --image"),
        (["generate", "--modality", "text2text", "--image", "PHOTO"], "--modality text2text takes no --image"),
        (["generate", "--image", "/nowhere.png"], "image /nowhere.png: "),
        (
            ["generate", "--image", "LONG"],
            "long.png of 1x300 is more than 200 times as long as wide; crop it",
        ),
        (["generate", "--image", *["PHOTO"] * 11], "11 images; give at most 10"),
        (["chat", "--prompt", "a", "--image", "PHOTO", "LONG"], "long.png of 1x300 is more than 200 times"),
        (["chat", "--max-tokens", "0"], "--max-tokens is 0; give a whole number from 1"),
        (["chat", "--max-pixels", "0"], "--max-pixels is 0; give a whole number from 1"),
        (["generate", *SMALL, "--image", "PHOTO", "--cfg-norm", "cfg_zero_star"], "is for text to image only"),
        (
            ["generate", *SMALL, "--image", "PHOTO", "--prompt", "<image> <image>"],
            "1 more <image> than there are images",
        ),
        (
            ["generate", *SMALL, "--think", "--top-p", "2", "--do-sample"],
            "--top-p is 2.0; give a number over 0 and up to 1",
        ),
        (["chat", "--prompt", "a", "--temperature", "0"], "--temperature is 0.0; give a number from 0.0001"),
        (
            ["interleave", "--prompt", "a", "--resolution", "5:7"],
            "--resolution '5:7' is unknown; choose one of 1:1, 16:9",
        ),
        (["interleave", "--prompt", "a", "--resolution", "1:1", "--width", "64"], "exclude each other"),
        (["interleave", "--prompt", "a", "--width", "70", "--height", "64"], "such as 64\n"),
        (["interleave", "--prompt", "a", "--width", "64"], "--width and --height go together"),
        (["interleave", "--prompt", "a", "--max-images", "-1"], "--max-images is -1"),
    ],
)
def test_a_user_s_mistake_is_one_line_that_names_value_and_remedy(
    model, photo, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (1, 300)).save(tmp_path / "long.png")
    named = {"PHOTO": photo, "LONG": str(tmp_path / "long.png")}
    arguments = [named.get(argument, argument) for argument in arguments]
    assert main([*arguments, "--model", model]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sensenova: error: ") and message in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.png", "photo.png"]
