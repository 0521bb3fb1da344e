"""Paths that are no checkpoint, and files that are another thing than they are called."""

import sys

import pytest

from tests.checkpoint.test_files import refusal


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.ckpt", "m.bin", "M.CKPT"])
@pytest.mark.parametrize("there", [True, False])
def test_pickles_are_refused_unopened(tmp_path, name, there):
    if there:
        (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    message = refusal(tmp_path / name)
    assert "pickle" in message and "never opened" in message and ".safetensors or .gguf" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"PK\x03\x04rest", "a pickle"),
        (b"GGUF\3\0\0\0", "rename it to .gguf"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_what_a_file_really_is(tmp_path, content, words):
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    assert words in refusal(file) and "m.safetensors" in refusal(file)


def test_paths_that_are_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    assert "neither .safetensors nor .gguf" in refusal(tmp_path / "notes.txt")
    assert "a link to a file that is not there" in refusal(tmp_path / "gone.gguf")
    (tmp_path / "gone.gguf").unlink()
    assert "no config.json in it" in refusal(tmp_path / ".") and "own folder" in refusal(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert "2 checkpoints in it; give one of the files: a.gguf, b.gguf" in refusal(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes of this kind")
def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "m.safetensors")
    assert "no such file" in refusal(tmp_path / "m.safetensors")
    assert "no such file" in refusal(tmp_path)
