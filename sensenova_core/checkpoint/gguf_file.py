"""Which tensors a GGUF file holds and where they lie."""

from pathlib import Path

from ..errors import CheckpointError
from .tensors import TensorHeader


def read_gguf_headers(path: str | Path) -> dict[str, TensorHeader]:
    """Name -> header of every tensor, by the names and in the types of the file. No weight is read.

    Raises CheckpointError for a file that is no whole GGUF file, or if the gguf package is missing.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise CheckpointError(f"{path}: reading GGUF files needs the gguf package: pip install gguf") from error
    path = Path(path)
    try:
        tensors = GGUFReader(path).tensors
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is missing, truncated or no GGUF file: {error}; fetch it again") from error
    headers = {  # GGUF names the width of a row first
        each.name: TensorHeader(path, each.tensor_type.name, tuple(map(int, each.shape[::-1])), int(each.data_offset))
        for each in tensors
    }
    end = max((int(each.data_offset) + int(each.n_bytes) for each in tensors), default=0)
    if end > path.stat().st_size:
        raise CheckpointError(f"{path} ends before its last tensor; fetch it again")
    return headers
