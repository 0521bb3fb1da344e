"""The header of one safetensors file. Files come from strangers and downloads end early: nothing in it is believed.

`safetensors` checks it: tensors have room for their shapes and lie one after another to the file's end. It maps the
whole file for that, and does not tell where a tensor's bytes lie, which streaming must know; so offsets are read here.
Refused here is also what it lets pass: a name that stands twice, entries of another form, sizes beyond measure.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .mistaken import SAFETENSORS, refuse_other_kinds, unreadable

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


class Damage(ValueError):
    """What is wrong with a header."""


def read_header(file: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], dict[str, str]]:
    """Name -> (type, shape, where its bytes begin in the file) of every tensor, and the file's metadata.

    Raises CheckpointError for anything but a whole file whose tensors lie one after another to its end.
    """
    try:
        length = _header_bytes(file)
        with safe_open(file, "numpy"):  # which maps it to be read only; torch's mapping would count as memory taken
            pass
        with open(file, "rb") as stream:
            stream.seek(8)
            content = json.loads(stream.read(length), object_pairs_hook=_without_duplicates)
        metadata = content.pop("__metadata__", None) or {}
        return {name: _entry(name, entry, 8 + length) for name, entry in content.items()}, metadata
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(file, error) from error


def _header_bytes(file: Path) -> int:
    """How long the header says that it is."""
    if not file.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError("there is no such file")
    with open(file, "rb") as stream:
        begins = stream.read(64)
    refuse_other_kinds(file, begins, SAFETENSORS)
    length = int.from_bytes(begins[:8], "little")
    if length > MAX_HEADER:
        raise Damage(f"its header has {length:,} bytes, where a model of this family has at most {MAX_HEADER:,}")
    return length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise Damage(f"its header names {twice[:100]!r} twice")
    return content


def _entry(name: str, entry: Any, first: int) -> tuple[str, tuple[int, ...], int]:
    """(type, shape, where its bytes begin) of a tensor, where those of the first begin at `first`."""
    if not isinstance(entry, dict) or not isinstance(entry["dtype"], str) or entry["dtype"] not in BITS:
        raise Damage(f"tensor {name[:100]!r} is not described, or of a type that is not known here")
    shape = entry["shape"]
    if len(shape) > MAX_AXES or any(axis >= 2**63 for axis in shape):
        raise Damage(f"tensor {name[:100]!r} has a shape beyond measure")
    return entry["dtype"], tuple(shape), first + entry["data_offsets"][0]
