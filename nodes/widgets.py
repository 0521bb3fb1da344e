"""Settings as widgets: the input that a node offers for each, and the settings that its values make."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from comfy_api.latest import io

from ..sensenova_core.errors import SettingsError
from ..sensenova_core.settings import MAX_SEED, Setting, settings_of

INPUTS = {int: io.Int.Input, float: io.Float.Input, bool: io.Boolean.Input, str: io.String.Input}


@cache
def offered(cls: type) -> dict[str, Setting]:
    """Widget's name -> what it sets, for every setting of a dataclass. An interval has two: its start and its end."""
    found: dict[str, Setting] = {}
    for setting in settings_of(cls).values():
        found |= _ends(setting) if setting.kind is tuple else {setting.name: setting}
    return found


def inputs(cls: type, names: Iterable[str], **other: dict[str, Any]) -> list[io.Input]:
    """The widgets of these names, in this order. other: name -> options that differ from what the setting says."""
    return [widget(offered(cls)[name], **other.get(name, {})) for name in names]


def further_inputs(cls: type, known: Iterable[str]) -> list[io.Input]:
    """The widgets of all settings but those known. Saved workflows do not have them, so they may be missing."""
    return [widget(setting, optional=True) for name, setting in offered(cls).items() if name not in known]


def widget(setting: Setting, name: str = "", **other: Any) -> io.Input:
    """name: where it differs from the setting's. other: options that differ from what the setting says."""
    low, high = (ours if math.isfinite(ours) else None for ours in setting.usual)
    given: dict[str, Any] = {
        "default": "" if setting.default is None else setting.default,
        "tooltip": setting.help_as(lambda name: name) + (" Empty keeps it." if setting.default is None else ""),
        "advanced": setting.advanced or None,
    }
    if setting.choices:
        return io.Combo.Input(name or setting.name, **given | {"options": list(setting.choices)} | other)
    if setting.kind in (int, float):
        given |= {"min": low, "max": high, "step": None if setting.step == 1 else setting.step}
    if setting.kind is int:
        given |= {"control_after_generate": setting.high == MAX_SEED or None}
    if setting.kind is float and setting.digits is not None:
        given |= {"round": 10**-setting.digits}
    return INPUTS[setting.kind](name or setting.name, **given | other)


def automatic(setting: Setting) -> io.Input:
    """The widget of a setting that may be left to the model, which 0 says."""
    tooltip = f"{setting.help} 0, for both: {setting.automatic}."
    return widget(setting, default=0, min=0, tooltip=tooltip, display_name=f"{setting.name} (0: automatic)")


def values(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """Setting's name -> value, from a node's widgets by their names; what is no widget of `cls` stays as it is."""
    made = dict(given)
    for setting in settings_of(cls).values():
        if setting.kind is tuple and (ends := _ends(setting)).keys() & made.keys():
            made[setting.name] = tuple(made.pop(name, end.default) for name, end in ends.items())
    return made


@contextmanager
def called(**names: str | None) -> Iterator[None]:
    """Have a SettingsError in here say what the node calls these settings; None for one that it does not have."""
    try:
        yield
    except SettingsError as error:
        words = error.in_words(lambda setting: names.get(setting, setting))
        raise SettingsError(words) from error


def _ends(interval: Setting) -> dict[str, Setting]:
    """An interval's two numbers, each a setting: cfg_interval -> cfg_start, cfg_end."""
    stem = interval.name.removesuffix("_interval")
    start, end = interval.default
    about = interval.help[0].lower() + interval.help[1:]
    return {
        f"{stem}_{which}": replace(
            interval, name=f"{stem}_{which}", kind=float, default=default, help=f"The {which} of an interval: {about}"
        )
        for which, default in {"start": start, "end": end}.items()
    }
