"""Where outputs go: names that nobody else has, files and folders that appear whole or not at all, and what forbids it.

What is saved is written under a name of its own first (`.sensenova-TOKEN.part`, locked while its process lives), and
renamed when it is whole. Leftovers of processes that were killed are known by their locks, which ended with them.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SettingsError
from ..system.locks import locked

_LEFT = re.compile(r"\.sensenova-\w+\.part|\.document-\w+|.+_\d{5}\.png\.part")  # the last two of earlier versions
_OF_DOCUMENTS = re.compile(r"image_\d+\.png|document\.(md|html)")
_ALONE = re.compile(r"\.(sensenova-\w+\.part|sensenova-\w+\.line|document-\w+)\.lock")
_LOCK = ".lock"
_OLD_SECONDS = 10
_WINDOWS = re.compile(r'[<>:"|?*\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_QUOTED = 100  # characters of a name in a message


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A path in `folder` (made if need be) for one save, to be renamed at its end. Nothing of it stays otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    own = folder / f".sensenova-{secrets.token_hex(6)}.part"
    lock = own.with_name(own.name + _LOCK)
    try:
        with locked(lock):
            try:
                yield own
            finally:
                _remove(own)
    finally:
        lock.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what saves into `folder` have left whose processes were killed; what is being written stays."""
    for entry in _entries(folder):
        try:
            # a young lock alone may be of a save that begins just now
            alone = _ALONE.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _OLD_SECONDS
            if not alone and not (_LEFT.fullmatch(entry.name) and _is_ours(entry)):
                continue
            left = folder / entry.name.removesuffix(_LOCK)
            lock = left.with_name(left.name + _LOCK)
            with locked(lock) as held:
                if held:
                    _remove(left)
            if held:
                lock.unlink(missing_ok=True)
        except OSError:
            continue  # it is another user's, say


def _is_ours(entry: os.DirEntry) -> bool:
    """A folder of such a name may be a user's own, if there is anything else in it."""
    if not entry.name.startswith(".document-"):
        return True
    return entry.is_dir(follow_symlinks=False) and all(
        _OF_DOCUMENTS.fullmatch(each.name) for each in _entries(Path(entry.path))
    )


def _entries(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return list(entries)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def free_names(folder: Path, stem: str, suffix: str) -> Iterator[Path]:
    """stem_00001, stem_00002, ... with a suffix: those that nobody had when this was asked."""
    taken = {entry.name for entry in _entries(folder)} if folder.is_dir() else set()
    for number in range(1, 10**9):
        if (name := f"{stem}_{number:05d}{suffix}") not in taken:
            yield folder / name


def take_name(folder: Path, stem: str, suffix: str, *, take: Callable[[Path], None]) -> Path:
    """The first of those names that `take` gets, which raises FileExistsError where somebody else was faster."""
    for path in free_names(folder, stem, suffix):
        try:
            take(path)
            return path
        except FileExistsError:
            continue
    raise FileExistsError(f"{folder} has no name left for {stem}")


def publish(whole: Path, target: Path) -> None:
    """Give a file its name for good. Raises FileExistsError for one that something has already."""
    try:
        os.link(whole, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        target.touch(exist_ok=False)
        os.replace(whole, target)


def publish_folder(whole: Path, target: Path) -> None:
    """The same for a folder, which no system renames over another that is not empty."""
    if os.path.lexists(target):
        raise FileExistsError(target)
    try:
        os.rename(whole, target)
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        raise


def synced(path: Path) -> None:
    """Have what was written to a file, or named in a folder, survive a loss of power, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        return  # Windows opens no folders
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (*_FULL, errno.EIO):
            raise
    finally:
        os.close(descriptor)


def check_writable(target: Path, size: int = 0) -> None:
    """Raise SettingsError if a file `target` could not be written, whose folders need not exist yet. Leaves nothing.

    size: bytes that it may take.
    """
    shown = _quoted(target)
    if os.name == "nt" and (name := windows_refuses(target)):
        raise _error(f"{shown} cannot be written: Windows has no files named {name!r}", "give another name")
    try:
        existing = next(each for each in target.absolute().parents if os.path.lexists(each))
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise _error(f"{_quoted(existing)} cannot be written to", "give another folder")
        free = shutil.disk_usage(existing).free
        if free < size:
            raise _error(
                f"{_quoted(existing)} has {free / 1e6:.0f} MB free, and {size / 1e6:.0f} MB may be needed",
                "make room, or give another folder",
            )
        _try(existing, target.absolute().relative_to(existing))
    except OSError as error:
        raise _error(f"{shown} cannot be written ({error.strerror})", _remedy(error)) from None
    except ValueError as error:
        if isinstance(error, SettingsError):
            raise
        raise _error(f"{shown} cannot be written: no file has such a name", "give another name") from None


def _error(problem: str, remedy: str) -> SettingsError:
    return SettingsError(problem, remedy, setting="output")


def _try(folder: Path, below: Path) -> None:
    """Make an empty file of that name, and the folders it lies in, in a folder of their own."""
    with unfinished(folder) as own:
        (own / below).parent.mkdir(parents=True)
        (own / below).touch()


def _remedy(error: OSError) -> str:
    if error.errno in _FULL:
        return "make room, or give another folder"
    return "give a shorter or plainer name" if error.errno in _BAD_NAME else "give another folder"


def windows_refuses(target: Path) -> str | None:
    """The first part of a path that Windows does not take as a name."""
    parts = target.parts[1:] if target.anchor else target.parts
    return next((part for part in parts if part != ".." and _WINDOWS.search(part)), None)


def _quoted(path: Path) -> str:
    """A path in a message: in letters that every terminal has, and not endless."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(path))
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED // 2]}...{text[-_QUOTED // 2 :]}"
