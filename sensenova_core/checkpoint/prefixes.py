"""How the names in a file differ from the published ones: by a prefix that other programs put before all of them."""

from collections import Counter
from collections.abc import Iterable

from ..errors import CheckpointError

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
OURS = ("language_model.", "vision_model.", "fm_modules.")  # how published names begin
LORA = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora_a.", ".lora_b.")  # in names of LoRAs
# Of no use to this model, and harmless: a note that pictures are pixels, and tables that are computed.
_IGNORED = ("pixel_space_vae", ".rotary_emb.inv_freq")
_SHOWN = 4


def published_names(names: Iterable[str], where: str) -> tuple[dict[str, str], list[str]]:
    """Name in the file -> published name of every tensor of the model; and the names of those that nobody needs.

    Raises CheckpointError, naming them, for prefixes that are mixed or doubled and for tensors of other models.
    """
    split = {name: _split(name) for name in names}
    ignored = [name for name in split if name.endswith(_IGNORED)]
    for name in ignored:
        del split[name]
    foreign = [name for name, (_, bare) in split.items() if bare is None]
    ours = {name: part for name, part in split.items() if part[1] is not None}
    if any(mark in name for name in split for mark in LORA):
        raise CheckpointError(f"{where} is a LoRA; give its checkpoint here, and this to the LoRA node or --lora")
    if not ours:
        raise CheckpointError(
            f"{where} holds no tensor of a SenseNova-U1 model, whose names begin with {', '.join(OURS)}; it has "
            f"{_listed(foreign) or 'none'}; give a checkpoint of this family"
        )
    if foreign:
        others = Counter(name.split(".")[0] for name in foreign)
        groups = ", ".join(f"{name}.* ({count})" for name, count in others.most_common(_SHOWN))
        raise CheckpointError(
            f"{where} also holds {sum(others.values())} tensors of something else: {groups}; this model needs neither "
            "a VAE nor a text encoder: fetch the file of the model alone"
        )
    prefixes = {prefix: name for name, (prefix, _) in ours.items()}
    doubled = [name for prefix, name in prefixes.items() if prefix not in ("", *PREFIXES)]
    if doubled or len(prefixes) > 1:
        kind = "doubled" if doubled else "mixed"
        raise CheckpointError(
            f"{where}: {kind} prefixes: {_listed(doubled or sorted(prefixes.values()))}; write the file again with one "
            f"of no prefix, {', '.join(PREFIXES)} before all names"
        )
    return {name: bare for name, (_, bare) in ours.items()}, ignored


def _split(name: str) -> tuple[str, str | None]:
    """All prefixes of a name, and its published rest; None if that is no name of ours."""
    bare = name
    while prefix := next((prefix for prefix in PREFIXES if bare.startswith(prefix)), ""):
        bare = bare[len(prefix) :]
    return name[: len(name) - len(bare)], bare if bare.startswith(OURS) else None


def _listed(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
