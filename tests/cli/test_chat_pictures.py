"""Pictures in a conversation on the terminal: named after /image, or dropped there; and what is asked without them."""

import io

import pytest
from PIL import Image

from sensenova_core.cli import main
from sensenova_core.cli.chat import Conversation
from sensenova_core.cli.dropped import dropped, named


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Lines -> (question, pictures shown with it) of each that was asked."""
    for name in ("cat.png", "my cat (1).png", "it's.jpg"):
        Image.new("RGB", (64, 48), "red").save(tmp_path / name)

    def converse(*lines: str) -> list[tuple[str, int]]:
        calls = []

        def ask(self, question, interruptible=False):
            calls.append((question, len(self.new)))
            self.new = []

        monkeypatch.setattr(Conversation, "ask", ask)
        text = "\n".join(line.format(folder=tmp_path) for line in lines) + "\n"
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["chat", "--model", "demo", "--max-pixels", "4096"]) == 0
        return calls

    return converse


@pytest.mark.parametrize(
    "line",
    [
        "/image {folder}/my cat (1).png",
        "/image '{folder}/my cat (1).png'",
        "/image {folder}/my\\ cat\\ \\(1\\).png",
        "/image file://{folder}/my%20cat%20(1).png",
        "/image '{folder}/it'\\''s.jpg'",
        '/image "{folder}/it\'s.jpg"',
        "{folder}/my\\ cat\\ \\(1\\).png",
        "'{folder}/my cat (1).png'",
        "{folder}/my cat (1).png",
        "file://{folder}/my%20cat%20(1).png",
        "'{folder}/it'\\''s.jpg'",
    ],
)
def test_a_picture_is_shown_with_the_next_question(asked, line):
    assert asked(line, "what is it?") == [("what is it?", 1)]


@pytest.mark.parametrize(
    "line", ["{folder}/cat.png {folder}/my\\ cat\\ \\(1\\).png", "/image {folder}/cat.png {folder}/it\\'s.jpg"]
)
def test_several_at_once(asked, line):
    assert asked(line, "which?") == [("which?", 2)]


def test_a_question_after_a_dropped_picture(asked):
    assert asked("'{folder}/cat.png' what is it?", "and why?") == [("what is it?", 1), ("and why?", 0)]


@pytest.mark.parametrize(
    "line", ["/image {folder}/gone.png", "/image gone", "{folder}/gone.png", "'~/gone cat.jpeg'", "/image {folder}"]
)
def test_a_picture_that_is_not_found_stops_the_question(asked, capsys, line):
    assert asked(line, "what is it?", "without it, then?") == [("without it, then?", 0)]
    printed = capsys.readouterr().err
    assert "give the path of a picture file" in printed and "was not shown" in printed


def test_in_one_line_too(asked, capsys):
    assert asked("{folder}/gone.png what is it?") == []
    assert "there is no such file" in capsys.readouterr().err


def test_another_picture_in_its_place(asked):
    assert asked("/image gone.png", "/image {folder}/cat.png", "what is it?") == [("what is it?", 1)]


@pytest.mark.parametrize(
    "line", ["what is cat.png?", "/etc/hostname is what?", "~ is what?", "'a' or 'b'?", "a\\b", "/a/b"]
)
def test_other_lines_are_questions(line):
    assert dropped(line) == ([], line)


def test_a_name_that_is_nowhere_is_kept_whole():
    assert named(" a b.png ") == ["a b.png"]
