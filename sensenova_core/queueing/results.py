"""A job's results, from the server into the folder: under names that begin with the job's line."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .jobs import Job
from .record import PART
from .server import Files, Server

_LINKING = (".md", ".html")  # what names the files that came with it, which must keep their names
_ODD = re.compile(r"[^\w.-]+|^\.+")


def save(server: Server, job: Job, outputs: Files, *, folder: Path) -> dict[str, str]:
    """Fetch every file and write every text that the nodes show. Raises Away, Missing.

    Returns the names in `folder`, each with the node that it comes from.

    A job's names are the same each time: saved again, it takes the place of what was saved before.
    """
    names: dict[str, str] = {}
    for node, shown in sorted(outputs.items()):
        if not isinstance(shown, dict):
            continue
        stem = f"{job.stem}_{plain(node)}"
        files = _files(shown)
        for name, file in _named(stem, files):
            _write(folder / name, lambda part, file=file: server.download(file, part))
            names[name] = node
        for name, text in _named_texts(stem, shown, first=len(files) + 1):
            _write(folder / name, lambda part, text=text: part.write_text(text, encoding="utf-8", errors="replace"))
            names[name] = node
    return names


def not_of(job: Job, folder: Path, files: dict[str, str]) -> str | None:
    """The first of these files that says it is of other settings than the job's. files: see `save`.

    ComfyUI's pictures carry what was sent. The names that a server gives to files are given again once its output
    folder was emptied, so that what its history calls by a name may be another picture by now.
    """
    for name, node in files.items():
        if (sent := _sent(folder / name)) is not None and not job.is_made_by(sent, node):
            return name
    return None


def _sent(path: Path) -> Any:
    """The nodes that a picture was made by; None where it does not say."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return json.loads(picture.info["prompt"])
    except Exception:  # no picture, of a kind without such text, or whatever else a file does to Pillow
        return None


def _files(shown: dict[str, Any]) -> list[dict[str, str]]:
    """What the history lists with a name, whatever kind it is of; what was given to the workflow is no result."""
    found = [each for key in sorted(shown) if isinstance(shown[key], list) for each in shown[key]]
    found = [each for each in found if isinstance(each, dict) and isinstance(each.get("filename"), str)]
    return [each for each in found if each.get("type") != "input"]


def _named(stem: str, files: list[dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    if any(file["filename"].lower().endswith(_LINKING) for file in files):
        yield from ((f"{stem}/{plain(file['filename'])}", file) for file in files)
        return
    for number, file in enumerate(files, 1):
        yield f"{stem}_{number}{plain(PurePosixPath(file['filename']).suffix)}", file


def _named_texts(stem: str, shown: dict[str, Any], first: int) -> Iterator[tuple[str, str]]:
    texts = [each for key in sorted(shown) if isinstance(shown[key], list) for each in shown[key]]
    for number, text in enumerate((each for each in texts if isinstance(each, str)), first):
        yield f"{stem}_{number}.txt", text


def plain(name: str) -> str:
    """A name that every system takes, of a server's node or file."""
    if name.startswith(".") and name[1:].isalnum():
        return name.lower()  # an ending
    return _ODD.sub("-", name)[-100:]


def _write(target: Path, made) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    made(part)
    os.replace(part, target)
