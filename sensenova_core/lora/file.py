"""LoRA files: which parameters one changes, and where the two thin factors of each change lie.

What is added to a parameter is factor * up @ down. Keys are a parameter's published name without `.weight` and one of
the endings below, with or without a prefix, or flat after another; docs/model.md.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..checkpoint import prefixes
from ..checkpoint.check import in_short
from ..checkpoint.files import PICKLES, SAFETENSORS
from ..checkpoint.safetensors_file import read_header
from ..checkpoint.tensors import TensorHeader
from ..checkpoint.weights import State, file_state
from ..errors import CheckpointError
from .peft import DORA, PEFT_FILE, Settings, read_settings, settings_beside

PREFIXES = (*prefixes.PREFIXES, "base_model.model.", "transformer.")
FLAT = "lora_unet_"  # begins keys of kohya's tools, which have an underscore for every dot of a name
DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight")
UP = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight")
ALPHA = ".alpha"
FOREIGN = "of another type"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # of factors
ALPHA_TYPES = TYPES | {"F64": torch.float64, "I64": torch.int64, "I32": torch.int32}
# Changes of other kinds: what they are, and what tells.
OTHERS = {
    DORA: re.compile(r"dora_scale|lora_magnitude_vector"),
    "LoHa": re.compile(r"\.hada_"),
    "LoKr": re.compile(r"\.lokr_"),
    "whole differences of weights": re.compile(r"\.(diff|diff_b|set_weight|modules_to_save\..*)$"),
}
REMEDY = (
    "Plain LoRAs of this model are understood: <parameter>.lora_down, .lora_up and .alpha, or PEFT's .lora_A and "
    ".lora_B; take one that was made for it, or have its maker export it as such"
)


@dataclass(frozen=True)
class Factors:
    """What a LoRA adds to one parameter: factor * up (rows, rank) @ down (rank, width).

    told: whether the file says the factor; else alpha is taken as the rank, which makes it 1.
    """

    up: TensorHeader
    down: TensorHeader
    factor: float
    told: bool = True


@dataclass(frozen=True, eq=False)
class Lora:
    """One file. states: of all that was read, see `lora_states`. factors: by the published names of the parameters.

    metadata: what the file and a configuration beside it say of themselves.
    """

    path: Path
    states: dict[Path, State | None]
    factors: dict[str, Factors]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Another one for a file that was replaced."""
        return "|".join(f"{path}|{state}" for path, state in self.states.items())

    @property
    def reads(self) -> bool:
        """Whether it changes what is read, and not only how is drawn."""
        return any("_mot_gen" not in name and not name.startswith("fm_modules.") for name in self.factors)

    @property
    def notes(self) -> list[str]:
        """What a user should know of it before using it, in words."""
        untold = sum(not factors.told for factors in self.factors.values())
        notes = []
        if untold:
            notes.append(
                f"{self.path.name} says no alpha for {untold} of its weights: taken as the rank (a factor of 1)"
            )
        if self.reads:
            notes.append(
                f"{self.path.name} also changes what reads and writes: text is written several times slower where all "
                "layers stay in memory"
            )
        return notes

    def headers(self) -> dict[str, TensorHeader]:
        """Of all factors, by names that no two files share."""
        return {
            name: header
            for parameter, factors in self.factors.items()
            for name, header in zip(self.names(parameter), (factors.up, factors.down), strict=True)
        }

    def names(self, parameter: str) -> tuple[str, str]:
        return f"{self.key}|{parameter}|up", f"{self.key}|{parameter}|down"


def lora_file(path: str | Path) -> Path:
    """The file that is meant: of PEFT's folders the one in it. Raises CheckpointError where there is none.

    A link is not followed: its name and what lies beside it count, as in the hub's cache.
    """
    path = Path(path).expanduser()
    file = path / PEFT_FILE if path.is_dir() else path
    if file.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"LoRA {file}: a pickle, which can run code and is never opened; fetch the safetensors version"
        )
    if not file.is_file():
        raise CheckpointError(f"LoRA {file}: no such file; give a .safetensors file, or a folder with {PEFT_FILE}")
    if file.suffix.lower() != SAFETENSORS:
        raise CheckpointError(f"LoRA {file}: not a .safetensors file; have its maker export it as such")
    return Path(os.path.abspath(file))


def lora_states(file: Path) -> dict[Path, State | None]:
    """Size and time of change of a LoRA's file, and of the settings that belong to it if there are any."""
    return {each: file_state(each) for each in (file, settings_beside(file)) if each is not None}


def read_lora(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> Lora:
    """Read which parameters a LoRA changes, and none of its factors. shapes: of the model's parameters, by their
    published names. Raises one CheckpointError that lists all that does not fit."""
    file = lora_file(path)
    states = lora_states(file)
    tensors, said = read_header(file)
    headers = {key: TensorHeader(file, *tensor) for key, tensor in tensors.items()}
    problems: dict[str, list[str]] = {}
    parts = _parts(headers, problems)
    settings = read_settings(file, said)
    for kind, names in settings.refused.items():
        problems.setdefault(kind, []).extend(names)
    factors = _factors(parts, shapes, _alphas(file, headers), settings, problems)
    if text := in_short(problems):
        raise CheckpointError(f"LoRA {file.name} does not fit: {text}. {REMEDY}")
    if not factors:
        raise CheckpointError(f"LoRA {file.name}: there is no LoRA in it. {REMEDY}")
    return Lora(file, states, factors, settings.metadata)


def _parts(headers: Mapping[str, TensorHeader], problems: dict[str, list[str]]) -> dict[str, dict[str, TensorHeader]]:
    """Parameter without .weight -> "up", "down", "alpha" -> tensor. Adds what is none of these to the problems."""
    found: dict[str, dict[str, TensorHeader]] = {}
    for key, header in headers.items():
        kind = next((kind for kind, tells in OTHERS.items() if tells.search(key)), None)
        place, role = _place(key)
        if kind or role is None:
            problems.setdefault(kind or "unknown", []).append(key)
        elif role in found.setdefault(place, {}):
            problems.setdefault("unknown", []).append(f"{key} (a second one)")
        elif role != "alpha" and header.dtype not in TYPES:
            said = f"{key} is {header.dtype}, readable are {', '.join(TYPES)}"
            problems.setdefault(FOREIGN, []).append(said)
        else:
            found[place][role] = header
    return found


def _factors(
    found: Mapping[str, Mapping[str, TensorHeader]],
    shapes: Mapping[str, tuple[int, ...]],
    alphas: Mapping[str, float],
    settings: Settings,
    problems: dict[str, list[str]],
) -> dict[str, Factors]:
    """By the names of parameters. Adds what does not fit to the problems."""
    factors: dict[str, Factors] = {}
    flat = {FLAT + name.removesuffix(".weight").replace(".", "_"): name for name in shapes}
    for place, parts in found.items():
        name = flat.get(place, f"{place}.weight")
        if not {"up", "down"} <= parts.keys():
            if FOREIGN not in problems:
                problems.setdefault("without their other half", []).append(place)
        elif name not in shapes:
            problems.setdefault("for parameters that this model lacks", []).append(place)
        elif name in factors:
            problems.setdefault("unknown", []).append(f"{place} (a second one)")
        elif (fitted := _fitted(parts["up"], parts["down"], shapes[name])) is None:
            sizes = f"{list(parts['up'].shape)} and {list(parts['down'].shape)}"
            said = f"{place} is {list(shapes[name])}, its factors {sizes}"
            problems.setdefault("of another shape", []).append(said)
        else:
            rank = fitted[1].shape[0]
            factor = alphas[place] / rank if place in alphas else settings.factor(name.removesuffix(".weight"), rank)
            if factor is not None and not math.isfinite(factor):
                problems.setdefault("of no finite alpha", []).append(place)
            factors[name] = Factors(*fitted, 1.0 if factor is None else factor, told=factor is not None)
    return factors


def _place(key: str) -> tuple[str, str | None]:
    """A parameter without .weight, and which part of its change a key is for; None for no known one."""
    for role, endings in (("down", DOWN), ("up", UP), ("alpha", (ALPHA,))):
        for ending in endings:
            if key.endswith(ending):
                return _without_prefix(key.removesuffix(ending)), role
    return key, None


def _without_prefix(name: str) -> str:
    """No parameter's own name begins with any of them."""
    prefix = next(filter(name.startswith, PREFIXES), None)
    return name if prefix is None else _without_prefix(name.removeprefix(prefix))


def _fitted(up: TensorHeader, down: TensorHeader, shape: tuple[int, ...]) -> tuple[TensorHeader, TensorHeader] | None:
    """Both as matrices; None where they are not those of a weight of this shape. Convolutions may have theirs flat or
    as convolutions: down with the kernel, up 1 x 1."""
    if len(shape) < 2 or len(up.shape) < 2 or len(down.shape) < 2:
        return None
    rows, width, rank = shape[0], math.prod(shape[1:]), down.shape[0]
    flat = down.shape == (rank, width) or down.shape[1:] == shape[1:]
    fits = up.shape[:2] == (rows, rank) and set(up.shape[2:]) <= {1} and flat and rank > 0
    return (replace(up, shape=(rows, rank)), replace(down, shape=(rank, width))) if fits else None


def _alphas(file: Path, headers: Mapping[str, TensorHeader]) -> dict[str, float]:
    """By parameter. They are single numbers, and all that is read of the file's tensors here."""
    alphas = {}
    with open(file, "rb") as stream:
        for key, header in headers.items():
            if not key.endswith(ALPHA):
                continue
            number, dtype = math.nan, ALPHA_TYPES.get(header.dtype)
            if header.numel == 1 and dtype is not None:
                stream.seek(header.start)
                number = float(torch.frombuffer(bytearray(stream.read(dtype.itemsize)), dtype=dtype))
            alphas[_place(key)[0]] = number
    return alphas
