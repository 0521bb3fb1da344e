"""What is wrong around the pack, in words: packages that are missing, a host that is too old, a second copy of it.

Imports nothing but the standard library and the engine's errors, for it speaks where other imports have failed.
"""

import inspect
import os
import re
from importlib import import_module, metadata
from pathlib import Path

from ..sensenova_core.errors import missing_package, printable

# As pyproject.toml says it, which a test holds. docs/installing.md says what was tried.
NEEDED = {"ComfyUI": (0, 22), "torch": (2, 5)}
REMEDIES = {"ComfyUI": "update ComfyUI", "torch": "update it as ComfyUI's own guide to installing says"}
PARTS = ("nodes/host.py", "sensenova_core/__init__.py")  # that no other pack has
_found: list[str] = []


class SecondCopyError(Exception):
    """This pack is in ComfyUI already, in another folder."""


def why_not(error: Exception) -> str | None:
    """Why the nodes are not there, in one line: what an import has failed for, and what to do.

    None for an error that is neither the host's nor a package's.
    """
    if old := too_old():
        return _no_nodes("; ".join(old))
    return _no_nodes(missing_package(error)) if isinstance(error, ImportError) else None


def too_old_for_nodes() -> str:
    """The same for a ComfyUI that will not even ask for nodes."""
    return _no_nodes("; ".join(too_old()) or _too_old("ComfyUI", "of before 0.3.48"))


def too_old() -> list[str]:
    """Which of the host's parts are older than what this pack needs, each with what to do."""
    there = {"ComfyUI": _comfyui_version(), "torch": _version_of("torch")}
    return [
        _too_old(name, version)
        for name, version in there.items()
        if version and tuple(map(int, re.findall(r"\d+", version)[:3])) < NEEDED[name]
    ]


def look_around(ours: str, node_id: str) -> list[str]:
    """What is wrong though the nodes can be there; also remembered for `warnings`.

    ours: a file of this pack. node_id: of a node; where another folder has one of that id, the pack is there twice:
    SecondCopyError, so that ComfyUI takes no node from here and the nodes of the first copy stay as they are.
    """
    comfyui = import_module("nodes")  # ComfyUI's own: this package has another name in ComfyUI

    _found[:] = too_old()
    folder = _pack_of(ours)
    other = comfyui.NODE_CLASS_MAPPINGS.get(node_id)
    theirs = None if other is None else _folder_of(other)
    if theirs is not None and theirs != folder:
        raise SecondCopyError(_no_nodes(_twice(theirs, folder), "here"))
    return [printable(f"SenseNova U1: {words}") for words in _found]


def warnings(ours: str) -> list[str]:
    """What `look_around` found, and copies of this pack that ComfyUI came to later. ours: a file of this pack."""
    return _found + [_twice(_pack_of(ours), other) for other in _others(_pack_of(ours))]


def _others(folder: Path) -> list[Path]:
    """The other folders of this pack that ComfyUI has gone through."""
    packs = {Path(path) for path in import_module("nodes").LOADED_MODULE_DIRS.values()}
    return sorted(pack for pack in packs - {folder} if all((pack / part).is_file() for part in PARTS))


def _twice(used: Path, other: Path) -> str:
    return f"this pack is there twice: in {used}, which is used, and in {other}; remove one of them"


def _no_nodes(reason: str, where: str = "now") -> str:
    return printable(f"SenseNova U1 has no nodes {where}: {reason}")


def _too_old(name: str, version: str) -> str:
    needed = ".".join(map(str, NEEDED[name]))
    return f"{name} {version} is too old, this pack needs {needed} or later; {REMEDIES[name]}"


def _folder_of(node: type) -> Path | None:
    """The folder of the pack that a node comes from."""
    try:
        return _pack_of(inspect.getfile(node))
    except (TypeError, OSError, IndexError):
        return None


def _pack_of(file: str) -> Path:
    """The pack's folder, of a file in one of its own folders."""
    return Path(os.path.abspath(file)).parents[1]


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
