"""What a file is that is not what its name says, and why one cannot be read: the real reason, and what helps."""

import errno
import os
from pathlib import Path

from ..errors import CheckpointError
from ..hub.repository import stand_in

SAFETENSORS = ".safetensors"
GGUF = ".gguf"
# Of downloads that have not ended, by the programs that make them.
UNFINISHED = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp", ".!qb", ".opdownload")
NOT_ENDED = "a download that has not ended; let it end, or begin it again"
_PICKLE = "which can run code and is never opened; fetch the safetensors version"
# How files begin that are of another kind, whatever they are called.
_KINDS = {
    b"PK\x03\x04": f"a pickle (or another zip archive), {_PICKLE}",
    b"\x80\x02": f"a pickle, {_PICKLE}",
    b"\x80\x04": f"a pickle, {_PICKLE}",
    b"\x1f\x8b": "packed by gzip; unpack it first",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89HDF": "an HDF5 file, of another framework; fetch the safetensors version",
    b"\x89PNG": "a picture; give a model's file",
    b"\xff\xd8\xff": "a picture; give a model's file",
    **dict.fromkeys((b"tjgg", b"lmgg", b"fmgg", b"algg"), "of the kinds before GGUF; fetch a GGUF version of it"),
}


def refuse_other_kinds(file: Path, begins: bytes | bytearray, expected: str) -> None:
    """Raise CheckpointError for a file that begins as one of another kind does. expected: the ending it should have."""
    if not begins:
        raise CheckpointError(f"{file} is empty (0 bytes): truncated, as by a broken download; fetch it again")
    kind = stand_in(begins)
    kind = kind or next((said for start, said in _KINDS.items() if bytes(begins).startswith(start)), None)
    if expected == SAFETENSORS and begins.startswith(b"GGUF"):
        kind = "a GGUF file; rename it to .gguf"
    elif expected == GGUF and _begins_as_safetensors(begins):
        kind = "a safetensors file; rename it to .safetensors"
    elif not bytes(begins).strip(b"\0"):
        kind = "nothing but zeros where it begins, as a broken copy or download leaves; fetch it again"
    elif kind is None and len(begins) >= 8 and _is_text(begins):
        start = " ".join(bytes(begins[:60]).decode("utf-8", "replace").split())
        kind = f"a text, which begins {start!r}, and no weights; fetch the file itself, logged in if need be"
    if kind:
        raise CheckpointError(f"{file} is {kind}")


def unreadable(file: Path, error: Exception) -> CheckpointError:
    """What to raise in place of an error of the file's system, or of its content."""
    said = str(error)[:300]
    if file.is_dir():
        return CheckpointError(f"{file} is a folder that is called like a file; give the file, or rename the folder")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return CheckpointError(
            f"{file} may not be read by this user ({os.strerror(error.errno)}); give yourself the right to read it"
        )
    if isinstance(error, OSError) and error.errno is not None and file.exists():
        return CheckpointError(
            f"{file} cannot be read: {os.strerror(error.errno)}; check the disk it lies on, or give a copy elsewhere"
        )
    unfinished = next((f"{file.name}{end}" for end in UNFINISHED if Path(f"{file}{end}").exists()), None)
    if unfinished:
        return CheckpointError(f"{file} is {NOT_ENDED}: {unfinished} lies beside it ({said})")
    size = f" ({file.stat().st_size:,} bytes)" if file.is_file() else ""
    return CheckpointError(f"{file}{size} is missing, truncated or damaged: {said}; fetch it again")


def check_ended(file: Path) -> None:
    """Raise CheckpointError for what a program still writes, or has left, by its name."""
    if file.suffix.lower() in UNFINISHED and (file.suffixes[-2:-1] or file.is_file()):
        raise CheckpointError(f"{file} is {NOT_ENDED}")


def look_alike(file: Path) -> str:
    """What lies where a file does not, and is called nearly so: for the end of a message."""
    try:
        beside = sorted(path.name for path in file.parent.iterdir() if path.name != file.name)
    except OSError:
        return ""
    for name in beside:
        if name.lower() == file.name.lower():
            return f"; there is {name[:100]}"
        if name.startswith((file.name, f".{file.name}")) and name.lower().endswith(UNFINISHED):
            return f"; {name[:100]} is {NOT_ENDED}"
    return ""


def _begins_as_safetensors(begins: bytes | bytearray) -> bool:
    return len(begins) > 9 and int.from_bytes(begins[:8], "little") < 2**32 and bytes(begins[8:]).lstrip()[:1] == b"{"


def _is_text(begins: bytes | bytearray) -> bool:
    """A header's length never is one: its upper bytes are 0."""
    text = bytes(begins[:64]).decode("utf-8", "replace").rstrip("\ufffd")  # of a letter that is cut in two
    return "\ufffd" not in text and all(letter.isprintable() or letter in "\t\r\n" for letter in text)
