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
SCRATCH_ROTATED = 12  # where it was rotated: float32, before and after, and in the type that it was stored in

# The types of GGUF, by ggml's numbers of them: name, numbers in a block, and its bytes.
GGUF_TYPES = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8)},
    **{24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24)},
    **{8: ("Q8_0", 32, 34), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 20: ("IQ4_NL", 32, 18)},
    **{10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176)},
    **{14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74)},
    **{18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82)},
    **{23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66)},
}
# The types of safetensors: numbers that lie in whole bytes, and these bytes.
SAFETENSORS_TYPES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), (1, 8)),
    **dict.fromkeys(("F32", "I32", "U32"), (1, 4)),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), (1, 2)),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), (1, 1)),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), (4, 3)),
    "F4": (2, 1),
}
# All types that a file can hold, those too that are not read here.
BLOCKS = SAFETENSORS_TYPES | {name: (block, size) for name, block, size in GGUF_TYPES.values()}

# Small whole numbers (blocks, groups, size), the scale of each group (blocks, groups), and what is taken from their
# product, of the same shape or None. Scales are float32, so that numbers are rounded once, to what they will run in.
Groups = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Format:
    """How one type is stored. block: numbers that lie together, in block_bytes. A row is a whole number of blocks.

    numbers: the type of numbers that lie one by one; blocks of several are bytes. runs: whether they run as they are
    stored, and need not be unpacked.
    """

    block: int
    block_bytes: int
    numbers: torch.dtype
    runs: bool
    _write: Callable[[Tensor, Tensor], None]

    @property
    def factor_dtype(self) -> torch.dtype:
        """What factors of LoRAs are used in: FP8 fits in bfloat16, and float64 is not needed for a sum of two bytes."""
        if self.runs:
            return self.numbers
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


def _one_by_one(dtype: torch.dtype, *, runs: bool) -> Format:
    """Plain numbers. Those of a type that does not run are unpacked as blocks are."""
    return Format(1, dtype.itemsize, numbers=dtype, runs=runs, _write=partial(_write_as, dtype))


def _grouped(name: str, decode: Callable[[Tensor], Groups]) -> Format:
    return Format(*BLOCKS[name], numbers=torch.uint8, runs=False, _write=partial(_write_groups, decode))


# The types that are read, by the names that safetensors and GGUF call them.
FORMATS = {
    "F32": _one_by_one(torch.float32, runs=True),
    "F16": _one_by_one(torch.float16, runs=True),
    "BF16": _one_by_one(torch.bfloat16, runs=True),
    "F64": _one_by_one(torch.float64, runs=False),
    "F8_E4M3": _one_by_one(torch.float8_e4m3fn, runs=False),
    "F8_E5M2": _one_by_one(torch.float8_e5m2, runs=False),
    "I8": _one_by_one(torch.int8, runs=False),  # with scales, see quantised.py
    "Q8_0": _grouped("Q8_0", _q8_0),
    "Q4_0": _grouped("Q4_0", _q4_0),
    "Q4_1": _grouped("Q4_1", _q4_1),
    "Q5_0": _grouped("Q5_0", _q5_0),
    "Q5_1": _grouped("Q5_1", _q5_1),
    "Q2_K": _grouped("Q2_K", _q2_k),
    "Q3_K": _grouped("Q3_K", _q3_k),
    "Q4_K": _grouped("Q4_K", _q4_k),
    "Q5_K": _grouped("Q5_K", _q5_k),
    "Q6_K": _grouped("Q6_K", _q6_k),
}
