"""Which tensors a checkpoint holds and where they lie, from file headers alone."""

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .files import GGUF, Files, locate, shards_of
from .formats import FORMATS
from .gguf_file import BLOCKS, read_gguf
from .safetensors_file import BITS, read_header
from .scales import with_scales
from .tensors import TensorHeader


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
    return with_scales(headers), metadata


def stored_bytes(header: TensorHeader) -> int:
    """What a tensor takes in its file, also in a type that cannot be read here."""
    if header.dtype in FORMATS:
        return header.nbytes
    numbers, size = BLOCKS.get(header.dtype) or (8, BITS[header.dtype])
    return -(-header.numel // numbers) * size


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


def map_file(file: Path) -> torch.UntypedStorage:
    """A file's bytes, mapped to memory: nothing is read before it is used. Raises CheckpointError."""
    try:
        return torch.UntypedStorage.from_file(str(file), False, file.stat().st_size)
    except RuntimeError as error:
        raise _unmapped(file, error) from error


def _unmapped(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} ({file.stat().st_size / 2**30:.0f} GiB) cannot be mapped to memory: {error}; use a version in "
        "shards of a few GB, or allow larger mappings (vm.overcommit_memory = 1 on Linux)"
    )
