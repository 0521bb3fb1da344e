"""What models of the family are called, and the repositories that they are published in.

A version in a name is what somebody wrote there. It serves to tell people what they have; how a model computes is read
from its config and its tensors alone.
"""

import re

# Of each version whose design is known, whether it ends in a pixel head, or else in a linear one.
PIXEL_HEADS = {"U1": False, "U1.5": True, "U1.6": True}
# "u1.6", "u1_5" and "u15" name a version, "u1-8b" and "u1-5b" how many parameters a U1 has.
_VERSION = re.compile(
    r"(?<![a-z0-9])u1(?:\.(?P<minor>\d)(?![\d.])|[_-]?(?P<known>[56])(?![\db]))?(?!\.?\d)", re.IGNORECASE
)

DEFAULT_MODEL = "SenseNova/SenseNova-U1-8B-MoT"
# Repository -> what is in it.
REPOSITORIES = {
    DEFAULT_MODEL: "U1, 35 GB in bfloat16",
    "SenseNova/SenseNova-U1.5-8B-MoT": "U1.5, 35 GB in bfloat16",
    "SenseNova/SenseNova-U1-A3B-MoT": "U1 with a mixture of experts, 77 GB in bfloat16",
    "sensenova/SenseNova-U1.6-8B-MoT": "U1.6 in bfloat16",
    "sensenova/SenseNova-U1.6-8B-MoT-Native": "U1.6, a single file each in BF16, FP8 W8A8 and INT8 ConvRot W8A8",
    "sensenova/SenseNova-U1.6-8B-MoT-GGUF": "U1.6, a single file each in Q4_0, Q6_K and Q8_0",
    "sensenova/SenseNova-U1.6-8B-MoT-LoRAs": "LoRAs of U1.6, among them two that draw in 8 steps",
}


def version_in(name: str) -> str | None:
    """The version of the family that a name speaks of, such as "U1" or "U1.6"."""
    if (found := _VERSION.search(name)) is None:
        return None
    minor = found["minor"] or found["known"]
    return f"U1.{minor}" if minor else "U1"
