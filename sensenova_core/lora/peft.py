"""What PEFT says of a LoRA outside its tensors: in adapter_config.json beside its file, or in the file's metadata."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..hub.repository import PEFT_CONFIG, PEFT_FILE, read_json

WITHIN = "lora_adapter_metadata"  # diffusers' key for the same settings in a file's metadata
DORA = "DoRA (its magnitudes would be lost)"
REFUSED = {"use_dora": DORA, "fan_in_fan_out": "of transposed weights"}
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)  # of a parameter, or its end after a dot


@dataclass(frozen=True)
class Settings:
    """What PEFT says of alpha where the file has no tensor for it.

    alphas: of some parameters, by the ends of their names: (place in the order that they were told in, alpha).
    stabilised: "rslora", by the root of the rank. refused: kind of problem -> what cannot be done here.
    """

    metadata: dict[str, str]
    alpha: float | None
    alphas: dict[str, tuple[int, float]]
    stabilised: bool
    refused: dict[str, list[str]]

    def factor(self, place: str, rank: int) -> float | None:
        """What up @ down is multiplied by for a parameter without .weight; None where nothing is said of it.

        Like PEFT: of the keys that are the name, or its end after a dot, the first that was told decides.
        """
        parts = place.split(".")
        ends = (".".join(parts[first:]) for first in range(len(parts)))
        _, alpha = min((self.alphas[end] for end in ends if end in self.alphas), default=(0, self.alpha))
        if alpha is None:
            return None
        return alpha / (math.sqrt(rank) if self.stabilised else rank)


def settings_beside(file: Path) -> Path | None:
    """The settings that belong to a file, if there are any: PEFT's names, as folders hold many LoRAs."""
    beside = file.with_name(PEFT_CONFIG)
    return beside if file.name == PEFT_FILE and beside.is_file() else None


def read_settings(file: Path, metadata: dict[str, str]) -> Settings:
    """metadata: the file's own. Raises CheckpointError for settings that are none."""
    beside = settings_beside(file)
    inside: dict[str, Any] = {}
    try:
        if beside is not None:
            inside = read_json(beside)
        elif WITHIN in metadata:  # each is named below its model
            inside = {name.rpartition(".")[2]: value for name, value in json.loads(metadata[WITHIN]).items()}
        raw = metadata | inside
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        said = str(error)[:200] if isinstance(error, OSError | ValueError) else "expected names and values"
        remedy = "" if ";" in said else "; fetch it again"
        raise CheckpointError(f"LoRA {beside or file}: its settings are no JSON object: {said}{remedy}") from error
    refused = {kind: [name] for name, kind in REFUSED.items() if _yes(raw.get(name))}
    alphas = _alphas(raw.get("alpha_pattern"), refused)
    told = {name: value for name, value in raw.items() if isinstance(value, str)}
    return Settings(
        metadata=told,
        alpha=_number(raw.get("lora_alpha")),
        alphas=alphas,
        stabilised=_yes(raw.get("use_rslora")),
        refused=refused,
    )


def _alphas(said: object, refused: dict[str, list[str]]) -> dict[str, tuple[int, float]]:
    """PEFT takes keys as regular expressions, of which a stranger's may never end; LoRAs hold plain names."""
    alphas = {}
    for key, value in said.items() if isinstance(said, dict) else ():
        alpha = _number(value)
        if alpha is None or not _NAME.fullmatch(key):
            refused.setdefault("alphas of no plain name", []).append(f"alpha_pattern {key[:60]!r}")
        else:
            alphas[key] = len(alphas), alpha
    return alphas


def _yes(value: object) -> bool:
    return value is True or str(value).lower() == "true"


def _number(value: object) -> float | None:
    """Metadata are texts."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
