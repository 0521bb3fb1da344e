"""Which tensors a checkpoint folder holds and where they lie, from file headers alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from .scales import with_scales
from .tensors import TensorHeader

INDEX_NAME = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_headers(folder: str | Path) -> dict[str, TensorHeader]:
    """Name -> header of every tensor in a Hugging Face folder, sharded or not. No weight is read.

    Raises CheckpointError for a missing, truncated or damaged file, or when an index and its shards disagree.
    """
    headers: dict[str, TensorHeader] = {}
    for file in _shards(Path(folder)):
        for name, header in file_headers(file)[0].items():
            if name in headers:
                raise CheckpointError(f"{name} lies both in {headers[name].file.name} and in {file.name}; remove one")
            headers[name] = header
    return with_scales(headers)


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX_NAME
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
            reason = f"; {pickled[0]} is a pickle, which can run code and is never opened" if pickled else ""
            raise CheckpointError(f"{folder}: no .safetensors file in it{reason}; fetch the safetensors version")
        return files
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: not a safetensors index ({error!r}); fetch the file again") from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(
            f"{index}: names {outside[0]!r}, which is not a file of this folder; fetch the index again"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} shards missing: {', '.join(missing)}; fetch them again"
        )
    return [folder / name for name in names]


def file_headers(file: Path) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Of one safetensors file: name -> header of every tensor, and what it says of itself. Raises CheckpointError."""
    with opened(file) as weights:  # checks every offset against the file's size
        slices = {name: weights.get_slice(name) for name in list(weights.keys())}
        starts = _starts(file)
        headers = {
            name: TensorHeader(file, part.get_dtype(), tuple(part.get_shape()), starts[name])
            for name, part in slices.items()
        }
        return headers, dict(weights.metadata() or {})


def _starts(file: Path) -> dict[str, int]:
    """Where each tensor's bytes begin in a file whose header is known to be sound; safetensors does not tell."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


@contextmanager
def opened(file: Path) -> Iterator[safe_open]:
    """A memory-mapped safetensors file. Raises CheckpointError if it is not there or not whole."""
    try:
        stored = safe_open(file, framework="pt")
    except RuntimeError as error:
        raise _unmapped(file, error) from error
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error
    try:
        with stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


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


def _damaged(file: Path, error: Exception) -> CheckpointError:
    size = f" ({file.stat().st_size:,} bytes)" if file.exists() else ""
    return CheckpointError(f"{file}{size} is missing, truncated or damaged: {error}; fetch it again")
