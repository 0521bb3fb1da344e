"""The types that weights are stored in, and how the packed ones become numbers again.

A packed type stores numbers in blocks, mostly as small whole numbers with scales that a group of them shares. The
layouts are those of ggml (https://github.com/ggml-org/ggml: ggml-common.h, ggml-quants.c); lowest bytes come first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

PIECE = 2**23  # numbers unpacked at a time on a card: enough to keep it busy, and 48 MiB at most beside them
PIECE_CPU = 2**18  # what a processor's cache holds: several times as fast as the above
SCRATCH = 6  # bytes a number that unpacking a piece takes beside its source and target

# Small whole numbers (blocks, groups, size), the scale of each group (blocks, groups), and what is taken from their
# product, of the same shape or None. Scales are float32, so that numbers are rounded once, to what they will run in.
Groups = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Format:
    """One stored type, by the name that safetensors or GGUF calls it.

    dtype: of plain numbers, which run as they are stored; None for packed ones. block: numbers that are stored
    together, in block_bytes. A row of a packed tensor is a whole number of blocks. numbers: the type of numbers that
    lie one by one, though they may not run so; None for blocks.
    """

    name: str
    block: int
    block_bytes: int
    dtype: torch.dtype | None
    _write: Callable[[Tensor, Tensor], None]
    numbers: torch.dtype | None = None

    @property
    def factor_dtype(self) -> torch.dtype | None:
        """What factors of LoRAs are used in: FP8 fits in bfloat16, and float64 is not needed for a sum of two bytes."""
        if self.dtype is not None or self.numbers is None:
            return self.dtype
        return torch.bfloat16 if self.block_bytes == 1 else torch.float32

    def nbytes(self, numbers: int) -> int:
        return numbers // self.block * self.block_bytes

    def unpack(self, raw: Tensor, into: Tensor) -> None:
        """Bytes (uint8) -> the numbers they stand for, in the type of `into`. Both contiguous, on one device."""
        step = piece_on(raw.device) // self.block
        pieces = raw.view(-1, self.block_bytes).split(step), into.view(-1, self.block).split(step)
        for blocks, numbers in zip(*pieces, strict=True):
            self._write(blocks, numbers)


def piece_on(device: torch.device) -> int:
    """Numbers to unpack at a time."""
    return PIECE_CPU if device.type == "cpu" else PIECE


def _write_as(dtype: torch.dtype, blocks: Tensor, numbers: Tensor) -> None:
    numbers.copy_(blocks.view(dtype))


def _write_groups(decode: Callable[[Tensor], Groups], blocks: Tensor, numbers: Tensor) -> None:
    whole, scale, less = decode(blocks)
    numbers = numbers.view(whole.shape)
    if less is None:
        torch.mul(whole, scale.unsqueeze(-1), out=numbers)
    else:  # in two steps, as the reference rounds
        product = numbers if numbers.dtype == torch.float32 else torch.empty_like(numbers, dtype=torch.float32)
        torch.mul(whole, scale.unsqueeze(-1), out=product)
        torch.sub(product, less.unsqueeze(-1), out=numbers)


def _fields(packed: Tensor, bits: int) -> Tensor:
    """(..., bytes) -> (..., 8 / bits, bytes): each byte's fields of so many bits, the lowest first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)[:, None]
    return (packed.unsqueeze(-2) >> shifts).bitwise_and_((1 << bits) - 1)


def _floats(halves: Tensor) -> Tensor:
    """(blocks, 2 * count) bytes -> float32 (blocks, count)."""
    return halves.view(torch.float16).float()


def _q8_0(blocks: Tensor) -> Groups:
    return blocks[:, 2:].view(torch.int8).unsqueeze(1), _floats(blocks[:, :2]), None


def _q4_0(blocks: Tensor) -> Groups:
    whole = _fields(blocks[:, 2:], 4).view(-1, 1, 32)
    return whole.view(torch.int8).sub_(8), _floats(blocks[:, :2]), None


def _q4_1(blocks: Tensor) -> Groups:
    return _fields(blocks[:, 4:], 4).view(-1, 1, 32), _floats(blocks[:, :2]), -_floats(blocks[:, 2:4])


def _five_bits(high: Tensor, low: Tensor) -> Tensor:
    """Bytes (blocks, 4) of fifth bits in order, and (blocks, 16) of the other four."""
    fifth = _fields(high.unsqueeze(-1), 1).view(-1, 1, 32)
    return fifth.bitwise_left_shift_(4).bitwise_or_(_fields(low, 4).view(-1, 1, 32))


def _q5_0(blocks: Tensor) -> Groups:
    whole = _five_bits(blocks[:, 2:6], blocks[:, 6:])
    return whole.view(torch.int8).sub_(16), _floats(blocks[:, :2]), None


def _q5_1(blocks: Tensor) -> Groups:
    return _five_bits(blocks[:, 4:8], blocks[:, 8:]), _floats(blocks[:, :2]), -_floats(blocks[:, 2:4])


def _q2_k(blocks: Tensor) -> Groups:
    """Scales (16), numbers (64), the scale of scales and that of offsets. 16 groups of 16."""
    scale, less = (_fields(blocks[:, :16], 4) * _floats(blocks[:, 80:]).unsqueeze(-1)).unbind(1)
    return _fields(blocks[:, 16:80].unflatten(1, (2, 32)), 2).view(-1, 16, 16), scale, less


def _q3_k(blocks: Tensor) -> Groups:
    """Third bits (32), the other two (64), scales of 6 bits (12), their scale. 16 groups of 16."""
    high = _fields(blocks[:, :32], 1).bitwise_left_shift_(2)
    whole = _fields(blocks[:, 32:96].unflatten(1, (2, 32)), 2).view(-1, 16, 16).bitwise_or_(high.view(-1, 16, 16))
    scale = _fields(blocks[:, 96:104], 4).flatten(1) + (_fields(blocks[:, 104:108], 2).flatten(1) << 4)
    return whole.view(torch.int8).sub_(4), scale.view(torch.int8).sub_(32) * _floats(blocks[:, 108:]), None


def _scales_and_offsets(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of Q4_K and Q5_K: their scales, and 8 pairs of 6 bits in 12 bytes. The first 4 pairs lie in the low bits of 8
    bytes, whose high bits belong to the last 4, as do the last 4 bytes."""
    first = blocks[:, 4:12].unflatten(1, (2, 4))
    last = _fields(blocks[:, 12:16], 4) + (first >> 6 << 4)
    scale, less = (torch.cat([first & 63, last], -1) * _floats(blocks[:, :4]).unsqueeze(-1)).unbind(1)
    return scale, less


def _q4_k(blocks: Tensor) -> Groups:
    """8 groups of 32."""
    return _fields(blocks[:, 16:].unflatten(1, (4, 32)), 4).view(-1, 8, 32), *_scales_and_offsets(blocks)


def _q5_k(blocks: Tensor) -> Groups:
    """Fifth bits (32) lie before the other four (128)."""
    fifth = _fields(blocks[:, 16:48], 1).bitwise_left_shift_(4)
    whole = _fields(blocks[:, 48:].unflatten(1, (4, 32)), 4).view(-1, 8, 32).bitwise_or_(fifth)
    return whole, *_scales_and_offsets(blocks)


def _q6_k(blocks: Tensor) -> Groups:
    """Four bits (128), the other two (64), scales (16), their scale. 16 groups of 16."""
    high = _fields(blocks[:, 128:192].unflatten(1, (2, 32)), 2).bitwise_left_shift_(4)
    whole = _fields(blocks[:, :128].unflatten(1, (2, 64)), 4).view(-1, 16, 16).bitwise_or_(high.view(-1, 16, 16))
    scale = blocks[:, 192:208].view(torch.int8) * _floats(blocks[:, 208:])
    return whole.view(torch.int8).sub_(32), scale, None


def _plain(name: str, dtype: torch.dtype) -> Format:
    return Format(name, 1, dtype.itemsize, dtype, partial(_write_as, dtype), dtype)


def _converted(name: str, dtype: torch.dtype) -> Format:
    """Plain numbers of a type that does not run: unpacked as blocks are."""
    return Format(name, 1, dtype.itemsize, None, partial(_write_as, dtype), dtype)


def _grouped(name: str, block: int, block_bytes: int, decode: Callable[[Tensor], Groups]) -> Format:
    return Format(name, block, block_bytes, None, partial(_write_groups, decode))


FORMATS = {
    each.name: each
    for each in (
        _plain("F32", torch.float32),
        _plain("F16", torch.float16),
        _plain("BF16", torch.bfloat16),
        _converted("F64", torch.float64),
        _converted("F8_E4M3", torch.float8_e4m3fn),
        _converted("F8_E5M2", torch.float8_e5m2),
        _grouped("Q8_0", 32, 34, _q8_0),
        _grouped("Q4_0", 32, 18, _q4_0),
        _grouped("Q4_1", 32, 20, _q4_1),
        _grouped("Q5_0", 32, 22, _q5_0),
        _grouped("Q5_1", 32, 24, _q5_1),
        _grouped("Q2_K", 256, 84, _q2_k),
        _grouped("Q3_K", 256, 110, _q3_k),
        _grouped("Q4_K", 256, 144, _q4_k),
        _grouped("Q5_K", 256, 176, _q5_k),
        _grouped("Q6_K", 256, 210, _q6_k),
    )
}
