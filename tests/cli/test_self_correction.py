"""`generate --self-correct`: every picture saved, critiques printed and kept, lines gone on with."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sensenova_core
from sensenova_core import CorrectionSettings, Engine, SamplingSettings
from sensenova_core.cli import main
from sensenova_core.cli.record import RECORD
from sensenova_core.report.correction import Correction
from sensenova_core.settings import CritiqueSettings
from tests.support.golden_set import checkpoint
from tests.support.pictures import picture
from tests.support.watch import saying

MODEL = str(checkpoint("tiny-u15"))
SMALL = ["--width", "64", "--height", "64", "--num-steps", "2", "--max-critique-tokens", "40"]


@pytest.fixture
def says(monkeypatch):
    """Has models say a text in their self-corrections; what they were asked is in the list."""
    asked, correct = [], Engine.self_correct

    def use(text: str) -> list:
        def said(engine, *args, **kw):
            asked.append((*args, kw))
            return correct(engine, *args, **kw | {"choose": saying(engine, text)})

        monkeypatch.setattr(Engine, "self_correct", said)
        return asked

    return use


def run(output: Path, *arguments: str) -> int:
    return main(["generate", "--model", MODEL, *SMALL, "--output", str(output), *arguments])


def told(path: Path) -> dict:
    return json.loads(Image.open(path).text["sensenova"])


def test_every_picture_is_saved_with_what_was_said(says, tmp_path, capsys):
    says("too red<img>still<img>well<|im_end|>")
    assert run(tmp_path, "--self-correct", "3", "--prompt", "a star") == 0
    printed = capsys.readouterr()
    paths = [Path(line) for line in printed.out.splitlines()]
    assert paths == sorted(tmp_path.glob("*.png")) and len(paths) == 3
    first, second, third = map(told, paths)
    assert (first["round"], second["round"], third["round"]) == (0, 1, 2)
    assert "critique" not in first and (second["critique"], third["critique"]) == ("too red", "still")
    assert "ended" not in second and (third["ended"], third["last_critique"]) == ("end", "well")
    assert {each["prompt"] for each in (first, second, third)} == {"a star"}
    assert printed.err.index("too red") < printed.err.index("still") < printed.err.index("well")


def test_it_equals_the_engine_s(says, tmp_path):
    says("too red<img>well<|im_end|>")
    assert run(tmp_path / "x.png", "--self-correct", "--seed", "7", "--cfg-scale", "3", "--img-cfg-scale", "2") == 0
    engine, correction = sensenova_core.load(MODEL), Correction()
    sampling = SamplingSettings.of(width=64, height=64, steps=2, cfg=3.0, img_cfg=2.0, seed=7)
    settings = CorrectionSettings(sampling, CritiqueSettings(max_tokens=40))
    for event in engine.self_correct("A cute cat", settings=settings):
        correction.add(event)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "x_2.png"]
    for name, expected in zip(("x.png", "x_2.png"), correction.pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), (expected[0].numpy() * 255).round())


def test_what_is_right_is_one_picture(says, tmp_path, capsys):
    says("<|im_end|>")
    assert run(tmp_path / "x.png", "--self-correct", "5") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert told(tmp_path / "x.png")["ended"] == "end" and "[" not in capsys.readouterr().err.split("step/s]")[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a<img>b<img>", "give --self-correct more rounds"), ("a" * 200, "--max-critique-tokens reached")],
)
def test_an_end_that_is_not_the_model_s_is_told(says, tmp_path, capsys, text, words):
    says(text)
    assert run(tmp_path, "--self-correct") == 0
    assert words in capsys.readouterr().err


def test_references(says, tmp_path):
    asked = says("too red<img>well<|im_end|>")
    picture(90, 70).save(tmp_path / "photo.png")
    edit = ["--image", str(tmp_path / "photo.png"), "--max-pixels", "16384", "--prompt", "make it blue"]
    assert run(tmp_path / "out", *edit, "--self-correct") == 0
    [(prompt, images, more)] = asked
    assert (prompt, [image.size for image in images], more["max_pixels"]) == ("make it blue", [(90, 70)], 16384)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_the_profile_counts_all_pictures_and_critiques(says, tmp_path, capsys):
    says("too red<img>well<|im_end|>")
    assert run(tmp_path, "--self-correct", "--profile") == 0
    printed = capsys.readouterr().out
    assert "2 image(s) total" in printed and "text tokens" in printed
    assert "picture 2 of a self-correction" in printed or "weights run where they lie" in printed


@pytest.fixture
def lines(tmp_path):
    """(prompts, options) -> how many pictures that drew with --resume."""

    def draw(*prompts: str, rounds: str = "2") -> int:
        file, out = tmp_path / "lines.jsonl", tmp_path / "out"
        file.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
        before = set(out.glob("*.png"))
        assert run(out, "--jsonl", str(file), "--resume", "--self-correct", rounds) == 0
        return len(set(out.glob("*.png")) - before)

    return draw


def test_lines_are_gone_on_with(says, lines, tmp_path):
    says("wrong<img>right<|im_end|>")
    assert lines("a") == 2
    assert lines("a", "b") == 2
    assert lines("a", "b") == lines("b", "a") == 0
    assert lines("a", rounds="1") == 2  # which other settings might have drawn otherwise
    assert len((tmp_path / "out" / RECORD).read_text().splitlines()) == 3


@pytest.mark.parametrize("record", ["kept", "lost"])
@pytest.mark.parametrize(("gone", "drawn"), [("first", 0), ("last", 1), ("all", 3)])
def test_a_line_is_done_when_its_last_picture_is_there(says, lines, tmp_path, record, gone, drawn):
    """Fewer than the rounds allow: how many there will be is not known before."""
    says("wrong<img>wrong<img>right<|im_end|>")
    assert lines("a", rounds="5") == 3
    pictures = sorted((tmp_path / "out").glob("*.png"))
    kept = pictures[1].read_bytes()
    for path in {"first": pictures[:1], "last": pictures[-1:], "all": pictures}[gone]:
        path.unlink()
    if record == "lost":
        (tmp_path / "out" / RECORD).unlink()
    assert lines("a", rounds="5") == drawn
    assert lines("a", rounds="5") == 0
    assert gone == "all" or pictures[1].read_bytes() == kept


def test_keys_of_lines_are_as_before_without_it(tmp_path, monkeypatch):
    """Else folders that were drawn by an earlier version would be drawn again."""
    from sensenova_core.cli import record

    seen: list = []
    content = record._content
    monkeypatch.setattr(record, "_content", lambda *args: seen.append(content(*args)) or seen[-1])
    (tmp_path / "l.jsonl").write_text('{"prompt": "a"}')
    assert run(tmp_path, "--jsonl", str(tmp_path / "l.jsonl")) == 0
    assert seen[0].keys() == {"prompt", "images", "settings", "max_pixels", "think", "model", "loras"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--self-correct", "0"], "--self-correct is 0; give a whole number from 1"),
        (["--self-correct", "--batch-size", "2"], "--batch-size is 2; a picture that is corrected is drawn alone"),
        (["--self-correct", "--think"], "--self-correct and --think exclude each other"),
        (["--self-correct", "--prompt", " "], "the prompt is empty, and pictures are compared with it"),
        (["--self-correct", "--cfg-norm", "cfg_zero_star"], "cfg_zero_star is for text to image only"),
        (["--self-correct", "--width", "70"], "width is 70; this model draws multiples of 32"),
        (["--self-correct", "--max-critique-tokens", "0"], "--max-critique-tokens is 0; give a whole number from 1"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_contradicts_it_is_refused(tmp_path, capsys, arguments, message):
    assert run(tmp_path / "out", *arguments) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_line_that_contradicts_it_is_named(tmp_path, capsys):
    (tmp_path / "l.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "batch_size": 2}')
    assert run(tmp_path / "out", "--jsonl", str(tmp_path / "l.jsonl"), "--self-correct") == 1
    assert "line 2: batch_size is 2; a picture that is corrected is drawn alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["--modality", "text2text", "--self-correct", "2", "--max-tokens", "2"], "--self-correct"),
        (["--max-critique-tokens", "9"], "--max-critique-tokens: no effect without --self-correct"),
        (["--self-correct", "--max-tokens", "9"], "critiques have --max-critique-tokens"),
        (["--self-correct", "--max-think-tokens", "9"], "--max-think-tokens: no effect without --think"),
        (["--self-correct", "--temperature", "2"], "--temperature: no effect without --do-sample"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_has_no_effect_is_warned_of(says, tmp_path, caplog, arguments, warned):
    says("<|im_end|>")
    assert run(tmp_path, *arguments) == 0
    assert warned in caplog.text


def test_what_it_makes_use_of_is_not_warned_of(says, tmp_path, caplog):
    says("<|im_end|>")
    assert run(tmp_path, "--self-correct", "--do-sample", "--temperature", "2", "--img-cfg-scale", "2") == 0
    assert "no effect" not in caplog.text
