"""Rows of a packed tensor."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sensenova_core.checkpoint import Packed
from sensenova_core.memory.units import UNDERSTANDING
from tests.support.each import each
from tests.support.headers import read_headers


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "plain", "scale_weight", "rows", "weight_scale_inv"])
def test_rows_are_whole_blocks(load, made, name):
    """So pieces of the output head and rows of the embedding are cut without unpacking anything else."""
    engine, head = load(name), "language_model.lm_head.weight"
    ((_, packed),) = engine.stored.mapped([head])
    assert isinstance(packed, Packed)
    numbers = load_file(made(name)[1] / "model.safetensors")[head]
    assert torch.equal(packed.unpacked(torch.float32), numbers)
    for first, height in ((0, 1), (100, 300), (len(numbers) - 129, 129)):
        assert torch.equal(packed.rows(first, height).unpacked(torch.float32), numbers[first : first + height])
        some = torch.tensor([height - 1, 0, 0])
        assert torch.equal(packed.rows(first, height).at(some).unpacked(torch.float32), numbers[first + some])
    pieces = engine.memory.residency.units[UNDERSTANDING][engine.config.decoder.num_layers :]
    assert len(pieces) > 1 and sum(unit.parts[0].shape[0] for unit in pieces) == len(numbers)


@each("width", [5, 128, 200, 256])
@each("piece", [1, 1000, 2**20])
def test_scales_of_ragged_tensors(tmp_path, monkeypatch, width, piece):
    monkeypatch.setattr("sensenova_core.checkpoint.formats.PIECE_CPU", piece)
    stored = torch.randn(300, width, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = torch.rand(3, -(-width // 128))
    save_file({"a.weight": stored, "a.weight_scale_inv": scale}, tmp_path / "x.safetensors")
    header = read_headers(tmp_path)["a.weight"]
    spread = scale.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :width]
    assert header.scale_fits
    for first, height in ((0, 300), (130, 60)):
        shape = (height, width)
        packed = header.packed_in(torch.empty(header.packed_bytes(shape), dtype=torch.uint8), shape, first)
        packed.bytes.copy_(stored[first : first + height].view(torch.uint8))
        packed.scale.copy_(scale)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            numbers = (stored.float() * spread)[first : first + height].to(dtype)
            assert torch.equal(packed.unpacked(dtype), numbers)
