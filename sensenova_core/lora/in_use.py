"""Which LoRAs a model runs with, and which its layers carry for later."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import SettingsError, check_number, plain, quoted
from . import Lora, lora_file, lora_states, read_lora


@dataclass(frozen=True)
class LorasInUse:
    """shapes: of the parameters that LoRAs may change, by published name. absent: of these, what this model lacks and
    can do without, changes of which are left out. used: (file, strength) of those that change the model.

    carried: those used and those used last, which layers bring along so that two branches of a graph may take turns.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(repr=False, compare=False)
    absent: frozenset[str] = field(default=frozenset(), compare=False)
    used: tuple[tuple[Path, float], ...] = ()
    carried: Mapping[Path, Lora] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """What tells apart what a model read with these from what it read with others."""
        return "".join(f"{self.carried[file].key}|{by}|" for file, by in self.used if self.carried[file].reads)

    def read(self, path: str | os.PathLike) -> Lora:
        """What a file says. Raises CheckpointError where it does not fit the model. Reads none of its factors."""
        file = lora_file(path)
        known = self.carried.get(file)
        return known if known is not None and _unchanged(known) else read_lora(file, self.shapes, self.absent)

    def chosen(self, loras: Sequence[tuple[str | Path, float]]) -> "LorasInUse":
        """With these (file, strength) in use instead. Raises CheckpointError and SettingsError.

        Strengths of a file that is named twice are added, and 0 is none at all.
        """
        strengths: dict[Path, float] = {}
        for path, strength in _pairs(loras):
            named = f"the strength of {Path(path).name}"
            check_number("loras", strength, "a finite number; 1 is as it was trained", subject=named)
            if strength:
                file = lora_file(path)
                strengths[file] = strengths.get(file, 0.0) + strength
        used = {file: self.read(file) for file, strength in sorted(strengths.items()) if strength}
        carried = {file: lora for file, lora in self.carried.items() if file in used or _unchanged(lora)}
        if any(carried.get(file) is not lora for file, lora in used.items()):
            last = {file: carried[file] for file, _ in self.used if file in carried}
            carried = dict(sorted((last | used).items()))
        return replace(self, used=tuple((file, strengths[file]) for file in used), carried=carried)

    def strengths(self) -> list[tuple[Lora, float]]:
        """All that are carried; 0 for those that are not in use."""
        used = dict(self.used)
        return [(lora, used.get(file, 0.0)) for file, lora in self.carried.items()]


def _pairs(loras: object) -> list[tuple[str | os.PathLike, float]]:
    """(file, strength) of each; a file alone is meant as it was trained. Raises SettingsError."""
    if isinstance(loras, str | os.PathLike) or (isinstance(loras, tuple) and len(loras) == 2 and _is_pair(loras)):
        loras = [loras]
    if not isinstance(loras, list | tuple):
        raise SettingsError(setting="loras", value=loras, remedy="give a list of (file, strength)")
    pairs = []
    for lora in loras:
        pair = (lora, 1.0) if isinstance(lora, str | os.PathLike) else lora
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | os.PathLike):
            raise SettingsError(f"has {quoted(pair)}", "give (file, strength)", setting="loras", value=loras)
        pairs.append((pair[0], plain(pair[1])))
    return pairs


def _is_pair(loras: tuple) -> bool:
    """Whether it is one file with its strength, and no two files."""
    return isinstance(loras[0], str | os.PathLike) and not isinstance(loras[1], str | os.PathLike | list | tuple)


def _unchanged(lora: Lora) -> bool:
    return lora.states == lora_states(lora.path)
