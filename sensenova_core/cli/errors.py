"""What went wrong, in the words of who typed the command."""

from collections.abc import Container

from ..errors import SettingsError
from .options import flag, option_of

# Options that memory goes by: of `generate` as it draws and as it answers, and of the other commands.
TAKE_MEMORY = {
    "pictures": ("width", "height", "batch_size", "max_pixels"),
    "text": ("max_pixels", "max_tokens"),
    "others": ("width", "height", "max_images", "max_pixels", "max_tokens"),
}


def message(error: SettingsError, options, keys: Container[str] = ()) -> str:
    """What an error says, with settings named as the user did: by flags, or by the keys of a JSON line.

    options: what the command was given. keys: the options that the line has set in their place.
    """

    def named(setting: str) -> str | None:
        option = option_of(setting)
        if option in keys:
            return option
        return flag(option) if hasattr(options, option) else None

    return error.in_words(named)


def smaller(options) -> str:
    """What to try where memory runs out."""
    modality = getattr(options, "modality", None)
    kind = "others" if modality is None else "text" if modality.endswith("2text") else "pictures"
    return f"try smaller {', '.join(flag(name) for name in TAKE_MEMORY[kind] if hasattr(options, name))}"
