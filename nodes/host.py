"""What is wrong around the pack, in words: packages that are missing, a host that is too old, a second copy of it.

Imports nothing but the standard library and the engine's errors, for it speaks where other imports have failed.
"""

import inspect
import re
from importlib import import_module, metadata
from pathlib import Path

from ..sensenova_core.errors import install_line, missing_package, printable

NEEDED = {"ComfyUI": (0, 33), "torch": (2, 5)}  # as pyproject.toml says it
UPDATE = {"ComfyUI": "update ComfyUI"}
_found: list[str] = []


def why_not(error: ImportError) -> str:
    """Why the nodes are not there, in one line: what an import has failed for, and what to do."""
    old = too_old()
    return printable(f"SenseNova U1 has no nodes now: {'; '.join(old) if old else missing_package(error)}")


def too_old() -> list[str]:
    """Which of the host's parts are older than what this pack needs, each with what to do."""
    there = {"ComfyUI": _comfyui_version(), "torch": _version_of("torch")}
    return [
        f"{name} {version} is too old, this pack needs {'.'.join(map(str, NEEDED[name]))} or later; "
        + UPDATE.get(name, f"run {install_line(name)}")
        for name, version in there.items()
        if version and tuple(map(int, re.findall(r"\d+", version)[:2])) < NEEDED[name]
    ]


def look_around(ours: str, node_id: str) -> list[str]:
    """What is wrong though the nodes are there; also remembered for `warnings`.

    ours: a file of this pack. node_id: of a node; where another folder has one of that id, the pack is there twice.
    """
    comfyui = import_module("nodes")  # ComfyUI's own: this package has another name in ComfyUI

    _found[:] = too_old()
    folder = Path(ours).parents[1]
    other = comfyui.NODE_CLASS_MAPPINGS.get(node_id)
    theirs = None if other is None else _folder_of(other)
    if theirs is not None and theirs != folder:
        _found.append(f"this pack is there twice: in {folder}, which is used, and in {theirs}; remove one of them")
    return [printable(f"SenseNova U1: {words}") for words in _found]


def warnings() -> list[str]:
    """What `look_around` found."""
    return list(_found)


def _folder_of(node: type) -> Path | None:
    """The folder of the pack that a node comes from."""
    try:
        return Path(inspect.getfile(node)).parents[1]
    except (TypeError, OSError, IndexError):
        return None


def _comfyui_version() -> str | None:
    try:
        from comfyui_version import __version__
    except ImportError:
        return None
    return __version__


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
