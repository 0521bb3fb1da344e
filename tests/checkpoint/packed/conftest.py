"""Folders of packed weights, made once, and engines that run them."""

from collections.abc import Callable
from pathlib import Path

import pytest

import sensenova_core
from sensenova_core import Engine
from tests.support.geometries import write_checkpoint
from tests.support.instructions import few_instructions  # noqa: F401  # for all tests here
from tests.support.packing import everywhere, mixed, wide, write_fp8, write_gguf
from tests.support.streaming import allow

SCALINGS = ["plain", "scale_weight", "weight_scale", "rows", "weight_scale_inv"]


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Plain, in float32."""
    return write_checkpoint(tmp_path_factory.mktemp("source"), wide())


@pytest.fixture(scope="session")
def made(source, tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """A type, a way to scale FP8, or "mixed" -> a folder with packed weights, and one with their numbers."""
    folders: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in folders:
            target = tmp_path_factory.mktemp(name)
            if name in SCALINGS:
                folders[name] = write_fp8(source, target, name)
            else:
                folders[name] = write_gguf(source, target, mixed if name == "mixed" else everywhere(name))
        return folders[name]

    return make


@pytest.fixture
def load(made) -> Callable[..., Engine]:
    """(name, settings) -> an engine in float32; slots=n gives its weights room for n buffers."""

    def loaded(name: str = "mixed", vram_mode: str = "balanced", slots: int | None = None, **settings) -> Engine:
        engine = sensenova_core.load(made(name)[0], vram_mode=vram_mode, **{"dtype": "float32"} | settings)
        if slots is not None:
            allow(engine, slots)
        return engine

    return loaded
