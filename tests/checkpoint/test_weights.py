"""Stored tensors into buffers: every pair of types, parts of tensors, several threads, and files that change."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sensenova_core import CheckpointError
from sensenova_core.checkpoint import StoredWeights
from sensenova_core.checkpoint import weights as module
from tests.support.each import each
from tests.support.headers import read_headers

STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ROWS = 37
SHAPES = {"matrix": (ROWS, 11), "norm": (13,), "cube": (5, 3, 4)}


class Model(nn.Module):
    """A matrix, a norm and a tensor of three axes, under names that are as published."""

    def __init__(self):
        super().__init__()
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False))


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    monkeypatch.setattr(module, "checkpoint_name", lambda name: name)


@pytest.fixture
def stored(tmp_path):
    """dtype -> the weights of a file in that type, and what is in it."""

    def make(dtype: torch.dtype, run: torch.dtype | None = None) -> tuple[StoredWeights, dict[str, torch.Tensor], Path]:
        generator = torch.Generator().manual_seed(0)
        tensors = {name: (torch.randn(shape, generator=generator) * 100).to(dtype) for name, shape in SHAPES.items()}
        save_file(tensors, tmp_path / "model.safetensors")
        return StoredWeights(Model(), read_headers(tmp_path), run), tensors, tmp_path / "model.safetensors"

    return make


def read(weights: StoredWeights, name: str, into: torch.Tensor, first_row: int = 0) -> torch.Tensor:
    for part in weights.read(name, into, first_row):
        part.result()
    return into


@each("into", STORED.values())
@each("dtype", STORED.values())
def test_every_pair_of_types(stored, dtype, into):
    weights, tensors, _ = stored(dtype)
    for name, value in tensors.items():
        assert torch.equal(read(weights, name, torch.empty(value.shape, dtype=into)), value.to(into))


@each("chunk", [4, 12, 44, 100, 4096])
@each("into", STORED.values())
@each("dtype", STORED.values())
def test_tensors_larger_than_a_chunk(stored, monkeypatch, dtype, into, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    weights, tensors, _ = stored(dtype)
    for name, value in tensors.items():
        buffer = torch.full(value.shape, -7.0, dtype=into)
        parts = weights.read(name, buffer)
        assert len(parts) == -(-value.numel() // (chunk // dtype.itemsize))
        for part in parts:
            part.result()
        assert torch.equal(buffer, value.to(into))


@each("chunk", [12, 4096])
@each("first, count", [(0, ROWS), (0, 1), (1, 5), (20, 17), (36, 1)])
@each("into", [torch.float32, torch.bfloat16])
def test_rows_from_the_middle(stored, monkeypatch, into, first, count, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    weights, tensors, _ = stored(torch.bfloat16)
    rows = read(weights, "matrix", torch.empty(count, 11, dtype=into), first)
    assert torch.equal(rows, tensors["matrix"][first : first + count].to(into))


def test_rows_of_more_than_two_axes(stored):
    weights, tensors, _ = stored(torch.float16)
    assert torch.equal(read(weights, "cube", torch.empty(2, 3, 4, dtype=torch.float16), 3), tensors["cube"][3:])


def test_nothing_beyond_the_buffer_is_touched(stored):
    weights, tensors, _ = stored(torch.bfloat16)
    whole = torch.full((ROWS + 2, 11), -7.0)
    read(weights, "matrix", whole[1:-1])
    assert torch.equal(whole[1:-1], tensors["matrix"].float())
    assert (whole[0] == -7).all() and (whole[-1] == -7).all()


def test_parts_of_one_flat_buffer(stored):
    """As a unit's tensors lie."""
    weights, tensors, _ = stored(torch.bfloat16)
    flat = torch.zeros(4096, dtype=torch.uint8)
    places = {"norm": 256, "matrix": 512, "cube": 2048}
    views = {
        name: flat[start : start + tensors[name].nbytes].view(torch.bfloat16).view(tensors[name].shape)
        for name, start in places.items()
    }
    for name, view in views.items():
        read(weights, name, view)
    assert all(torch.equal(views[name], tensors[name]) for name in places)
    assert int(flat.count_nonzero()) <= sum(value.nbytes for value in tensors.values())


def test_short_reads_go_on(stored, monkeypatch):
    """A network's file may give less at a time than it is asked for."""
    weights, tensors, _ = stored(torch.float32)
    real = open

    class Slow:
        def __init__(self, *arguments, **settings):
            self.file = real(*arguments, **settings)
            self.fileno = self.file.fileno

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, start):
            self.file.seek(start)

        def readinto(self, view):
            return self.file.readinto(view[:7])

    monkeypatch.setattr(module, "open", Slow, raising=False)
    assert torch.equal(read(weights, "matrix", torch.empty(ROWS, 11)), tensors["matrix"])


def test_many_at_once(stored):
    weights, tensors, _ = stored(torch.bfloat16)
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(read, weights, name, torch.empty(value.shape)) for name, value in tensors.items()] * 20
    for future, value in zip(done, [*tensors.values()] * 20, strict=True):
        assert torch.equal(future.result(), value.float())


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_that_was_truncated(stored, name):
    weights, tensors, file = stored(torch.float32)
    os.truncate(file, file.stat().st_size - 1)
    for into in STORED.values():
        with pytest.raises(CheckpointError, match=r"model\.safetensors was changed or removed after it was loaded"):
            read(weights, name, torch.empty(tensors[name].shape, dtype=into))


@pytest.mark.parametrize("into", [torch.float32, torch.bfloat16], ids=str)
def test_a_file_that_ends_early_is_not_read_as_nought(stored, into, monkeypatch):
    """It was whole a moment ago."""
    weights, tensors, file = stored(torch.float32)
    monkeypatch.setattr(weights, "_check", lambda file, stream: None)
    os.truncate(file, file.stat().st_size - sum(value.nbytes for value in tensors.values()) + 1)
    for name, value in tensors.items():
        with pytest.raises(CheckpointError, match=r"model\.safetensors ends early.*load it again"):
            read(weights, name, torch.empty(value.shape, dtype=into))


@pytest.mark.parametrize("change", ["time", "file"])
def test_a_file_in_the_place_of_another(stored, tmp_path, change):
    """Of the same size and content; as an old copy of it has, of the same time too."""
    weights, tensors, file = stored(torch.float32)
    times, kept = file.stat(), tmp_path / "kept"
    (tmp_path / "other").write_bytes(file.read_bytes())
    file.rename(kept)
    (tmp_path / "other").rename(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + (change == "time")))
    with pytest.raises(CheckpointError, match="load it again"):
        read(weights, "norm", torch.empty(13))
    with pytest.raises(CheckpointError, match="load it again"):
        list(weights.mapped(["norm"]))
    kept.replace(file)  # the same file after all
    assert torch.equal(read(weights, "norm", torch.empty(13)), tensors["norm"])


def test_a_file_that_is_gone(stored):
    weights, _, file = stored(torch.float32)
    file.unlink()
    for use in (lambda: read(weights, "norm", torch.empty(13)), lambda: list(weights.mapped(["norm"]))):
        with pytest.raises(CheckpointError, match=r"model\.safetensors was changed or removed"):
            use()


def test_mapped_tensors_are_as_stored(stored):
    weights, tensors, _ = stored(torch.bfloat16, torch.float32)
    mapped = dict(weights.mapped([*tensors]))
    assert list(weights.mapped([])) == []
    assert all(mapped[name].dtype == torch.bfloat16 and torch.equal(mapped[name], tensors[name]) for name in tensors)


def test_types_to_run_in(stored):
    kept, _, _ = stored(torch.bfloat16)
    assert {kept.dtype(name) for name in SHAPES} == {torch.bfloat16}
    cast, tensors, _ = stored(torch.bfloat16, torch.float32)
    assert {cast.dtype(name) for name in SHAPES} == {torch.float32}
    assert cast.nbytes == 2 * kept.nbytes == 2 * sum(value.nbytes for value in tensors.values())


def test_norms_stay_in_their_own_type_unless_another_is_asked_for(tmp_path):
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    tensors["norm"] = tensors["norm"].float()
    save_file(tensors, tmp_path / "model.safetensors")
    headers = read_headers(tmp_path)
    assert StoredWeights(Model(), headers, None).dtype("norm") == torch.float32
    assert StoredWeights(Model(), headers, None).dtype("matrix") == torch.bfloat16
    assert StoredWeights(Model(), headers, torch.float16).dtype("norm") == torch.float16


def test_two_files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    for index, name in enumerate(tensors):
        save_file({name: tensors[name]}, tmp_path / f"{index}.safetensors")
    weights = StoredWeights(Model(), read_headers(tmp_path), None)
    for name, value in tensors.items():
        assert torch.equal(read(weights, name, torch.empty(value.shape)), value)
    assert [name for name, _ in weights.mapped(["cube", "matrix"])] == ["cube", "matrix"]
    (tmp_path / "1.safetensors").unlink()  # of the norm
    assert torch.equal(read(weights, "cube", torch.empty(5, 3, 4)), tensors["cube"])
    with pytest.raises(CheckpointError, match=r"1\.safetensors"):
        read(weights, "norm", torch.empty(13))
