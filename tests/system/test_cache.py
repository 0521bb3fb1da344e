"""What is remembered on disk between runs."""

import os
import sys
from pathlib import Path

import pytest

from sensenova_core.system.cache import FOLDER, cache_folder, remember, remembered


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "deep/er"))
    return tmp_path / "deep/er"


def test_what_is_added_is_there_beside_what_was(folder):
    assert remembered("x") == {}
    remember("x", "one", {"a": 1})
    remember("x", "two", [2])
    assert remembered("x") == {"one": {"a": 1}, "two": [2]}
    assert [path.name for path in folder.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_a_damaged_file_is_an_empty_one(folder, content):
    folder.mkdir(parents=True)
    (folder / "x.json").write_bytes(content)
    assert remembered("x") == {}
    remember("x", "one", 1)
    assert remembered("x") == {"one": 1}


def test_a_file_is_whole_or_as_it_was(folder, monkeypatch):
    remember("x", "one", 1)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    remember("x", "two", 2)
    assert remembered("x") == {"one": 1} and [path.name for path in folder.iterdir()] == ["x.json"]


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file/below"))
    remember("x", "one", 1)
    assert remembered("x") == {}


@pytest.mark.parametrize(
    "system, variable, given, there",
    [
        ("linux", "XDG_CACHE_HOME", "/c", "/c/sensenova"),
        ("linux", "XDG_CACHE_HOME", "", "/home/me/.cache/sensenova"),
        ("darwin", "XDG_CACHE_HOME", "", "/home/me/Library/Caches/sensenova"),
        ("win32", "LOCALAPPDATA", "/c", "/c/sensenova"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="paths of other systems")
def test_where_it_is(monkeypatch, system, variable, given, there):
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv(variable, given)
    monkeypatch.setattr(sys, "platform", system)
    assert cache_folder().as_posix() == there
