"""Which tensors a checkpoint holds and where they lie, from file headers alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from .files import GGUF, Files, locate, shards_of
from .gguf_file import read_gguf
from .safetensors_file import damaged, read_header

# What safetensors calls the types that weights of this family are stored in.
STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class TensorHeader:
    """One stored tensor: its file, its type as safetensors spells it ("BF16"), its shape, and where its bytes begin."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def itemsize(self) -> int:
        return STORED_DTYPES[self.dtype].itemsize

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize


def read_headers(path: str | Path) -> dict[str, TensorHeader]:
    """Name -> header of every tensor of a checkpoint, by the names in its files. No weight is read.

    Raises CheckpointError for a missing, truncated or damaged file, or when an index and its shards disagree.
    """
    return read_files(locate(path))[0]


def read_files(files: Files) -> tuple[dict[str, TensorHeader], dict[str, Any]]:
    """Name -> header of every tensor, and the files' metadata. Raises CheckpointError."""
    headers: dict[str, TensorHeader] = {}
    metadata: dict[str, Any] = {}
    for file in files.weights:
        inside, about = _read_file(file)
        metadata |= about
        for name, header in inside.items():
            if name in headers:
                raise CheckpointError(
                    f"{name} lies both in {headers[name].file} and in {file.name}; remove one, or give one file itself"
                )
            headers[name] = header
    if files.index:
        _check_index(files.index, headers)
    return headers, metadata


def _read_file(file: Path) -> tuple[dict[str, TensorHeader], dict[str, Any]]:
    tensors, metadata = (read_gguf if file.suffix.lower() == GGUF else read_header)(file)
    return {name: TensorHeader(file, *tensor) for name, tensor in tensors.items()}, metadata


def _check_index(index: Path, headers: dict[str, TensorHeader]) -> None:
    where = shards_of(index)
    wrong = [name for name, file in where.items() if name not in headers or headers[name].file.name != file]
    if wrong or len(where) != len(headers):
        name = wrong[0] if wrong else next(name for name in headers if name not in where)
        raise CheckpointError(
            f"{index}: says that {name} lies in {where.get(name, 'no file')}, "
            f"it lies in {headers[name].file.name if name in headers else 'none'}; fetch both anew, of one version"
        )


@contextmanager
def opened(file: Path) -> Iterator[safe_open]:
    """A memory-mapped safetensors file. Raises CheckpointError if it is not there or not whole."""
    try:
        stored = safe_open(file, framework="pt")
    except RuntimeError as error:
        raise CheckpointError(
            f"{file} ({file.stat().st_size / 2**30:.0f} GiB) cannot be mapped to memory: {error}; use a version in "
            "shards of a few GB, or allow larger mappings (vm.overcommit_memory = 1 on Linux)"
        ) from error
    except (SafetensorError, OSError) as error:
        raise damaged(file, error) from error
    try:
        with stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise damaged(file, error) from error
