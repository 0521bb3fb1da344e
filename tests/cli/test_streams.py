"""Readers of what is printed that go away, and Ctrl-C: nothing that is drawn is lost, and nobody sees a traceback."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from sensenova_core import Engine
from sensenova_core.cli import main
from tests.support.golden_set import checkpoint

ROOT = Path(__file__).parents[2]
COMMAND = f"{sys.executable} -m sensenova_core"
DRAW = "generate --model demo --width 64 --height 64 --num-steps"
WRITE = "interleave --model demo --width 64 --height 64 --num-steps 2 --max-tokens 40 --prompt a"


def shell(line: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    "streams", ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full", "2> >(true)", "> >(true) 2> >(true)"]
)
def test_a_picture_is_drawn_whatever_becomes_of_the_streams(tmp_path, streams):
    done = shell(f"{COMMAND} {DRAW} 3 --output {tmp_path}/x.png {streams}")
    assert done.returncode == 0, done.stderr
    Image.open(tmp_path / "x.png").load()


def test_a_document_is_saved_without_a_reader(tmp_path):
    done = shell(f"{COMMAND} {WRITE} --output {tmp_path} > >(head -c 1 >/dev/null) 2> >(true)")
    assert done.returncode == 0 and (tmp_path / "document_00001/document.md").is_file()


@pytest.mark.parametrize("command", ["inspect --model demo --show-groups all", "plan --model demo", "generate --help"])
def test_a_listing_whose_reader_has_had_enough_is_no_error(command):
    done = shell(f"{COMMAND} {command} | head -1; echo status ${{PIPESTATUS[0]}}")
    assert done.stdout.endswith("status 0\n") and done.stdout.count("\n") == 2 and done.stderr == ""


def test_what_a_full_disk_takes_of_a_listing_is_said():
    done = shell(f"{COMMAND} inspect --model demo > /dev/full")
    assert done.returncode == 1 and done.stderr == "sensenova: error: standard output: No space left on device\n"


@pytest.mark.parametrize("moment", ["importing", "drawing"])
@pytest.mark.parametrize("command", [f"{DRAW} 400 --output OUT", f"{WRITE} --output OUT", "chat --model demo"])
def test_an_interruption_ends_with_130_and_without_a_traceback(tmp_path, command, moment):
    words = [sys.executable, "-m", "sensenova_core", *command.replace("OUT", str(tmp_path)).split()]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
    time.sleep(0.7) if moment == "importing" else _wait_for_output(process, "chat" in command)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # the impatient
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in error, error
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    for path in tmp_path.rglob("*.png"):
        Image.open(path).load()


def _wait_for_output(process: subprocess.Popen, chats: bool) -> None:
    seen, wanted = b"", b"> " if chats else b"step"
    stream = process.stdout if chats else process.stderr
    while wanted not in seen:
        read = os.read(stream.fileno(), 4096)
        assert read, "it ended"
        seen += read


def test_an_interruption_saves_the_document_so_far(tmp_path, monkeypatch, capsys):
    interleave = Engine.interleave

    def interrupted(self, *args, **kwargs):
        for index, event in enumerate(interleave(self, *args, **kwargs)):
            if index == 5:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(Engine, "interleave", interrupted)
    arguments = ["interleave", "--model", str(checkpoint("tiny-u15")), "--prompt", "a", "--output", str(tmp_path)]
    assert main([*arguments, "--width", "64", "--height", "64", "--num-steps", "2"]) == 130
    assert (tmp_path / "document_00001/document.md").is_file() and "[ended: interrupted]" in capsys.readouterr().err


def test_an_interruption_before_the_first_word_saves_nothing(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Engine, "interleave", interrupted)
    arguments = ["interleave", "--model", str(checkpoint("tiny-u15")), "--prompt", "a", "--output", str(tmp_path)]
    assert main([*arguments, "--width", "64", "--height", "64"]) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", ["", "/help\n", "/help\n/quit\n", "hello\n"])
def test_the_end_of_input_ends_a_conversation_on_a_line_of_its_own(monkeypatch, capsys, typed):
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["chat", "--model", str(checkpoint("tiny-u15")), "--max-tokens", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("> " if "/quit" in typed else "> \n")
    assert len(re.findall("Ctrl-C ends an answer; where none", shown)) == 1 + typed.count("/help")


def test_an_interruption_at_the_prompt_ends_the_conversation(monkeypatch):
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert main(["chat", "--model", str(checkpoint("tiny-u15"))]) == 130
