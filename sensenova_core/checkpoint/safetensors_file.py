"""The header of one safetensors file. Files come from strangers and downloads end early: nothing in it is believed.

`safetensors` checks it: tensors have room for their shapes and lie one after another to the file's end. It maps the
whole file for that, and does not tell where a tensor's bytes lie, which streaming must know; so offsets are read here.
Refused here is also what it lets pass: a name that stands twice, entries of another form, sizes beyond measure.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .formats import SAFETENSORS_TYPES
from .mistaken import SAFETENSORS, refuse_other_kinds, unreadable
from .tensors import TensorHeader

MAX_HEADER = 2**24  # bytes; the largest published model has 4 MB
MAX_AXES = 8


class Damage(ValueError):
    """What is wrong with a header."""


def read_header(file: Path) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Name -> header of every tensor, and the file's metadata.

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
        return {name: _header(file, name, entry, first=8 + length) for name, entry in content.items()}, metadata
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


def _header(file: Path, name: str, entry: Any, *, first: int) -> TensorHeader:
    """What the file says of a tensor. first: where the bytes of the first one begin."""
    if not isinstance(entry, dict) or not isinstance(entry["dtype"], str) or entry["dtype"] not in SAFETENSORS_TYPES:
        raise Damage(f"tensor {name[:100]!r} is not described, or of a type that is not known here")
    shape = entry["shape"]
    if len(shape) > MAX_AXES or any(axis >= 2**63 for axis in shape):
        raise Damage(f"tensor {name[:100]!r} has a shape beyond measure")
    return TensorHeader(file, entry["dtype"], shape=tuple(shape), start=first + entry["data_offsets"][0])
