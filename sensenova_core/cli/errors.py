"""What went wrong, in the words of who typed the command."""

import re
from collections.abc import Container

from ..errors import SettingsError
from .options import flag

# A setting's name in the engine -> the option's.
ENGINE_NAMES = {"steps": "num_steps", "cfg": "cfg_scale", "img_cfg": "img_cfg_scale", "shift": "timestep_shift"}
ENGINE_NAMES |= {"images": "num_images", "think_tokens": "max_think_tokens"}  # of a plan
CROP_HINT = re.compile("; with crop (.*)")
# Options that memory goes by: of `generate` as it draws and as it answers, and of the other commands.
TAKE_MEMORY = {
    "pictures": ("width", "height", "batch_size", "max_pixels"),
    "text": ("max_pixels", "max_tokens"),
    "others": ("width", "height", "max_images", "max_pixels", "max_tokens"),
}


def in_user_s_words(error: SettingsError, options, keys: Container[str] = ()) -> str:
    """The message, with the setting that it begins with named as the user did: by its flag, or by a JSON line's key.

    options: what the command was given. keys: the options that the line has set in their place.
    """
    text = str(error)
    if begins := re.match(r"(an end of )?(\w+)", text):
        name = ENGINE_NAMES.get(begins[2], begins[2])
        if hasattr(options, name):
            named = name if name in keys else flag(name)
            text = (begins[1] or "") + named + text[begins.end() :]
    return CROP_HINT.sub(r"; with --crop \1" if hasattr(options, "crop") else "", text)


def smaller(options) -> str:
    """What to try where memory runs out."""
    modality = getattr(options, "modality", None)
    kind = "others" if modality is None else "text" if modality.endswith("2text") else "pictures"
    return f"try smaller {', '.join(flag(name) for name in TAKE_MEMORY[kind] if hasattr(options, name))}"
