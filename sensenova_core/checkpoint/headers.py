"""Which tensors a checkpoint holds and where they lie, from file headers alone."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .comfy_quant import joined
from .files import GGUF, Files, shards_of
from .gguf_file import read_gguf
from .safetensors_file import read_header
from .tensors import TensorHeader

log = logging.getLogger(__name__)


def read_files(files: Files) -> tuple[dict[str, TensorHeader], dict[str, Any]]:
    """Name -> header of every tensor as it lies in the files, and the files' metadata. No weight is read.

    Raises CheckpointError for a missing, truncated or damaged file, or when an index and its shards disagree.
    """
    headers: dict[str, TensorHeader] = {}
    metadata: dict[str, Any] = {}
    log.info("reading the headers of %s", ", ".join(map(str, files.weights)))
    for file in files.weights:
        inside, about = read_gguf(file) if file.suffix.lower() == GGUF else read_header(file)
        metadata = joined(metadata, about, file)
        for name, header in inside.items():
            if name in headers:
                raise CheckpointError(
                    f"{name} lies both in {headers[name].file} and in {file.name}; remove one, or give one file itself"
                )
            headers[name] = header
    if files.index:
        _check_index(files.index, headers)
    return headers, metadata


@dataclass(frozen=True)
class Stored:
    """What files hold in one type."""

    tensors: int = 0
    numel: int = 0
    nbytes: int = 0

    def __add__(self, other: "Stored") -> "Stored":
        return Stored(self.tensors + other.tensors, self.numel + other.numel, self.nbytes + other.nbytes)


def stored_types(headers: Iterable[TensorHeader]) -> dict[str, Stored]:
    """Type -> what lies in the files in it, that of most bytes first. Types that cannot be read here count too."""
    types: dict[str, Stored] = {}
    for header in headers:
        types[header.dtype] = types.get(header.dtype, Stored()) + Stored(1, header.numel, header.own_bytes)
    return dict(sorted(types.items(), key=lambda item: -item[1].nbytes))


def _check_index(index: Path, headers: dict[str, TensorHeader]) -> None:
    where = shards_of(index)
    wrong = [name for name, file in where.items() if name not in headers or headers[name].file.name != file]
    if wrong or len(where) != len(headers):
        name = wrong[0] if wrong else next(name for name in headers if name not in where)
        raise CheckpointError(
            f"{index}: says that {name} lies in {where.get(name, 'no file')}, "
            f"it lies in {headers[name].file.name if name in headers else 'none'}; fetch both anew, of one version"
        )
