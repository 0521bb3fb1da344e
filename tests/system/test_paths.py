"""What people write for a file: quotes, ~, file://, escapes, backslashes of Windows, and bytes that are no text."""

import os
import sys
from pathlib import Path

import pytest

from sensenova_core import SenseNovaError
from sensenova_core.checkpoint import locate
from sensenova_core.cli.models import resolve_model
from sensenova_core.lora import lora_file
from sensenova_core.system.paths import path_of

posix = pytest.mark.skipif(os.name == "nt", reason="backslashes are Windows' own")


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "my models (1)"
    folder.mkdir()
    (folder / "a b's.safetensors").write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return folder / "a b's.safetensors"


def written(file: Path) -> dict[str, str]:
    return {
        "plain": str(file),
        "double": f'"{file}"',
        "single": f"'{file}'",
        "curly": f"\u201c{file}\u201d",
        "spaces": f"  {file}\n",
        "quotes in quotes": f"'\"{file}\"'",
        "home": f"~/{file.parent.name}/{file.name}",
        "quoted home": f"'~/{file.parent.name}/{file.name}'",
        "url": file.as_uri(),
        "url of this machine": file.as_uri().replace("file://", "file://localhost"),
        "short url": file.as_uri().replace("file://", "file:"),
        "capital url": file.as_uri().replace("file:", "FILE:"),
    }


def test_one_file_however_it_is_written(file):
    for kind, text in written(file).items():
        assert path_of(text) == file, kind
        assert path_of(Path(text)) == file or "url of" in kind, kind
        assert locate(text).path == file and lora_file(text) == file and resolve_model(text) == file, kind


@posix
def test_backslashes(file):
    escaped = str(file).replace(" ", "\\ ").replace("'", "\\'").replace("(", "\\(").replace(")", "\\)")
    windows = str(file).replace("/", "\\")
    for text in (escaped, windows, f"~\\{file.parent.name}\\{file.name}", f'"{windows}"'):
        assert path_of(text) == file, text
    odd = file.with_name("a\\ b.safetensors")
    odd.write_bytes(b"x")
    assert path_of(str(odd)) == odd  # what is there as it is written means itself


def test_what_is_there_means_itself(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    for name in ("'x'", "~", " y "):
        Path(name).mkdir()
        assert path_of(name) == Path(name)


NOWHERE = ["", " ", "'", '""', "~nobody-of-this-name/x", "a\0b", "\ud800", "file://", "x" * 5000, "x/" * 5000, "\\"]


@pytest.mark.parametrize("text", NOWHERE, ids=ascii)
def test_what_is_nowhere_is_refused_in_words(text):
    for take in (locate, lora_file):
        with pytest.raises(SenseNovaError) as refused:
            take(text)
        str(refused.value).encode()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are texts elsewhere")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe \x80", b"a%20b"])
def test_bytes_that_are_no_text(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name + b".safetensors")
    with open(path, "wb") as stream:
        stream.write(b"x")
    url = "file://" + "".join(f"%{byte:02X}" for byte in path)
    for given in (path, os.fsdecode(path), f"'{os.fsdecode(path)}'", url.replace("%2F", "/")):
        assert os.fsencode(path_of(given)) == path
