"""The header of one GGUF file: what is said about the model, and which tensors it holds. Nothing in it is believed.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

import os
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .formats import GGUF_TYPES
from .mistaken import GGUF, refuse_other_kinds, unreadable
from .safetensors_file import MAX_AXES, Damage
from .tensors import TensorHeader

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER = 2**24  # bytes; a vocabulary of 150,000 words takes 6 MB
_PIECE = 2**20  # bytes read at a time
MAX_TENSORS = 2**18
MAX_ENTRIES = 2**16
MAX_NAME = 2**12
_ALIGNMENT = "general.alignment"
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # begins the key of a shape that blocks did not fit, by ComfyUI-GGUF's tools
_STRING = 8
_ARRAY = 9
_LENGTH = struct.Struct("<Q")
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_gguf(file: Path) -> tuple[dict[str, TensorHeader], dict[str, Any]]:
    """Name -> header of every tensor, and the file's metadata.

    Arrays are None in the metadata, but for shapes. Raises CheckpointError for anything but a whole GGUF file.
    """
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError("there is no such file")
        with open(file, "rb") as stream:
            return _read(_Reader(stream, file), file)
    except (OSError, ValueError, struct.error) as error:
        raise unreadable(file, error) from error


class _Reader:
    """Takes values off the header, and no more than a header has. at: the next byte of the file."""

    def __init__(self, stream: BinaryIO, file: Path):
        self.stream = stream
        self.begun = bytearray(stream.read(_PIECE))
        self.at = len(MAGIC)
        self.size = os.fstat(stream.fileno()).st_size
        refuse_other_kinds(file, self.begun, GGUF)
        if not self.begun.startswith(MAGIC):
            raise CheckpointError(f"{file} is no GGUF file, whatever its name: it begins otherwise; give another one")

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.begun):
            if self.at > min(self.size, MAX_HEADER):
                raise Damage("its header does not end")
            self.begun += self.stream.read(self.at - len(self.begun) + _PIECE)

    def raw(self, count: int) -> bytearray:
        self.skip(count)
        return self.begun[self.at - count : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.raw(struct.calcsize("<" + kind)))[0]

    def count(self, kind: str, most: int, what: str) -> int:
        count = self.number(kind)
        if count > most:
            raise Damage(f"it should have {count:,} {what}, where a model of this family has at most {most:,}")
        return count

    def text(self, most: int = MAX_HEADER) -> str:
        return self.raw(self.count("Q", most, "letters in a name")).decode("utf-8")

    def value(self, key: str) -> Any:
        """A value of the metadata; None for an array that is no shape."""
        kind = self.number("I")
        if kind == _STRING:
            return self.text()
        return self.array(wanted=key.startswith(_ORIGINAL_SHAPE)) if kind == _ARRAY else self.number(_known(kind))

    def array(self, *, wanted: bool) -> list | None:
        """wanted: whether to keep its numbers, as far as they can be a shape. Vocabularies are passed over."""
        kind = self.number("I")
        count = self.number("Q")
        if kind == _STRING:
            self.skip_texts(count)
            return None
        layout = _known(kind)
        if wanted and count <= MAX_AXES:
            return [self.number(layout) for _ in range(count)]
        self.skip(count * struct.calcsize("<" + layout))
        return None

    def skip_texts(self, count: int) -> None:
        if count > (MAX_HEADER - self.at) // _LENGTH.size:
            raise Damage(f"it should have {count:,} texts in a list, for which its header has no room")
        at = self.at  # a local name, as there may be two million texts
        for _ in range(count):
            if at + _LENGTH.size > len(self.begun):
                self.at = at
                self.skip(_LENGTH.size)  # which reads on
            at += _LENGTH.size + _LENGTH.unpack_from(self.begun, at)[0]
        self.at = at
        self.skip(0)


def _read(header: _Reader, file: Path) -> tuple[dict[str, TensorHeader], dict[str, Any]]:
    _check_version(header.number("I"), file)
    tensors = header.count("Q", MAX_TENSORS, "tensors")
    entries = header.count("Q", MAX_ENTRIES, "entries about it")
    metadata = _named(entries, header.text, header.value)
    found = _named(tensors, lambda: header.text(MAX_NAME), lambda _: _tensor(header))
    alignment = metadata.get(_ALIGNMENT, 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20:
        raise Damage(f"{_ALIGNMENT} is {str(alignment)[:40]}")
    first = -(-header.at // alignment) * alignment
    headers = {
        name: TensorHeader(file, dtype, shape=_original(metadata, name, shape), start=first + offset)
        for name, (dtype, shape, offset) in found.items()
    }
    _check_places(headers, header.size)
    return headers, metadata


def _check_version(version: int, file: Path) -> None:
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *VERSIONS):
        raise CheckpointError(
            f"{file} is a big-endian GGUF file, for machines that write numbers the other way round; fetch the "
            "little-endian one, or convert it with gguf-convert-endian"
        )
    if version == 1:
        raise CheckpointError(f"{file} is of version 1 of GGUF, which nobody writes any more; fetch a newer one of it")
    raise Damage(f"it is of version {version}, readable are {', '.join(map(str, VERSIONS))}")


def _named(count: int, name: Callable[[], str], value: Callable[[str], Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for _ in range(count):
        key = name()
        if key in content:
            raise Damage(f"its header names {key[:100]!r} twice")
        content[key] = value(key)
    return content


def _tensor(header: _Reader) -> tuple[str, tuple[int, ...], int]:
    """(type, shape, where it begins after the header)."""
    axes = header.count("I", MAX_AXES, "axes of a tensor")
    shape = tuple(header.number("Q") for _ in range(axes))[::-1]  # GGUF names the width of a row first
    kind = header.number("I")
    offset = header.number("Q")
    if kind not in GGUF_TYPES:
        raise Damage(f"it holds tensors of type {kind}, which GGUF does not have, or not yet")
    name, block, _ = GGUF_TYPES[kind]
    if prod(shape) % block:
        raise Damage(f"a tensor of shape {list(shape)} is not whole blocks of {block}, as {name} stores them")
    return name, shape, offset


def _original(metadata: dict[str, Any], name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor had before it was stored in this one, where the metadata say so."""
    original = metadata.get(_ORIGINAL_SHAPE + name)
    if not isinstance(original, list) or len(original) > MAX_AXES:
        return shape
    whole = all(type(n) is int and n > 0 for n in original) and prod(original) == prod(shape)
    return tuple(original) if whole else shape


def _check_places(headers: dict[str, TensorHeader], room: int) -> None:
    """Tensors must lie in the file, and not in one another."""
    end = 0
    before = ""
    for name, header in sorted(headers.items(), key=lambda item: (item[1].start, item[1].own_bytes)):
        if header.start < end:
            raise Damage(f"tensor {name[:100]!r} begins within {before[:100]!r}")
        end = header.start + header.own_bytes
        before = name
    if end > room:
        raise Damage(f"its tensors end at {end:,}, and it has {room:,} bytes")


def _known(kind: int) -> str:
    if kind not in _NUMBERS:
        raise Damage(f"it holds a value of type {kind}, which GGUF does not have")
    return _NUMBERS[kind]
