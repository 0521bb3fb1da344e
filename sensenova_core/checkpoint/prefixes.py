"""How the names in a file differ from the published ones: by what trainers and other programs put before and between.

A published name begins with one of OURS, and none of its parts begins with an underscore; so what comes before, and
parts that do, are somebody's wrappers, whatever they are called.
"""

import re
from collections import Counter
from collections.abc import Iterable

from ..errors import CheckpointError

OURS = ("language_model.", "vision_model.", "fm_modules.")  # how published names begin
# Of modules that hold another one: DDP, PEFT. Those of torch.compile (_orig_mod), FSDP (_fsdp_wrapped_module) and
# others begin with an underscore.
_WRAPPERS = ("module", "base_layer", "original_module")
# Before names that only look like ours: other models that files hold beside one like this.
_OTHER_MODELS = re.compile(
    r"(?:^|[._])(?:te\d?|text_?encoders?|cond_stage_model|conditioner|first_stage_model|vae|clip\w*|image_encoder"
    r"|controlnet|optimizer)(?:$|[._])",
    re.IGNORECASE,
)
# In names of LoRAs: one of two factors. And in the bytes of headers.
_FACTOR = r"[._]lora(?:_?(?:linear_layer|linear|layer))?[._]?(?:up|down|a|b)"
LORA = re.compile(_FACTOR + r"(?:\.|$)", re.IGNORECASE)
LORA_BYTES = re.compile(rb"%s[^a-z0-9_]" % _FACTOR.encode(), re.IGNORECASE)
_LLAMA_CPP = re.compile(r"(?:v\.|a\.)?blk\.\d+\.|token_embd\.|output_norm\.|mm\.\d")
# Of no use to this model, and harmless: a note that pictures are pixels, tables that are computed, an average's count.
_IGNORED = ("pixel_space_vae", ".rotary_emb.inv_freq", "n_averaged")
_SHOWN = 4


def published_names(names: Iterable[str], where: str) -> tuple[dict[str, str], list[str]]:
    """Name in the file -> published name of every tensor of the model; and the names of those that nobody needs.

    Raises CheckpointError, naming them, for prefixes that are mixed and for tensors of other models.
    """
    split = {name: unwrapped(name) for name in names}
    ignored = [name for name in split if name.endswith(_IGNORED)]
    for name in ignored:
        del split[name]
    foreign = [name for name, (_, bare) in split.items() if bare is None]
    ours = {name: (prefix, bare) for name, (prefix, bare) in split.items() if bare is not None}
    if any(map(LORA.search, split)):
        raise CheckpointError(f"{where} is a LoRA; give its checkpoint here, and this to the LoRA node or --lora")
    if not ours:
        raise CheckpointError(_no_model(foreign, where))
    if foreign:
        others = Counter(name.split(".")[0][:40] for name in foreign)
        groups = ", ".join(f"{name}.* ({count})" for name, count in others.most_common(_SHOWN))
        raise CheckpointError(
            f"{where} also holds {sum(others.values())} tensors of something else: {groups}; this model needs neither "
            "a VAE nor a text encoder: fetch the file of the model alone"
        )
    prefixes = {prefix: name for name, (prefix, _) in ours.items()}
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{where}: mixed prefixes: {_listed(sorted(prefixes.values()))}; write the file again with one set of "
            "weights in it, and with one of no prefix, diffusion_model. or another before all names"
        )
    _check_once(ours, where)
    return {name: bare for name, (_, bare) in ours.items()}, ignored


def unwrapped(name: str) -> tuple[str, str | None]:
    """What comes before a name, and its published rest; None if that is no name of ours."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS and not part.startswith("_")]
    first = next((index for index, part in enumerate(parts) if f"{part}." in OURS), len(parts))
    prefix = ".".join(parts[:first])
    is_ours = len(parts) > first + 1 and not is_of_other_model(prefix)
    return prefix, ".".join(parts[first:]) if is_ours else None


def is_of_other_model(prefix: str) -> bool:
    return _OTHER_MODELS.search(prefix) is not None


def _no_model(foreign: list[str], where: str) -> str:
    if any(map(_LLAMA_CPP.match, foreign)):
        return (
            f"{where} has the names of llama.cpp ({_listed(foreign)}), whose conversion keeps the language model "
            "alone: it joins and drops what draws; take a GGUF file made for ComfyUI with the published names, or the "
            ".safetensors files"
        )
    return (
        f"{where} holds no tensor of a SenseNova-U1 model, whose names begin with {', '.join(OURS)}; it has "
        f"{_listed(foreign) or 'none'}; give a checkpoint of this family"
    )


def _check_once(ours: dict[str, tuple[str, str]], where: str) -> None:
    seen: dict[str, str] = {}
    for name, (_, bare) in ours.items():
        if bare in seen:
            raise CheckpointError(
                f"{where}: {seen[bare][:100]} and {name[:100]} are both {bare[:100]}; write the file again with one "
                "set of weights in it"
            )
        seen[bare] = name


def _listed(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
