"""What a server says of its nodes' inputs (/object_info), and values of tables as these inputs take them."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from ..errors import SettingsError, quoted

_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")
_TYPED = ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")
_SHOWN = 8  # options of a list that a message holds


@dataclass(frozen=True)
class Declared:
    """An input as its node declares it. kind: INT, FLOAT, BOOLEAN, STRING, COMBO, or a type on a wire."""

    kind: str
    options: tuple[Any, ...] = ()  # of COMBO
    low: float = -math.inf
    high: float = math.inf
    uploads: bool = False  # it takes a file of the server's input folder


@dataclass(frozen=True)
class NodeTypes:
    """classes: class -> what /object_info says of it; empty where no server was asked."""

    classes: dict[str, Any] = field(default_factory=dict)

    def declared(self, kind: str, name: str) -> Declared | None:
        """None for what the server does not say, as of the inputs that an option brings ("size.width")."""
        inputs = self.classes.get(kind, {}).get("input", {})
        for group in ("required", "optional"):
            if isinstance(said := inputs.get(group, {}).get(name), list | tuple) and said:
                return _declared(said[0], said[1] if len(said) > 1 and isinstance(said[1], dict) else {})
        return None

    def knows(self, kind: str, name: str) -> bool:
        return self.declared(kind, name) is not None

    def takes(self, kind: str, name: str) -> bool:
        """Whether it is an input that is typed, not linked."""
        declared = self.declared(kind, name)
        return declared is not None and declared.kind in _TYPED


def _declared(kind: Any, more: dict[str, Any]) -> Declared | None:
    uploads = any(more.get(key) for key in ("image_upload", "video_upload", "audio_upload"))
    if isinstance(kind, list):
        return Declared("COMBO", tuple(kind), uploads=uploads)
    if kind == "COMBO":
        options = more.get("options")
        return Declared("COMBO", tuple(options) if isinstance(options, list) else (), uploads=uploads)
    if not isinstance(kind, str) or kind.startswith("COMFY_") or "," in kind or kind == "*":
        return None
    low, high = more.get("min"), more.get("max")
    return Declared(
        kind,
        low=low if isinstance(low, int | float) else -math.inf,
        high=high if isinstance(high, int | float) else math.inf,
        uploads=uploads,
    )


def converted(value: Any, *, present: Any, declared: Declared | None) -> Any:
    """A cell as an input takes it: by the type that its node declares, else by that of the value it has in the
    workflow.

    Raises SettingsError, whose problem goes on after the cell's name.
    """
    if declared is None:
        return _as_present(value, present)
    if declared.kind == "INT":
        return _within(_whole(value), declared)
    if declared.kind == "FLOAT":
        return _within(_number(value), declared)
    if declared.kind == "BOOLEAN":
        return _boolean(value)
    if declared.kind == "STRING":
        return _text(value)
    if declared.kind == "COMBO":
        return _option(value, declared)
    raise SettingsError(f"a {declared.kind} comes over a link, not as a value", "change an input of the node before it")


def _as_present(value: Any, present: Any) -> Any:
    if isinstance(present, bool):
        return _boolean(value)
    if isinstance(present, int):
        return _whole(value)
    if isinstance(present, float):
        return _number(value)
    if isinstance(present, str):
        return _text(value)
    if not isinstance(value, str):
        return value
    try:  # a link, or nothing: the cell alone says what it is
        guessed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return value if isinstance(guessed, list | dict) or guessed is None else guessed


def _whole(value: Any) -> int:
    try:
        if isinstance(value, str):
            return int(value.strip())
        if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
            return int(value)
    except (ValueError, OverflowError):  # letters; of thousands of digits; infinity
        pass
    raise SettingsError(f"{quoted(value)} is no whole number", "write one, such as 7")


def _number(value: Any) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise SettingsError(f"{quoted(value)} is no number", "write one with a point, such as 4.5")


def _boolean(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise SettingsError(f"{quoted(value)} is neither true nor false", "write true or false")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise SettingsError(f"{quoted(value)} is no text", "write it in quotes")


def _option(value: Any, declared: Declared) -> Any:
    found = next((option for option in declared.options if str(option) == str(value)), None)
    if found is not None:
        return found
    if declared.uploads or not declared.options:
        return value
    shown = ", ".join(map(str, declared.options[:_SHOWN])) + (", ..." if len(declared.options) > _SHOWN else "")
    raise SettingsError(f"{quoted(value)} is none of its options", f"choose one of {shown}")


def _within(number: float, declared: Declared) -> Any:
    if declared.low <= number <= declared.high:
        return number
    raise SettingsError(f"{number} is out of range", f"give {declared.low:g} to {declared.high:g}")
