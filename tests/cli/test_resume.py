"""`generate --jsonl --resume`: what is drawn is not drawn again, however the run before it ended."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sensenova_core.cli import generate, main
from sensenova_core.cli.record import RECORD
from tests.support.golden_set import checkpoint
from tests.support.resumed import REPOSITORY, drawn_with_kills

MODEL = str(checkpoint("tiny-u15"))
LINES = [{"prompt": "a"}, {"prompt": "b", "seed": 7}, {"prompt": "a"}, {"prompt": "c", "batch_size": 2}]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """(lines, options) -> how many pictures that drew."""
    saved, save = [], generate.save
    file = tmp_path / "lines.jsonl"

    def counted(*args, **kw):
        before = len(list((tmp_path / "out").glob("*.png")))
        paths = save(*args, **kw)
        saved.append(len(list((tmp_path / "out").glob("*.png"))) - before)
        return paths

    monkeypatch.setattr(generate, "save", counted)

    def run(*options: str, lines=LINES) -> int:
        saved.clear()
        file.write_text("\n".join(map(json.dumps, lines)))
        small = ["--width", "64", "--height", "64", "--num-steps", "1", "--output", str(tmp_path / "out")]
        assert main(["generate", "--model", MODEL, "--jsonl", str(file), *small, *options]) == 0
        return sum(saved)

    return run


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("*.png"))


def test_only_what_is_missing_is_drawn(draw, tmp_path):
    assert draw("--resume", lines=LINES[:2]) == 2
    assert draw("--resume") == 3
    assert draw("--resume") == draw("--resume", lines=LINES[::-1]) == 0
    assert len((tmp_path / "out" / RECORD).read_text().splitlines()) == 4
    pictures(tmp_path)[1].unlink()
    assert draw("--resume") == 1
    assert draw() == 5  # without it, all


@pytest.mark.parametrize("options", ["--seed 5", "--cfg-scale 2", "--crop", "--think --max-think-tokens 2"])
def test_other_settings_are_other_pictures(draw, options):
    options = options.split()
    assert draw("--resume", lines=LINES[:1]) == 1
    assert draw("--resume", *options, lines=LINES[:1]) == 1
    assert draw("--resume", *options, lines=LINES[:1]) == 0


def test_another_picture_to_edit_is_another_line(draw, tmp_path):
    line = {"prompt": "a", "image": str(tmp_path / "photo.png")}
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "photo.png")
        assert draw("--resume", lines=[line]) == 1 and draw("--resume", lines=[line]) == 0


@pytest.mark.parametrize("left", ["no record", "half a line", "somebody else's lines"])
def test_pictures_that_did_not_come_into_the_record_are_known(draw, tmp_path, left):
    draw("--resume")
    record = tmp_path / "out" / RECORD
    if left == "no record":
        record.unlink()
    else:
        first = record.read_text().splitlines()[0]
        record.write_text(first + "\n" + ('{"line": "0' if left == "half a line" else '[1]\n{"line": 3}\n"\n'))
    assert draw("--resume") == 0
    assert draw("--resume", lines=[*LINES, {"prompt": "d"}]) == 1
    assert json.loads(record.read_text().splitlines()[-1])["prompt"] == "d"


def test_a_batch_that_was_broken_off_gets_its_other_pictures(draw, tmp_path):
    draw(lines=LINES[3:])
    first, second = pictures(tmp_path)
    before = first.read_bytes()
    second.unlink()
    assert draw("--resume", lines=LINES[3:]) == 1
    assert pictures(tmp_path) == [first, second] and first.read_bytes() == before


def test_a_name_that_another_line_has_by_now(draw, tmp_path):
    draw("--resume", lines=LINES[:2])
    pictures(tmp_path)[0].unlink()
    assert draw("--resume", lines=[{"prompt": "new"}]) == 1  # takes the free name
    assert draw("--resume", lines=LINES[:2]) == 1
    assert len(pictures(tmp_path)) == 3


def test_strange_pictures_in_the_folder_are_let_be(draw, tmp_path):
    (tmp_path / "out").mkdir()
    for name, content in (
        ("sensenova_00001.png", b""),
        ("a.png", b"GIF89a"),
        ("b.png", b"\x89PNG\r\n\x1a\n" + b"x" * 99),
    ):
        (tmp_path / "out" / name).write_bytes(content)
    assert draw("--resume") == 5 and draw("--resume") == 0


def test_resume_needs_lines(capsys):
    assert main(["generate", "--model", MODEL, "--resume"]) == 1
    assert "--resume needs --jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("processes", [1, 2])
def test_each_line_is_drawn_once_through_kills(tmp_path, processes):
    there, wanted, kills = drawn_with_kills(tmp_path, 8, processes, most_kills=2, seed=processes)
    assert there == wanted and kills >= 1


@pytest.mark.parametrize("value", ["true", "null", '"7"', "[1]", "1.5"])
def test_a_seed_is_a_whole_number(tmp_path, capsys, value):
    (tmp_path / "l.jsonl").write_text(f'{{"prompt": "a", "seed": {value}}}')
    assert main(["generate", "--model", MODEL, "--jsonl", str(tmp_path / "l.jsonl")]) == 1
    assert f"line 1: seed is {value.replace(chr(34), chr(39))}; expected int" in capsys.readouterr().err


def test_one_name_by_two_processes_is_one_whole_picture(tmp_path):
    command = [sys.executable, "-m", "sensenova_core", "generate", "--model", "demo", "--num-steps", "1"]
    command += ["--output", str(tmp_path / "x.png"), "--seed"]
    running = [subprocess.Popen([*command, str(seed)], cwd=REPOSITORY) for seed in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    Image.open(tmp_path / "x.png").load()
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("command", [["generate", "--output"], ["interleave", "--prompt", "a", "--stem"]])
@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "file/x"])
def test_a_name_that_cannot_be_is_told_before_anything_is_loaded(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main([*command, name, "--model", "/nowhere"]) == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error and "; give " in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
