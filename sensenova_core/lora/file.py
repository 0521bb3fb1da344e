"""LoRA files: which parameters one changes, and where the two thin factors of each change lie.

What is added to a parameter is factor * up @ down. How keys are read: `keys`.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..checkpoint.check import in_short
from ..checkpoint.files import PICKLES, SAFETENSORS, check_ended, look_alike
from ..checkpoint.formats import FORMATS
from ..checkpoint.mapped_file import State, file_state
from ..checkpoint.safetensors_file import read_header
from ..checkpoint.tensors import TensorHeader
from ..errors import CheckpointError
from ..hub.repository import CONFIG_JSON, PEFT_FILE
from ..system.paths import path_of
from .keys import Parameters, parsed
from .peft import DORA, Settings, read_settings, settings_beside

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
FOREIGN = "of another type"
TYPES = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")  # of factors
WHOLE = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
ALPHA_TYPES = {name: FORMATS[name].numbers for name in TYPES} | WHOLE
# Changes of other kinds: what they are, and what tells.
OTHERS = {
    DORA: re.compile(r"dora_scale|lora_magnitude_vector"),
    "LoHa": re.compile(r"[._]hada_"),
    "LoKr": re.compile(r"[._]lokr_"),
    "OFT": re.compile(r"[._]b?oft_"),
    "(IA)3": re.compile(r"[._]ia3_"),
    "LoCon of three factors": re.compile(r"[._]lora_mid(\.|$)"),
    "factors of a table of words (lora_embedding)": re.compile(r"[._]lora_embedding_", re.IGNORECASE),
    "biases": re.compile(r"[._]lora[._]?(up|down|a|b)(\.[^.]+)?\.bias$", re.IGNORECASE),
    "whole differences of weights": re.compile(r"[._](diff|diff_b|set_weight|modules_to_save\..*)$"),
}
Problems = defaultdict[str, list[str]]  # kind -> what is wrong, for `in_short`
REMEDY = (
    "Plain LoRAs of this model are understood, of pairs up and down, or A and B, with or without alpha; take one that "
    "was made for it, or have its maker export it as such"
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

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """What both lie in when they are used."""
        return self.up.format.factor_dtype, self.down.format.factor_dtype


@dataclass(frozen=True, eq=False)
class Lora:
    """One file. states: of all that was read, see `lora_states`. factors: by the published names of the parameters.

    metadata: what the file and a configuration beside it say of themselves. left_out: parameters that it would change,
    and that the model lacks and can do without.
    """

    path: Path
    states: dict[Path, State | None]
    factors: dict[str, Factors]
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

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
        untold = len([factors for factors in self.factors.values() if not factors.told])
        notes = []
        if self.left_out:
            notes.append(
                f"what {self.path.name} changes of {', '.join(self.left_out)} is left out: the model lacks it, and "
                "draws without it"
            )
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


def lora_file(path: str | os.PathLike) -> Path:
    """The file that is meant: of PEFT's and diffusers' folders the one in it. Raises CheckpointError for none.

    A link is not followed: its name and what lies beside it count, as in the hub's cache.
    """
    path = path_of(path)
    file = _within(path) if path.is_dir() else path
    if file.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"LoRA {file}: a pickle, which can run code and is never opened; fetch the safetensors version"
        )
    check_ended(file)
    if not file.is_file():
        raise CheckpointError(
            f"LoRA {file}: no such file; give a .safetensors file, or a folder with {PEFT_FILE}{look_alike(file)}"
        )
    if file.suffix.lower() != SAFETENSORS:
        raise CheckpointError(f"LoRA {file}: not a .safetensors file; have its maker export it as such")
    return Path(os.path.abspath(file))


def _within(folder: Path) -> Path:
    """The LoRA of a folder: by the name that PEFT or diffusers gives it, or the only file of its kind."""
    named = next((folder / name for name in (PEFT_FILE, DIFFUSERS_FILE) if (folder / name).is_file()), None)
    if named is not None:
        return named
    if (folder / CONFIG_JSON).is_file():
        raise CheckpointError(
            f"LoRA {folder}: a checkpoint's folder (it has {CONFIG_JSON}), and no LoRA; give it as the model: to the "
            "Loader, or with --model"
        )
    files = [each for each in sorted(folder.iterdir()) if each.suffix.lower() == SAFETENSORS and each.is_file()]
    pickles = [each for each in folder.glob("adapter_model.*") if each.suffix.lower() in PICKLES]
    return files[0] if len(files) == 1 else (pickles or [folder / PEFT_FILE])[0]


def lora_states(file: Path) -> dict[Path, State | None]:
    """Size, time of change and inode of a LoRA's file, and of the settings that belong to it if there are any."""
    return {each: file_state(each) for each in (file, settings_beside(file)) if each is not None}


def read_lora(path: str | os.PathLike, shapes: Mapping[str, tuple[int, ...]], absent: Collection[str] = ()) -> Lora:
    """Read which parameters a LoRA changes, and none of its factors. Raises one CheckpointError of all that is wrong.

    shapes: of the model's parameters, by their published names. absent: of these, what the model at hand lacks and can
    do without: changes of them are left out.
    """
    file = lora_file(path)
    states = lora_states(file)
    headers, said = read_header(file)
    problems: Problems = defaultdict(list)
    parameters = Parameters(shapes)
    parts = _parts(headers, parameters, problems)
    if not parts:
        _check_is_lora(file, headers, parameters)
    settings = read_settings(file, said)
    for kind, names in settings.refused.items():
        problems[kind] += names
    factors = _factors(parts, shapes, settings=settings, problems=problems)
    if text := in_short(problems):
        raise CheckpointError(f"LoRA {file.name} does not fit: {text}. {REMEDY}")
    left_out = tuple(name for name in factors if name in absent)
    factors = {name: found for name, found in factors.items() if name not in absent}
    if left_out and not factors:
        raise CheckpointError(f"LoRA {file.name}: it changes {', '.join(left_out)} alone, which this model lacks")
    if not factors:
        raise CheckpointError(f"LoRA {file.name}: there is no LoRA in it. {REMEDY}")
    return Lora(file, states, factors, metadata=settings.metadata, left_out=left_out)


def _check_is_lora(file: Path, headers: Mapping[str, TensorHeader], parameters: Parameters) -> None:
    """Raise CheckpointError for the weights themselves of a model like this one."""
    whole = [key for key in headers if key.endswith(".weight") and parameters.find(key)]
    if whole:
        raise CheckpointError(
            f"LoRA {file.name}: a whole checkpoint ({len(whole)} weights of the model itself), and no LoRA; give it as "
            "the model: to the Loader, or with --model"
        )


def _parts(
    headers: Mapping[str, TensorHeader], parameters: Parameters, problems: Problems
) -> dict[str, dict[str, TensorHeader]]:
    """Parameter -> "up", "down", "alpha" -> tensor. Adds what is none of these to the problems.

    A parameter that the model lacks is called as its keys call it.
    """
    found: dict[str, dict[str, TensorHeader]] = {}
    adapters: set[str] = set()
    for key, header in headers.items():
        kind = next((kind for kind, tells in OTHERS.items() if tells.search(key)), None)
        part = parsed(key)
        if kind or part is None:
            problems[kind or "unknown"].append(key)
            continue
        place = parameters.find(part.place) or part.place
        if part.adapter and part.role != "alpha":
            adapters.add(part.adapter)
        if part.role in found.setdefault(place, {}):
            problems["unknown"].append(f"{key} (a second one)")
        elif part.role != "alpha" and header.dtype not in TYPES:
            problems[FOREIGN].append(f"{key} is {header.dtype}, readable are {', '.join(TYPES)}")
        else:
            found[place][part.role] = header
    if len(adapters) > 1:
        problems["adapters in one file"] += sorted(adapters)
    return found


def _factors(
    found: Mapping[str, Mapping[str, TensorHeader]],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    settings: Settings,
    problems: Problems,
) -> dict[str, Factors]:
    """By the names of parameters. Adds what does not fit to the problems."""
    factors: dict[str, Factors] = {}
    for name, parts in found.items():
        place = name.removesuffix(".weight")
        if not {"up", "down"} <= parts.keys():
            if FOREIGN not in problems:
                problems["without their other half"].append(place)
        elif name not in shapes:
            problems["for parameters that this model lacks"].append(place)
        elif (fitted := _fitted(parts["up"], parts["down"], shapes[name])) is None:
            sizes = f"{list(parts['up'].shape)} and {list(parts['down'].shape)}"
            problems["of another shape"].append(f"{place} is {list(shapes[name])}, its factors {sizes}")
        else:
            up, down = fitted
            rank = down.shape[0]
            factor = _alpha(parts["alpha"]) / rank if "alpha" in parts else settings.factor(place, rank)
            if factor is not None and not math.isfinite(factor):
                problems["of no finite alpha"].append(place)
            factors[name] = Factors(up, down, factor=1.0 if factor is None else factor, told=factor is not None)
    return factors


def _fitted(up: TensorHeader, down: TensorHeader, shape: tuple[int, ...]) -> tuple[TensorHeader, TensorHeader] | None:
    """Both as matrices; None where they are not those of a weight of this shape.

    A convolution's may be matrices or convolutions: down with the kernel, up 1 x 1.
    """
    if len(shape) < 2 or len(up.shape) < 2 or len(down.shape) < 2:
        return None
    rows, width, rank = shape[0], math.prod(shape[1:]), down.shape[0]
    flat = down.shape == (rank, width) or _without_ones(down.shape[1:]) == _without_ones(shape[1:])
    fits = up.shape[:2] == (rows, rank) and set(up.shape[2:]) <= {1} and flat and rank > 0
    return (replace(up, shape=(rows, rank)), replace(down, shape=(rank, width))) if fits else None


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without axes of one at its end, as of a matrix that is written as a convolution of 1 x 1."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _alpha(header: TensorHeader) -> float:
    """A single number, of which one for each parameter is all that is read of a file's tensors here."""
    dtype = ALPHA_TYPES.get(header.dtype)
    if header.numel != 1 or dtype is None:
        return math.nan
    with open(header.file, "rb") as stream:
        stream.seek(header.start)
        return float(torch.frombuffer(bytearray(stream.read(dtype.itemsize)), dtype=dtype))
