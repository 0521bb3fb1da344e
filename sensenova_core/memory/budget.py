"""How a user says how much memory may be used."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import SettingsError, check_choice, install_line, quoted
from ..settings import SIZE_UNITS, VRAM_MODES

GIB, MIB = 2**30, 2**20
SYSTEM_RESERVE = 2 * GIB  # of system memory, left to everybody else
# What the library that reads sizes is given; its own errors would quote whatever it gets.
_SIZE = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})\s*[KMG]I?B")


@dataclass(frozen=True)
class Limits:
    """What a plan may use, in bytes; None is no limit. mode: one of VRAM_MODES.

    device: everything on the card. weights: those alone, as a host with other models to run wishes it; a ring of
    buffers may overstep it. buffers: those of weights, after memory ran out. page_locked: of system memory, of which
    also what is free bounds it. libraries: what these take of the card beside everything that is planned.
    """

    mode: str = "auto"
    device: int | None = None
    weights: int | None = None
    buffers: int | None = None
    page_locked: int | None = None
    libraries: int = 0

    def __post_init__(self):
        check_choice("vram_mode", self.mode, VRAM_MODES)

    def page_lockable(self, system_free: int) -> int:
        """Bytes that may be page-locked when so many are free: never all, for that stops a machine."""
        spare = max(0, system_free - SYSTEM_RESERVE)
        return spare if self.page_locked is None else min(self.page_locked, spare)


def parse_max_memory(text: str | None, name: str = "max_memory", own: int = 0) -> dict[str | int, int]:
    """Bytes by device, in accelerate's spelling: "13GiB", or "0=13GiB,cpu=64GiB"; "", "auto" and None mean none.

    A size alone is for device `own`; cuda:0 is 0. Raises SettingsError that calls it `name`, with the part that cannot
    be read or that says again what another part has said.
    """
    if text is not None and not isinstance(text, str):
        raise SettingsError(setting=name, value=text, remedy="write a size such as 13GiB, or 0=13GiB,cpu=64GiB")
    if text is None or text.strip().lower() in ("", "auto"):
        return {}
    try:
        from accelerate.utils.modeling import convert_file_size_to_int
    except ImportError as error:
        raise SettingsError(
            f"{quoted(text)} is read by the package accelerate, which is missing",
            f"run {install_line('accelerate')}, or leave it out",
            setting=name,
            value=text,
        ) from error

    budgets: dict[str | int, int] = {}
    for part in text.split(","):
        device, _, size = part.rpartition("=")
        device = device.strip().lower().removeprefix("cuda:") or own
        try:
            if device != "cpu":
                device = int(str(device)[:9])
            size = size.strip().upper()  # the library would read gb as bits
            if not _SIZE.fullmatch(size):
                raise ValueError("no size")
            allowed = convert_file_size_to_int(size)
        except (ValueError, OverflowError):
            raise SettingsError(
                f"{quoted(text)}: cannot read {quoted(part.strip())}",
                f"write a size such as 13GiB, or 0=13GiB,cpu=64GiB. Units are {SIZE_UNITS}",
                setting=name,
                value=text,
            ) from None  # which would quote it again, with letters that no terminal prints
        if allowed <= 0:
            problem = f"{quoted(text)}: {quoted(part.strip())} is not over 0"
            raise SettingsError(problem, "write a size such as 13GiB", setting=name, value=text)
        if device in budgets:
            problem = f"{quoted(text)} gives device {device} two sizes"
            raise SettingsError(problem, "leave one out", setting=name, value=text)
        budgets[device] = allowed
    return budgets


def in_words(size: int, rounded: Callable[[float], int] = round) -> str:
    """Bytes for the user: "13.00 GiB", or under 0.1 GiB "81.50 MiB". rounded: ceil where less would not do."""
    unit, name = (MIB, "MiB") if 0 < size < GIB / 10 else (GIB, "GiB")
    return f"{rounded(100 * size / unit) / 100:.2f} {name}"


def parse_size(name: str, text: str) -> int | None:
    """Bytes of a size such as "11GiB", None for "". Raises SettingsError that calls it `name`."""
    sizes = parse_max_memory(text, name)
    if list(sizes) not in ([], [0]):
        raise SettingsError(setting=name, value=text, remedy="write one size, such as 11GiB")
    return sizes.get(0)
