"""The header of one safetensors file. Files come from strangers and downloads end early: nothing in it is believed."""

import json
import os
from math import prod
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MAX_HEADER = 2**24  # bytes; the largest published model has 4 MB
MAX_AXES = 8
# Bits of a number of each type that safetensors knows.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
# How files begin that are something else, whatever they are called.
_OTHERS = {
    b"GGUF": "a GGUF file; rename it to .gguf",
    b"PK\x03\x04": "a pickle (or another zip archive), which can run code and is never opened; fetch the safetensors "
    "version",
    b"\x80\x02": "a pickle, which can run code and is never opened; fetch the safetensors version",
    b"version https://git-lfs": "Git LFS's note of where the file is; run `git lfs pull`, or fetch the file itself",
    b"<!DOCTYPE": "a web page; fetch the file itself",
    b"<html": "a web page; fetch the file itself",
}


class Damage(ValueError):
    """What is wrong with a header."""


def read_header(file: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], dict[str, str]]:
    """Name -> (type, shape, where its bytes begin in the file) of every tensor, and the file's metadata.

    Raises CheckpointError for anything but a whole file whose tensors lie one after another to its end.
    """
    try:
        raw, size = _header(file)
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
        if not isinstance(content, dict):
            raise Damage("its header is not a list of tensors")
        metadata = content.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict):
            raise Damage("its metadata is not a list of texts")
        first = 8 + len(raw)
        tensors = {name: _entry(name, entry, size - first) for name, entry in content.items()}
        _check_places(tensors, size - first)
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(file, error) from error
    placed = {name: (dtype, shape, first + begin) for name, (dtype, shape, begin, _) in tensors.items()}
    return placed, metadata


def damaged(file: Path, error: Exception) -> CheckpointError:
    size = f" ({file.stat().st_size:,} bytes)" if file.is_file() else ""
    return CheckpointError(f"{file}{size} is missing, truncated or damaged: {error}; fetch it again")


def refuse_other_kinds(file: Path, begins: bytes | bytearray, but: bytes = b"") -> None:
    """Raise CheckpointError for a file that begins as one of another kind does."""
    for magic, kind in _OTHERS.items():
        if begins.startswith(magic) and magic != but:
            raise CheckpointError(f"{file} is {kind}")


def _header(file: Path) -> tuple[bytes, int]:
    """The header's text, and the size of the file."""
    if not file.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError("there is no such file")
    with open(file, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        begins = stream.read(24)
        refuse_other_kinds(file, begins)
        length = int.from_bytes(begins[:8], "little")
        if size < 8:
            raise Damage("it ends before its header")
        if length > size - 8:
            raise Damage(f"its header should have {length:,} bytes, which the file has not")
        if length > MAX_HEADER:
            raise Damage(f"its header has {length:,} bytes, where a model of this family has at most {MAX_HEADER:,}")
        stream.seek(8)
        return stream.read(length), size


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise Damage(f"its header names {twice[:100]!r} twice")
    return content


def _entry(name: str, entry: Any, room: int) -> tuple[str, tuple[int, ...], int, int]:
    """(type, shape, begin, end) of a tensor, where `room` bytes follow the header."""
    if not isinstance(entry, dict):
        raise Damage(f"tensor {name[:100]!r} is not described")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Damage(f"tensor {name[:100]!r} is of type {str(dtype)[:20]!r}, which safetensors does not have")
    if not _counts(shape, MAX_AXES) or not _counts(offsets, 2) or len(offsets) != 2:
        raise Damage(f"tensor {name[:100]!r} has a shape or a place that is none")
    begin, end = offsets
    if not begin <= end <= room:
        raise Damage(f"tensor {name[:100]!r} should lie at {begin:,} to {end:,} of {room:,} bytes")
    if prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise Damage(f"tensor {name[:100]!r} of shape {shape} in {dtype} does not take {end - begin:,} bytes")
    return dtype, tuple(shape), begin, end


def _counts(values: Any, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _check_places(tensors: dict[str, tuple[str, tuple[int, ...], int, int]], room: int) -> None:
    """Tensors must lie one after another, with nothing between them or after the last."""
    end = 0
    for name, (_, _, begin, next_end) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if begin != end:
            raise Damage(f"tensor {name[:100]!r} begins at {begin:,}, where the one before it ends at {end:,}")
        end = next_end
    if end != room:
        raise Damage(f"its tensors end at {end:,} of {room:,} bytes")
