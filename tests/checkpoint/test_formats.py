"""Stored types: unpacked as the reference library does it, bit for bit, in few bytes, and from any piece."""

import numpy
import pytest
import torch

from sensenova_core.checkpoint import formats
from sensenova_core.checkpoint.formats import FORMATS
from tests.support.each import each
from tests.support.peak import PeakBytes

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed: nothing to compare with")

GROUPED = [name for name in FORMATS if name.startswith("Q")]
HALVES = {  # where a block's float16 scales lie
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
EXTREME = [0.0, -0.0, 65504.0, -65504.0, 6e-8, -6e-8, 6.1e-5, 1.0, -1.0, 0.333]  # float16: largest, smallest
RUN = [torch.float32, torch.bfloat16, torch.float16]


def random_blocks(name: str, count: int, extreme: bool = True) -> torch.Tensor:
    """(count, bytes of a block): any bits, and scales that are numbers."""
    generator = numpy.random.default_rng(0)
    raw = generator.integers(0, 256, (count, FORMATS[name].block_bytes), dtype=numpy.uint8)
    for start in HALVES.get(name, ()):
        scales = generator.choice(EXTREME, count) if extreme else generator.uniform(-0.01, 0.01, count)
        raw[:, start : start + 2] = scales.astype(numpy.float16)[:, None].view(numpy.uint8)
    return torch.from_numpy(raw)


def reference(name: str, raw: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType[name]))


def unpacked(name: str, raw: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    into = torch.full((raw.shape[0] * FORMATS[name].block,), torch.nan, dtype=dtype)
    FORMATS[name].unpack(raw, into)
    return into


def bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.view(torch.int32)


@each("name", GROUPED)
def test_sizes_are_the_libraries(name):
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (FORMATS[name].block, FORMATS[name].block_bytes) == (block, size)
    assert FORMATS[name].nbytes(6 * block) == 6 * size


@each("name", [*GROUPED, "F32", "F16", "BF16"])
def test_numbers_are_the_references_bit_for_bit(name):
    raw = random_blocks(name, 3000)
    if not FORMATS[name].runs:
        expected = reference(name, raw).flatten()
    else:
        expected = reference(name, raw).flatten().float()
        raw, expected = raw[~expected.isnan()], expected[~expected.isnan()]
    assert torch.equal(bits(unpacked(name, raw)), bits(expected))


@pytest.mark.parametrize("name", ["F8_E4M3", "F8_E5M2"])
def test_every_number_of_8_bits(name):
    raw = torch.arange(256, dtype=torch.uint8)[:, None]
    sign, exponent_bits, mantissa_bits = raw[:, 0] >> 7, *((4, 3) if name == "F8_E4M3" else (5, 2))
    exponent = (raw[:, 0] >> mantissa_bits & (1 << exponent_bits) - 1).double()
    fraction = (raw[:, 0] & (1 << mantissa_bits) - 1).double() / (1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    value = torch.where(exponent > 0, (1 + fraction) * 2 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    value = value * (1 - 2 * sign.double())
    finite = unpacked(name, raw).isfinite()
    assert int((~finite).sum()) == (2 if name == "F8_E4M3" else 8)
    for dtype in RUN:
        assert torch.equal(unpacked(name, raw, dtype).double()[finite], value[finite])


@each("dtype", RUN[1:])
@each("name", GROUPED)
def test_numbers_are_rounded_once(name, dtype):
    raw = random_blocks(name, 300, extreme=False)
    assert torch.equal(unpacked(name, raw, dtype), reference(name, raw).flatten().to(dtype))


@pytest.mark.parametrize("name", FORMATS)
def test_pieces_are_the_whole(name, monkeypatch):
    raw = random_blocks(name, 41, extreme=False)
    whole = unpacked(name, raw, torch.bfloat16)
    for blocks in (1, 7, 40, 41):
        monkeypatch.setattr(formats, "PIECE_CPU", blocks * FORMATS[name].block)
        assert torch.equal(unpacked(name, raw, torch.bfloat16).view(torch.int16), whole.view(torch.int16))


@each("dtype", RUN)
@each("name", GROUPED)
def test_few_bytes_are_taken_beside(name, dtype):
    raw = random_blocks(name, 4096, extreme=False)
    into = torch.empty(4096 * FORMATS[name].block, dtype=dtype)
    with PeakBytes("cpu") as peak:
        peak.leave_out((raw, into))
        FORMATS[name].unpack(raw, into)
    assert 0 < peak.most <= formats.SCRATCH * min(into.numel(), formats.PIECE_CPU)
