"""The reference cases the tests compare with: the whole set where there is one, else the selection in tests/golden."""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

TESTS = Path(__file__).parents[1]
COMPACT = TESTS / "golden"

Case = dict[str, Any]


def whole_set() -> Path | None:
    """The folder of the whole set: `GOLDEN_DIR`, or `shared/golden` beside the repository."""
    if given := os.environ.get("GOLDEN_DIR"):
        return Path(given)
    beside = TESTS.parent.parent / "shared" / "golden"
    return beside if (beside / "manifest.json").is_file() else None


GOLDEN = whole_set() or COMPACT


@cache
def manifest(folder: Path = GOLDEN) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def cases(kind: str) -> list[Case]:
    return [case for case in manifest()["cases"] if case["kind"] == kind]


def case_named(name: str) -> Case | None:
    """The case, or None if this set lacks it."""
    return next((case for case in manifest()["cases"] if case["name"] == name), None)


def tensors(case: Case) -> dict[str, Tensor]:
    return load_file(GOLDEN / case["file"])


def checkpoint(name: str) -> Path:
    return GOLDEN / "checkpoints" / name


def images(case: Case) -> list[Image.Image]:
    return [Image.open(GOLDEN / "images" / name) for name in case["images"]]


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """max|ours - reference| / max|reference|; infinite where shapes differ or anything is not finite."""
    if ours.shape != reference.shape or not ours.isfinite().all():
        return float("inf")
    ours, reference = ours.double(), reference.double()
    return ((ours - reference).abs().max() / reference.abs().max().clamp(min=torch.finfo(torch.float64).tiny)).item()


class Forced:
    """Chooses the likeliest token, but at the choices that a case sets from outside; keeps all logits it saw."""

    def __init__(self, forced: Mapping[str | int, int]):
        """forced: index of the choice -> token."""
        self.forced = {int(index): token for index, token in forced.items()}
        self.logits: list[Tensor] = []
        self.natural: list[int] = []

    def __call__(self, logits: Tensor, chosen: list[int]) -> int:
        self.logits.append(logits.clone())
        self.natural.append(int(logits.argmax()))
        return self.forced.get(len(self.natural) - 1, self.natural[-1])


def sample_settings(case: Case) -> dict[str, Any]:
    """A text-to-image or edit case -> the keyword arguments of `Engine.sample`."""
    width, height = case["image_size_wh"]
    params = case["params"]
    edit_from_zero = case["kind"] == "edit" and params["cfg_interval"][0] == 0
    return {
        "width": width,
        "height": height,
        "steps": params["num_steps"],
        "cfg": params["cfg_scale"],
        "img_cfg": params.get("img_cfg_scale", 1.0),
        "cfg_norm": params["cfg_norm"],
        # the reference ignores the end of an edit's interval where it starts at 0
        "cfg_interval": [0, 1] if edit_from_zero else params["cfg_interval"],
        "shift": params["timestep_shift"],
        "t_eps": params["t_eps"],
        "seed": params["seed"],
        "batch_size": params["batch_size"],
    }
