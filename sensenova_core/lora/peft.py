"""What PEFT says of a LoRA outside its tensors: in adapter_config.json beside its file, or in the file's metadata."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..hub.repository import read_json

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
WITHIN = "lora_adapter_metadata"  # diffusers' key for the same settings in a file's metadata
DORA = "DoRA (its magnitudes would be lost)"
REFUSED = {"use_dora": DORA, "fan_in_fan_out": "of transposed weights"}
MAX_PATTERNS = 2**12
_SIMPLE = re.compile(r"[\w.^$|\\-]{1,200}", re.ASCII)  # without repetition or groups a search cannot take long


@dataclass(frozen=True)
class Settings:
    """What PEFT says of alpha where the file has no tensor for it.

    patterns: alphas of some parameters. stabilised: "rslora", by the root of the rank. refused: kind of problem -> what
    cannot be done here.
    """

    metadata: dict[str, str]
    alpha: float | None
    patterns: list[tuple[re.Pattern, float]]
    stabilised: bool
    refused: dict[str, list[str]]

    def factor(self, place: str, rank: int) -> float | None:
        """What up @ down is multiplied by for a parameter without .weight; None where nothing is said of it.

        Like PEFT: the first pattern that matches the name, or its end after a dot, decides.
        """
        alpha = next((alpha for pattern, alpha in self.patterns if pattern.match(place)), self.alpha)
        if alpha is None:
            return None
        return alpha / (math.sqrt(rank) if self.stabilised else rank)


def settings_beside(file: Path) -> Path | None:
    """The settings that belong to a file, if there are any: PEFT's names, as folders hold many LoRAs."""
    beside = file.with_name(PEFT_CONFIG)
    return beside if file.name == PEFT_FILE and beside.is_file() else None


def read_settings(file: Path, metadata: dict[str, str]) -> Settings:
    """metadata: the file's own. Raises CheckpointError for settings that are none."""
    beside, inside = settings_beside(file), {}
    try:
        if beside is not None:
            inside = read_json(beside)
        elif WITHIN in metadata:  # each is named below its model
            inside = {name.rpartition("transformer.")[2]: value for name, value in json.loads(metadata[WITHIN]).items()}
        raw = metadata | inside
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        source = beside or file
        raise CheckpointError(f"LoRA {source}: its settings are no JSON object ({error}); fetch it again") from error
    refused = {kind: [name] for name, kind in REFUSED.items() if _yes(raw.get(name))}
    patterns = _patterns(raw.get("alpha_pattern"), refused)
    told = {name: value for name, value in raw.items() if isinstance(value, str)}
    return Settings(told, _number(raw.get("lora_alpha")), patterns, _yes(raw.get("use_rslora")), refused)


def _patterns(said: object, refused: dict[str, list[str]]) -> list[tuple[re.Pattern, float]]:
    """PEFT takes the keys of alpha_pattern as regular expressions, of which a stranger's may never end."""
    alphas = said if isinstance(said, dict) else {}
    if len(alphas) > MAX_PATTERNS:
        refused["settings beyond measure"] = [f"{len(alphas)} entries in alpha_pattern, at most {MAX_PATTERNS}"]
        return []
    patterns = []
    for key, value in alphas.items():
        if (number := _number(value)) is None:
            continue
        try:
            if not _SIMPLE.fullmatch(key):
                raise ValueError
            patterns.append((re.compile(rf"(.*\.)?({key})$"), number))
        except (ValueError, re.error):
            refused.setdefault("patterns that are not simple names", []).append(f"alpha_pattern {key[:60]!r}")
    return patterns


def _yes(value: object) -> bool:
    return value is True or str(value).lower() == "true"


def _number(value: object) -> float | None:
    """Metadata are texts."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
