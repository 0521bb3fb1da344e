"""Outputs: each has a name of its own and appears whole, whoever else writes there; what cannot be written is told."""

import errno
import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from sensenova_core import SettingsError
from sensenova_core.report import outputs
from sensenova_core.report.outputs import check_writable, windows_refuses
from sensenova_core.report.pages import Document, save_document, save_numbered_document
from sensenova_core.report.png import next_free, save_numbered, save_png
from tests.conftest import REPOSITORY
from tests.support.writers import WAYS, write_at_once

PICTURE = torch.rand(16, 16, 3)
STORY = Document(("a", Image.new("RGB", (8, 8)), "b"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("way", WAYS)
def test_processes_that_write_into_one_folder_lose_nothing(tmp_path, way):
    found = write_at_once(tmp_path / "new", way, processes=2, pictures=12)
    assert len(found) == 24 and set(found.values()) == {1}


@pytest.mark.parametrize("suffix", [".png", ".PNG", "/"])
def test_a_name_is_taken_when_it_is_chosen(tmp_path, suffix):
    (tmp_path / "x_00001.png").mkdir() if suffix == "/" else (tmp_path / f"x_00001{suffix}").write_text("mine")
    first, second = next_free(tmp_path, "x"), next_free(tmp_path, "x")
    assert first != second and first.exists() and second.exists()
    save_png(PICTURE, second, {"n": 2})
    save_png(PICTURE, first, {"n": 1})
    assert [json.loads(Image.open(path).text["sensenova"])["n"] for path in (first, second)] == [1, 2]


def test_stems_are_not_patterns(tmp_path):
    for stem in ("[a]", "*", "x_00001"):
        assert [save_numbered(PICTURE, tmp_path, stem, settings={}).name for _ in range(2)] == [
            f"{stem}_00001.png",
            f"{stem}_00002.png",
        ]


@pytest.mark.parametrize("numbered", [False, True])
def test_a_name_whose_picture_does_not_come_is_given_back(tmp_path, monkeypatch, numbered):
    def fail(self, target, *args, **kwargs):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_numbered(PICTURE, tmp_path, "x", settings={}) if numbered else save_png(
            PICTURE, next_free(tmp_path, "x"), {}
        )
    assert names(tmp_path) == set()


def test_of_one_name_the_last_whole_picture_stays(tmp_path):
    with ThreadPoolExecutor(4) as threads:
        for n in range(12):
            threads.submit(save_png, torch.full((32, 32, 3), n / 12), tmp_path / "x.png", {"n": n})
    assert names(tmp_path) == {"x.png"}
    shown = Image.open(tmp_path / "x.png")
    assert shown.getpixel((5, 5))[0] == round(json.loads(shown.text["sensenova"])["n"] / 12 * 255)


def test_documents_that_are_saved_at_once_are_all_there(tmp_path):
    with ThreadPoolExecutor(4) as threads:
        done = list(
            threads.map(lambda n: save_numbered_document(Document((str(n),)), tmp_path, "s", form="html"), range(8))
        )
    assert names(tmp_path) == {f"s_{n:05d}" for n in range(1, 9)}
    assert sorted(path.read_text().count("<p>") for path in done) == [1] * 8 and len(set(done)) == 8


def test_a_document_whose_name_was_taken_meanwhile(tmp_path, monkeypatch):
    def late(whole, target):
        Path(target).mkdir()
        (Path(target) / "theirs").touch()
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(SettingsError, match="exists already"):
        save_document(STORY, tmp_path / "story", "html")
    assert names(tmp_path) == {"story"} and names(tmp_path / "story") == {"theirs"}


PAUSED = """
import sys, time
from pathlib import Path
from PIL import Image
from sensenova_core.report.pages import Document, save_document
import torch
from sensenova_core.report.png import save_png
folder, go, save = Path(sys.argv[1]), Path(sys.argv[2]), Image.Image.save
def paused(self, target, *args, **kwargs):
    save(self, target, *args, **kwargs)
    print("writing", flush=True)
    while not go.exists():
        time.sleep(0.01)
Image.Image.save = paused
if sys.argv[3] == "document":
    save_document(Document(("a", Image.new("RGB", (8, 8)))), folder / "theirs", "html")
else:
    save_png(torch.rand(8, 8, 3), folder / "theirs.png", {})
"""


@pytest.fixture(params=["document", "picture"])
def writing(request, tmp_path):
    """A process in the middle of a save, and the file that lets it go on."""
    folder, go = tmp_path / "out", tmp_path / "go"
    folder.mkdir()
    command = [sys.executable, "-c", PAUSED, str(folder), str(go), request.param]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    yield process, go, folder
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_another_process_is_writing_stays(writing):
    process, go, folder = writing
    save_png(PICTURE, folder / "mine.png", {})
    save_document(STORY, folder / "mine", "markdown")
    assert len(names(folder)) == 4
    go.touch()
    assert process.wait(20) == 0
    assert {"mine.png", "mine"} < names(folder) and len(names(folder)) == 3


def test_what_a_killed_save_left_is_cleared_by_the_next(writing):
    process, _, folder = writing
    process.kill()
    process.wait()
    assert len(names(folder)) == 2
    save_png(PICTURE, folder / "mine.png", {})
    assert names(folder) == {"mine.png"}


def test_leftovers_of_earlier_versions_are_cleared_and_nothing_else(tmp_path):
    for name in (".document-a_b1c2d3", ".document-templates", ".document-empty"):
        (tmp_path / name).mkdir()
    (tmp_path / ".document-a_b1c2d3/image_1.png").touch()
    (tmp_path / ".document-templates/mine.txt").touch()
    others = {"download.part", "cat.png.part", ".bashrc", ".sensenova-download.json", ".model.safetensors.0a1b.part"}
    for name in (*others, "sensenova_00001.png.part", "x.png.part", ".sensenova-0a1b.part"):
        (tmp_path / name).touch()
    old = tmp_path / ".sensenova-11.part.lock"
    old.touch()
    os.utime(old, (time.time() - 100,) * 2)
    save_png(PICTURE, tmp_path / "x.png", {})
    assert names(tmp_path) == others | {"x.png", ".document-templates"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("n" * 300 + ".png", "File name too long"),
        ("猫" * 100 + ".png", "File name too long"),
        ("deep/" * 3 + "n" * 256, "File name too long"),
        ("file/x.png", "file cannot be written to; give another folder"),
        ("file/deeper/still/x.png", "file cannot be written to; give another folder"),
        ("nowhere/x.png", "nowhere cannot be written to; give another folder"),
        ("a\0b.png", "no file has such a name"),
        ("a\ud800b.png", "no file has such a name"),
    ],
)
def test_a_place_that_cannot_be_is_told_and_left_as_it_was(tmp_path, name, words):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "nowhere").symlink_to("/nowhere/at/all")
    with pytest.raises(SettingsError) as raised:
        check_writable(tmp_path / name)
    assert words in str(raised.value) and len(str(raised.value)) < 250
    str(raised.value).encode()
    assert names(tmp_path) == {"file", "nowhere"}


@pytest.mark.parametrize("folder", ["/proc", "/sys", "/proc/self/deeper"])
def test_a_folder_that_nobody_writes_to(folder):
    if not Path(folder).parent.exists():
        pytest.skip("of Linux")
    with pytest.raises(SettingsError, match=r"(/proc|/sys)\S* cannot be written"):
        check_writable(Path(folder) / "x.png")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
def test_what_the_system_says_of_a_place(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(SettingsError, match=rf"cannot be written \({os.strerror(code)}\); (give|make)"):
        check_writable(tmp_path / "new/x.png")
    assert names(tmp_path) == set()


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(3 * 10**6))
    check_writable(tmp_path / "x.png", 2 * 10**6)
    with pytest.raises(SettingsError, match="has 3 MB free, and 12 MB may be needed; make room"):
        check_writable(tmp_path / "x.png", 12 * 10**6)


def test_names_that_can_be(tmp_path):
    for name in (
        "x.png",
        "猫/ 犬.png",
        "a:b?.png",
        "-x",
        "deep/er/x.png",
        "n" * 255,
        "..hidden",
        os.fsdecode(b"\xff.png"),
    ):
        check_writable(tmp_path / name)
        assert names(tmp_path) == set()
    (tmp_path / "x.png").touch()
    check_writable(tmp_path / "x.png")


@pytest.mark.parametrize("part", ["a:b", "what?", "a|b", "con", "NUL.png", "com1.txt", "dot.", "space ", "tab\t", '"'])
def test_names_that_windows_does_not_take(part):
    assert windows_refuses(Path("fine", part, "x.png")) == part
    assert windows_refuses(Path("fine", "console", "..", "x y.tar.png")) is None
