"""Where a checkpoint's parameters are: by group and by pathway, from config and file headers alone.

Every parameter belongs to one group. A pathway is what one task runs through; both run through the shared text
embedding and output, so their ratios add up to more than 100%.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ..checkpoint import Checkpoint, checkpoint_name, open_checkpoint
from ..checkpoint.checkpoint import read_config_json
from ..checkpoint.headers import Stored
from ..errors import SettingsError, check_choice, quoted
from ..model.config import ModelConfig

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
UNDERSTANDING, GENERATION, SHARED = "understanding_transformer", "generation_transformer", "shared"
PATHWAYS = {"understanding pathway": (UNDERSTANDING, SHARED), "generation pathway": (GENERATION, SHARED)}
UNGROUPED = "ungrouped"  # what custom groups leave over
WIDTH = 69

_SHARED_MODULES = ("language_model.model.embed_tokens.", "language_model.lm_head.")
_MODULE_ORDER = (
    "vision_model.",
    "language_model.model.embed_tokens.",
    "language_model.model.layers.",
    "language_model.model.norm",
    "language_model.lm_head.",
    "fm_modules.",
)


@dataclass(frozen=True)
class Inspection:
    """Parameter counts of one checkpoint. groups: group -> {parameter name: numel}, in the model's order.

    stored: type -> what the files hold in it, scales and all. notes: what else there is to say of the files.
    """

    model: str
    groups: dict[str, dict[str, int]]
    stored: Mapping[str, Stored] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.group_total(group) for group in self.groups)

    def group_total(self, group: str) -> int:
        return sum(self.groups[group].values())

    def by_size(self) -> list[str]:
        return sorted(self.groups, key=self.group_total, reverse=True)

    def pathways(self) -> dict[str, int]:
        """Parameters of each pathway; empty when custom groups replaced the ones pathways are made of."""
        return {
            name: sum(map(self.group_total, members))
            for name, members in PATHWAYS.items()
            if all(member in self.groups for member in members)
        }


def inspect(model: str | Path, custom_groups: Mapping[str, list[str]] | None = None) -> Inspection:
    """Count a checkpoint's parameters by group. Reads no weight, so any size takes a second or two.

    A folder that holds only config.json is counted as that config describes it. custom_groups: group -> prefixes of
    parameter names, replacing the default rule; the longest prefix wins. Raises CheckpointError, SettingsError.
    """
    group_of = _default_group if custom_groups is None else _prefix_rule(custom_groups)
    checkpoint = None if _only_config(Path(model)) else open_checkpoint(model)
    groups: dict[str, dict[str, int]] = {}
    for name, numel in sorted(_counts(Path(model), checkpoint).items(), key=lambda item: _module_order(item[0])):
        groups.setdefault(group_of(name), {})[name] = numel
    if checkpoint is None:
        return Inspection(str(model), groups)
    return Inspection(str(model), groups, stored=checkpoint.stored, notes=_notes(checkpoint))


def read_custom_groups(path: str | Path) -> dict[str, list[str]]:
    """A JSON file of the form {"group": ["prefix", ...]}. Raises SettingsError if it is anything else."""
    try:
        groups = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"custom groups {path}: {error}", "give a JSON file") from error
    if not isinstance(groups, dict) or not all(
        isinstance(prefixes, list) and all(isinstance(prefix, str) for prefix in prefixes)
        for prefixes in groups.values()
    ):
        raise SettingsError(f'custom groups {path}: expected {{"group": ["prefix", ...]}}')
    return groups


def report(inspection: Inspection, dtype: str = "bfloat16", show_groups: tuple[str, ...] = (SHARED,)) -> str:
    """The report as text. dtype sets the memory column, never the counts; show_groups lists members ("all" for all)."""
    check_choice("dtype", dtype, tuple(DTYPE_BYTES))
    shown = inspection.by_size() if "all" in show_groups else list(show_groups)
    unknown = [group for group in shown if group not in inspection.groups]
    if unknown:
        raise SettingsError(f"group {quoted(unknown[0])} is unknown", f"there are {', '.join(inspection.groups)}")

    def memory(numel: int) -> str:
        return _scaled(numel * DTYPE_BYTES[dtype], ("GB", "MB", "KB", "B"))

    def row(name: str, numel: int) -> str:
        ratio = f"{numel / inspection.total:.2%}"
        return f"{name:<28}{_scaled(numel):>12}{memory(numel):>20}{ratio:>9}"

    line = "-" * WIDTH
    heading = f"{{:<28}}{'params':>12}{f'memory ({dtype})':>20}{'ratio':>9}"
    lines = [
        f"Model: {inspection.model}",
        f"Load dtype: {dtype}",
        f"Total params: {_scaled(inspection.total)}",
        f"Total memory: {memory(inspection.total)} ({dtype})",
        *(line, heading.format("group"), line),
        *(row(group, inspection.group_total(group)) for group in inspection.by_size()),
        line,
    ]
    if pathways := inspection.pathways():
        lines += ["", "Pathway breakdown (shared counted in both):", line, heading.format("pathway"), line]
        lines += [*(row(name, numel) for name, numel in pathways.items()), line]
    for group in shown:
        members = inspection.groups[group]
        total = inspection.group_total(group)
        size = f"{len(members)} params, {_scaled(total)} total, {memory(total)} @ {dtype}"
        lines += ["", f"Members of group '{group}' ({size})"]
        lines += [line, f"{'param name':<45}{'numel':>12}{'dtype':>12}", line]
        lines += [*(f"{name:<45} {_scaled(numel):>11} {dtype:>11}" for name, numel in members.items()), line]
    lines += _as_stored(inspection.stored) if inspection.stored else []
    lines += ["", *inspection.notes] if inspection.notes else []
    return "\n".join(lines)


def _as_stored(stored: Mapping[str, Stored]) -> list[str]:
    def row(kind: str, held: Stored) -> str:
        return f"{kind:<21}{held.tensors:>12}{_scaled(held.numel):>18}{held.nbytes:>18,}"

    line = "-" * WIDTH
    heading = f"{'type':<21}{'tensors':>12}{'params':>18}{'bytes':>18}"
    total = row("all", sum(stored.values(), Stored()))
    return ["", "As stored:", line, heading, line, *map(row, stored, stored.values()), line, total, line]


def _only_config(model: Path) -> bool:
    return (model / "config.json").is_file() and not any(model.glob("*.safetensors*")) and not any(model.glob("*.gguf"))


def _counts(model: Path, checkpoint: Checkpoint | None) -> dict[str, int]:
    if checkpoint is not None:
        return {name: header.numel for name, header in checkpoint.headers.items()}
    from ..model import SenseNovaU1

    parameters = SenseNovaU1.on_meta(ModelConfig.from_dict(read_config_json(model))).named_parameters()
    return {checkpoint_name(name): prod(value.shape) for name, value in parameters}


def _notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    files = checkpoint.files
    notes = [f"Files: {len(files.weights)}, {sum(file.stat().st_size for file in files.weights):,} bytes"]
    notes.append(f"Config: {checkpoint.config_from}")
    if checkpoint.assumed:
        notes.append(f"Assumed, as in the published models: {checkpoint.assumptions}")
    if checkpoint.ignored:
        notes.append(f"Left out: {', '.join(checkpoint.ignored)}")
    if not checkpoint.config.writes:
        notes.append("For drawing only: without the output head it draws and edits, and writes no text")
    where = files.tokenizer
    notes.append(f"Tokenizer: {where or 'none'}" + ("" if where else f"; {checkpoint.how_to_get_a_tokenizer}"))
    return tuple(notes)


def _default_group(name: str) -> str:
    if name.startswith(_SHARED_MODULES):
        return SHARED
    return GENERATION if name.startswith("fm_modules.") or "_mot_gen" in name else UNDERSTANDING


def _prefix_rule(groups: Mapping[str, list[str]]) -> Callable[[str], str]:
    by_prefix = {prefix: group for group, prefixes in groups.items() for prefix in prefixes}
    longest_first = sorted(by_prefix, key=len, reverse=True)

    def group_of(name: str) -> str:
        return next((by_prefix[prefix] for prefix in longest_first if name.startswith(prefix)), UNGROUPED)

    return group_of


def _module_order(name: str) -> tuple:
    """The order in which the model runs, numbers by value: embedding first, then layer 2 before layer 10."""
    home = next((rank for rank, prefix in enumerate(_MODULE_ORDER) if name.startswith(prefix)), len(_MODULE_ORDER))
    return home, [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _scaled(count: int, units: tuple[str, str, str, str] = ("B", "M", "K", "")) -> str:
    for power, unit in zip((9, 6, 3), units, strict=False):
        if count >= 10**power:
            return f"{count / 10**power:.3f}{unit}"
    return f"{count}{units[3]}"
