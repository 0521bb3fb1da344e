"""Engines on tiny and deep checkpoints, and what they tell where weights lie in their files."""

from collections.abc import Callable
from pathlib import Path

import pytest

import sensenova_core
from sensenova_core import Engine
from tests.support.geometries import geometry, write_checkpoint
from tests.support.golden_set import checkpoint
from tests.support.instructions import few_instructions  # noqa: F401  # for all tests here
from tests.support.streaming import DEEP, TINY, allow, story

# MKL rounds a product with one row of float32 otherwise where the matrix begins at no multiple of 16 bytes. In buffers
# all do; in a mapped file they may not, as in that of tiny-u1.
ROUNDS = 16


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    """Name of a tiny or deep checkpoint -> its folder."""
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name in TINY:
            return checkpoint(name)
        if name not in made:
            seed, stored, _ = DEEP[name]
            made[name] = write_checkpoint(tmp_path_factory.mktemp(name), geometry(seed), **stored)
        return made[name]

    return find


@pytest.fixture
def load(folder) -> Callable[..., Engine]:
    """(name, settings) -> an engine; slots=n gives its weights room for n buffers."""

    def loaded(name: str = "dense", vram_mode: str = "balanced", slots: int | None = None, **settings) -> Engine:
        dtype = DEEP[name][2] if name in DEEP else "auto"
        engine = sensenova_core.load(folder(name), dtype=dtype, vram_mode=vram_mode, **settings)
        if slots is not None:
            allow(engine, slots)
        return engine

    return loaded


@pytest.fixture(scope="session")
def expected(folder) -> Callable[[str], dict]:
    """Name -> what is told where weights lie in their files, or in ordinary memory if those are laid out oddly."""
    told: dict[str, dict] = {}

    def find(name: str) -> dict:
        if name not in told:
            dtype = DEEP[name][2] if name in DEEP else "auto"
            engine = sensenova_core.load(folder(name), dtype=dtype)
            assert engine.memory.in_place
            if name in DEEP or all(value.data_ptr() % ROUNDS == 0 for value in engine.model.parameters()):
                told[name] = story(engine)
            else:
                told[name] = story(sensenova_core.load(folder(name), dtype=dtype, max_memory="64GiB"))
        return told[name]

    return find
