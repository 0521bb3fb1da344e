"""Parts of a `config.json`, read key by key."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

_SHOWN = 8  # unknown keys that are listed


@dataclass(frozen=True, eq=False)
class Section:
    """Part of a config.json, read key by key; a value of the wrong kind is a CheckpointError that names it."""

    where: str
    raw: Mapping[str, Any]

    def section(self, key: str) -> "Section":
        if not isinstance(self.raw.get(key), Mapping):
            raise CheckpointError(f"{self.where}{key} is missing; the file is not a SenseNova-U1 config")
        return Section(f"{self.where}{key}.", self.raw[key])

    def count(self, key: str, default: int | None = None, most: int = 2**20) -> int:
        """A whole number over 0, and not so large that a model of it could not be."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise CheckpointError(
                f"{self.where}{key} is {in_brief(value)}, expected a whole number over 0 and up to {most}; "
                "fetch the file again"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number over 0."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise CheckpointError(
                f"{self.where}{key} is {in_brief(value)}, expected a number over 0; fetch the file again"
            )
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false, as JSON writes it or as 1 and 0; absent is false. A third value would be a kind of its own."""
        value = self._value(key, default=False)
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise CheckpointError(
                f"{self.where}{key} is {in_brief(value)}; this engine implements true and false only, and another kind "
                "would draw wrong pictures silently"
            )
        return bool(value)

    def one_of(self, key: str, known: tuple[str, ...], default: str) -> str:
        value = self._value(key, default)
        if value not in known:
            raise CheckpointError(f"{self.where}{key} is {in_brief(value)}, known are {', '.join(known)}")
        return value

    def several(self, key: str) -> list:
        """A list, empty where there is none."""
        value = self._value(key, [])
        if not isinstance(value, list):
            raise CheckpointError(f"{self.where}{key} is {in_brief(value)}, expected a list; fetch the file again")
        return value

    def refuse_other(self, switches: Mapping[str, Any]) -> None:
        """Raise unless every switch has the one value that is implemented; absent, null, 0 and false all mean off."""
        for key, implemented in switches.items():
            value = self.raw.get(key, implemented)
            if (value or None) != (implemented or None):
                raise CheckpointError(
                    f"{self.where}{key} is {in_brief(value)}; this engine implements {implemented!r} only, "
                    "and other values would draw wrong pictures silently"
                )

    def _value(self, key: str, default: Any) -> Any:
        value = self.raw.get(key)
        if value is None and default is None:
            raise CheckpointError(f"{self.where}{key} is missing; fetch the file again")
        return default if value is None else value


def refuse_unknown(sections: Mapping[Section, frozenset[str]]) -> None:
    """Raise for keys that are not among the known ones of their section, all of them named.

    What is off (absent, null, 0, false, empty) is as if it were not there, and so are notes to oneself ("_name").
    """
    unknown = [
        f"{section.where}{key} is {in_brief(value)}"
        for section, known in sections.items()
        for key, value in section.raw.items()
        if value and key not in known and not key.startswith("_")
    ]
    if unknown:
        raise CheckpointError(
            f"{'; '.join(unknown[:_SHOWN])}{f'; and {len(unknown) - _SHOWN} more' if len(unknown) > _SHOWN else ''}: "
            "this engine does not know what that changes, and would perhaps draw wrong pictures silently; take a newer "
            "version of this pack, or take out of config.json what is sure to change nothing"
        )


def in_brief(value: object) -> str:
    return repr(value)[:100]
