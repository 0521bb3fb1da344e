"""One stored tensor: where it lies, and, where it is packed, its bytes on the way to the numbers they stand for."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.int8 import rotated
from .formats import BLOCKS, FORMATS, SCRATCH, SCRATCH_ROTATED, Format, piece_on

SCALED = 128  # rows and columns that a number of a block-wise scale is for
_FEWEST = 16  # rows that are rotated at once
_ALIGN = 16  # bytes, between a tensor's own and its scale's


@dataclass(frozen=True)
class TensorHeader:
    """A stored tensor: its file, its type as safetensors or GGUF spells it ("BF16"), its shape, where its bytes begin.

    scale: what it is multiplied with, where it is FP8 or INT8: one number, one for each row, or for each 128 x 128.
    group: columns that were rotated together before it was stored, see model/int8.py; 0 for none. in_floats: whether
    its file asks for products in floating point. runs: whether it runs as it is stored though its type is one that does
    not by itself, as INT8 without its scale.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    scale: "TensorHeader | None" = None
    group: int = 0
    in_floats: bool = False
    runs: bool = False

    @property
    def format(self) -> Format:
        return FORMATS[self.dtype]

    @property
    def packed(self) -> bool:
        """Whether it has to be unpacked before it runs."""
        return not (self.runs or self.format.runs) or self.scale is not None

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def own_bytes(self) -> int:
        """In its file, whether its type is read here or not; without its scale."""
        block, size = BLOCKS[self.dtype]
        return -(-self.numel // block) * size

    @property
    def nbytes(self) -> int:
        return self.own_bytes + (0 if self.scale is None else self.scale.own_bytes)

    @property
    def rows(self) -> int:
        return _rows(self.shape)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return prod(self.shape[1:]) if len(self.shape) > 1 else self.numel

    @property
    def table(self) -> tuple[int, int]:
        """Rows and columns of its numbers, if it is a scale; none where it has more axes than a scale can have."""
        rows, columns, *_ = *self.shape, 1, 1
        return (rows, columns) if len(self.shape) < 3 else (0, 0)

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns that a number of its scale is for."""
        table = (1, 1) if self.scale is None else self.scale.table
        if table == (1, 1):
            return self.rows, self.width
        return (1, self.width) if table == (self.rows, 1) else (SCALED, SCALED)

    @property
    def scale_fits(self) -> bool:
        if self.scale is None:
            return True
        plain = self.scale.dtype in FORMATS and not self.scale.packed
        rows, columns = self.tile
        return plain and self.scale.table == (-(-self.rows // rows), -(-self.width // columns))

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """What it takes in memory, or as many rows of it as `shape` has: packed, with the whole scale behind them."""
        return self._scale_start(_rows(shape)) + (0 if self.scale is None else 4 * self.scale.numel)

    def packed_in(self, buffer: Tensor, shape: tuple[int, ...], first_row: int = 0) -> "Packed":
        """It, or its rows from the first one on, in a uint8 buffer of `packed_bytes`."""
        rows = _rows(shape)
        raw = buffer[: self.format.nbytes(rows * self.width)].view(rows, -1)
        if self.scale is None:
            return Packed(self.format, shape, raw)
        scale = buffer[self._scale_start(rows) :].view(torch.float32).view(self.scale.table)
        return Packed(self.format, shape, raw, scale=scale, tile=self.tile, first_row=first_row, group=self.group)

    @property
    def scratch(self) -> int:
        """Bytes a number that unpacking a piece of it takes beside its source and target."""
        return SCRATCH_ROTATED if self.group else SCRATCH

    def _scale_start(self, rows: int) -> int:
        size = self.format.nbytes(rows * self.width)
        return size if self.scale is None else -(-size // _ALIGN) * _ALIGN


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed tensor, or rows of one. shape: as it runs. bytes: uint8 (rows, bytes of a row).

    scale: float32, of the whole tensor; each of its numbers is for a tile of so many rows and columns. first_row: the
    place of these rows in the whole tensor. group: columns that were rotated together, 0 for none.
    """

    format: Format
    shape: tuple[int, ...]
    bytes: Tensor
    scale: Tensor | None = None
    tile: tuple[int, int] = (1, 1)
    first_row: int = 0
    group: int = 0

    @property
    def nbytes(self) -> int:
        return self.bytes.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def rows(self, first: int, count: int) -> "Packed":
        """Some rows. They are whole blocks, so nothing is unpacked for it."""
        shape = (count, *self.shape[1:])
        return replace(self, shape=shape, bytes=self.bytes[first : first + count], first_row=self.first_row + first)

    def at(self, indexes: Tensor) -> "Packed":
        """The rows of these indexes, copied."""
        shape = (len(indexes), *self.shape[1:])
        raw = self.bytes[indexes]
        if self.scale is None:
            return replace(self, shape=shape, bytes=raw)
        scale = self.scale[(self.first_row + indexes) // self.tile[0]]
        return replace(self, shape=shape, bytes=raw, scale=scale, tile=(1, self.tile[1]), first_row=0)

    def unpack(self, into: Tensor) -> None:
        """Write the numbers to a contiguous tensor of this shape, of any floating type, on the same device."""
        if self.group:
            self._unpack_rotated(into.view(len(self.bytes), -1))
            return
        self.format.unpack(self.bytes.reshape(-1), into.view(-1))
        if self.scale is not None:
            self._multiply(into.view(len(self.bytes), -1), self.scale)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        into = torch.empty(self.shape, dtype=dtype, device=self.bytes.device)
        self.unpack(into)
        return into

    def _unpack_rotated(self, into: Tensor) -> None:
        """into: (rows, width). Some rows at a time, in float32, and rounded once."""
        height = max(1, piece_on(into.device) // into.shape[1])
        plain = replace(self, group=0)
        for first in range(0, len(into), height):
            count = min(height, len(into) - first)
            turned = plain.rows(first, count).unpacked(torch.float32).view(count, -1)
            few = max(0, _FEWEST - count)  # a product of fewer rows may sum in another order
            into[first : first + count].copy_(rotated(F.pad(turned, (0, 0, 0, few)), self.group)[:count])

    def _multiply(self, numbers: Tensor, scale: Tensor) -> None:
        """numbers: (rows, width). FP8 and INT8 fit in every type they are unpacked to, so that they are rounded once,
        here."""
        rows, columns = self.tile
        height = max(1, piece_on(numbers.device) // numbers.shape[1])
        whole = numbers.shape[1] // columns * columns
        for start, part in zip(range(0, len(numbers), height), numbers.split(height), strict=True):
            first = self.first_row + start
            factors = scale[torch.arange(first, first + len(part), dtype=torch.int64, device=part.device) // rows]
            if whole:
                tiles = part[:, :whole].unflatten(1, (-1, columns))
                torch.mul(tiles, factors[:, : whole // columns, None], out=tiles)
            if whole < part.shape[1]:
                torch.mul(part[:, whole:], factors[:, -1:], out=part[:, whole:])


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 else 1
