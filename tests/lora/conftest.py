"""Checkpoints of every kind, LoRAs of their matrices, and engines to use them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import sensenova_core
from sensenova_core import Engine
from tests.lora.telling import SINGLE
from tests.support.geometries import geometry, save_aligned, write_checkpoint
from tests.support.instructions import few_instructions  # noqa: F401  # for all tests here
from tests.support.loras import Deltas, matrices, write_lora
from tests.support.packing import mixed, tensors_of, wide, write_fp8, write_gguf
from tests.support.streaming import allow


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """A kind -> what to load, and a folder with its numbers in float32."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            target = tmp_path_factory.mktemp(kind)
            if kind in ("experts", "other head"):
                other_head = wide(2) | {"use_pixel_head": not wide()["use_pixel_head"]}
                plain = write_checkpoint(target / "plain", geometry(4) if kind == "experts" else other_head)
                made[kind] = plain, plain
            elif kind == "plain":
                plain = write_checkpoint(target / "plain", wide())
                made[kind] = plain, plain
            elif kind == "gguf":
                made[kind] = write_gguf(make("plain")[0], target, mixed)
            elif kind in SINGLE:
                made[kind] = alone(kind, target)
            else:
                made[kind] = write_fp8(make("plain")[0], target, kind)
        return made[kind]

    def alone(kind: str, target: Path) -> tuple[Path, Path]:
        """A file without a config."""
        prefix, _, stored = kind.rpartition(".")
        prefix += "."
        if stored == "gguf":
            folder, plain = write_gguf(make("plain")[0], target, mixed, prefix)
        else:
            folder, plain = (shutil.copytree(each, target / str(i)) for i, each in enumerate(make(stored)))
            tensors = tensors_of(folder)
            save_aligned({prefix + name: value for name, value in tensors.items()}, folder / "model.safetensors")
        for each in (folder, plain):
            (each / "config.json").unlink()
        (file,) = folder.glob("model.*")
        return file, plain

    return make


@pytest.fixture(scope="session")
def lora(folders, tmp_path_factory) -> Callable[..., tuple[Path, Deltas]]:
    """(kind, seed, which) -> a LoRA of its matrices, and what it adds at strength 1."""
    made: dict[tuple, tuple[Path, Deltas]] = {}

    def make(kind: str = "plain", seed: int = 0, wanted: Callable[[str], bool] = lambda name: True, **settings):
        key = kind, seed, wanted, *settings.items()
        if key not in made:
            file = tmp_path_factory.mktemp("loras") / f"{kind}_{seed}.safetensors"
            made[key] = file, write_lora(file, matrices(folders(kind)[1], wanted), seed, **settings)
        return made[key]

    return make


@pytest.fixture
def load(folders) -> Callable[..., Engine]:
    def loaded(kind: str = "plain", vram_mode: str = "balanced", slots: int | None = None, locked=None, **settings):
        engine = sensenova_core.load(folders(kind)[0], vram_mode=vram_mode, **{"dtype": "float32"} | settings)
        if slots is not None:
            allow(engine, slots)
        if locked is not None:
            engine.memory.limits = replace(engine.memory.limits, page_locked=locked * engine.memory.sizes.slot)
        return engine

    return loaded
