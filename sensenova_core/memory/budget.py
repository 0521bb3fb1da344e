"""How a user says how much memory may be used."""

from ..errors import SettingsError

MODES = ("auto", "full", "balanced", "low")
MODES_IN_EFFECT = ("auto", "full")  # both keep every weight on the device; the others load as full and say so


def check_mode(mode: str) -> None:
    """Raise SettingsError for a mode that does not exist."""
    if mode not in MODES:
        raise SettingsError(f"vram_mode {mode!r} is unknown; choose one of {', '.join(MODES)}")


def parse_max_memory(text: str | None) -> dict[str | int, int]:
    """Bytes by device, in accelerate's spelling: "13GiB", or "0=13GiB,cpu=64GiB"; "", "auto" and None mean none.

    A size alone is for device 0. Raises SettingsError naming the part that cannot be read.
    """
    if text is not None and not isinstance(text, str):
        raise SettingsError(f"max_memory is {text!r}; write a size such as 13GiB, or 0=13GiB,cpu=64GiB")
    if text is None or text.strip().lower() in ("", "auto"):
        return {}
    from accelerate.utils.modeling import convert_file_size_to_int

    budgets: dict[str | int, int] = {}
    for part in text.split(","):
        device, _, size = part.rpartition("=")
        device = device.strip() or "0"
        try:
            if device != "cpu":
                device = int(device)
            budgets[device] = convert_file_size_to_int(size.strip())
        except ValueError as error:
            raise SettingsError(
                f"max_memory {text!r}: cannot read {part.strip()!r}; write a size such as 13GiB, or 0=13GiB,cpu=64GiB"
            ) from error
        if budgets[device] <= 0:
            raise SettingsError(f"max_memory {text!r}: {part.strip()!r} is not over 0; write a size such as 13GiB")
    return budgets
