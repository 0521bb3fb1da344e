"""The headers of a checkpoint that need be no model's."""

from pathlib import Path

from sensenova_core.checkpoint import TensorHeader, locate
from sensenova_core.checkpoint.headers import read_files
from sensenova_core.checkpoint.scales import with_scales


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """By the names in its files."""
    return with_scales(read_files(locate(path))[0])
