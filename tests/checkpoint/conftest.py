"""A tiny checkpoint's tensors to damage, and files to write them to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.geometries import TOKENIZER, geometry, write_checkpoint


@pytest.fixture(scope="session")
def tensors(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = write_checkpoint(tmp_path_factory.mktemp("whole"), geometry(4))
    return load_file(folder / "model.safetensors")


@pytest.fixture
def written(tmp_path) -> Callable[..., Path]:
    """(content, name) -> a file of that content, with a tokenizer beside it."""
    tokenizer = TOKENIZER.to_str()

    def write(content: bytes, name: str = "damaged.safetensors") -> Path:
        (tmp_path / "tokenizer.json").write_text(tokenizer)
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write
