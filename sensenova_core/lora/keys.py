"""Which parameter a key of a LoRA is for, and which part of its change: by what it is, whoever wrote it.

A key is a parameter's name, with or without dots, somebody's wrappers before and within it, and an ending that says
up or down, B or A, or alpha; with or without `.weight`, with or without an adapter's name; docs/model.md.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..checkpoint.prefixes import OURS, is_of_other_model, unwrapped

_NAMED = r"(?:\.(?P<adapter>(?!(?:bias|weight)$)[^.]+?))?(?:\.weight)?"  # an adapter's name between
_LORA = r"lora(?:_?(?:linear_layer|linear|layer))?"
# The likeliest first: in the others an adapter could be called as the ends of the first are.
_ENDINGS = tuple(
    re.compile(rf"(?P<place>.+?)[._]{ending}{_NAMED}", re.IGNORECASE)
    for ending in (
        rf"{_LORA}[._]?(?P<role>up|down|a|b)",
        r"(?:(?:lora|network)[._]?)?(?P<role>alpha)",
        r"(?P<role>up|down|a|b)",
    )
)
_ROLES = {"a": "down", "b": "up"}
# Of wrappers within a name whose dots have become underscores; no part of a published name begins with one.
_WRAPPED = re.compile(r"_(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)(?=_)")
_BEGINS = re.compile("|".join(rf"(?:^|(?<=_)){start[:-1]}(?=_)" for start in OURS))


@dataclass(frozen=True)
class Key:
    """place: the parameter as the key calls it. role: "up", "down" or "alpha". adapter: "" for one without a name."""

    place: str
    role: str
    adapter: str


def parsed(key: str) -> Key | None:
    """None for a key of no known ending."""
    for ending in _ENDINGS:
        if found := ending.fullmatch(key):
            role = found["role"].lower()
            return Key(found["place"], _ROLES.get(role, role), found["adapter"] or "")
    return None


class Parameters:
    """The parameters of a model, by their published names with `.weight`, and by what LoRAs call them."""

    def __init__(self, names: Iterable[str]):
        self._dotted = {name.removesuffix(".weight"): name for name in names}
        self._flat = {name.replace(".", "_"): parameter for name, parameter in self._dotted.items()}

    def find(self, place: str) -> str | None:
        """The parameter that a place means; None for one that the model lacks."""
        place = place.removesuffix(".weight")
        _, bare = unwrapped(place)
        if bare in self._dotted:
            return self._dotted[bare]
        flat = _WRAPPED.sub("", place.replace(".", "_"))
        for begins in _BEGINS.finditer(flat):
            found = self._flat.get(flat[begins.start() :])
            if found and not is_of_other_model(flat[: begins.start()]):
                return found
        return None
