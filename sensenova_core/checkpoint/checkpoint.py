"""A path -> all that the engine needs of a checkpoint: geometry, tensors, tokenizer. From headers alone."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..hub.family import DEFAULT_MODEL, PIXEL_HEADS, REPOSITORIES, version_in
from ..hub.repository import CONFIG_JSON, read_json
from ..model.config import FAMILY, ModelConfig
from .comfy_quant import as_kept, kept_layers
from .config_from_shapes import LAYERS, config_from_shapes, counts, head_width
from .files import Files, locate
from .headers import Stored, read_files, stored_types
from .names import OUTPUT_HEAD
from .prefixes import published_names
from .quantised import quantised_as, refused
from .scales import MARK, check_all_scaled, check_scales, with_scales
from .tensors import TensorHeader

_KINDS = 3  # types that are named


@dataclass(frozen=True)
class Checkpoint:
    """What lies at a path. headers: by the published names. stored: type -> what the files hold in it.

    config_from: who says how large the model is. assumed: what no file says, and all published models have in common.
    ignored: tensors that the model does not need. quantised: the format that it is in, if it is one that is not read.
    """

    files: Files
    config: ModelConfig
    headers: Mapping[str, TensorHeader]
    stored: Mapping[str, Stored]
    config_from: str
    assumed: Mapping[str, Any]
    ignored: tuple[str, ...]
    quantised: str | None = None

    def check_readable(self) -> None:
        """Raise CheckpointError for a format that can be looked at and not be loaded."""
        if self.quantised is not None:
            raise refused(str(self.files.path), self.quantised)

    def check_writes(self) -> None:
        """Raise CheckpointError for a model that can draw and edit, and write no text."""
        if not self.config.writes:
            raise CheckpointError(
                f"{self.files.path}: this file is for drawing only: it lacks {OUTPUT_HEAD}, with which a model writes. "
                "It draws and edits; for reasoning, answers, chat, documents and self-correction take a file that has "
                f"it, such as those of {self._published}"
            )

    @property
    def name(self) -> str:
        return self.files.name

    @property
    def version(self) -> str | None:
        """Which of the family it is, by its name: None where that says nothing, or what its head speaks against."""
        version = version_in(self.name)
        return (
            version if version and PIXEL_HEADS.get(version, self.config.pixel_head) == self.config.pixel_head else None
        )

    def found(self) -> str:
        """What it is, in three lines: for the user to see that it is what was meant."""
        decoder = self.config.decoder
        kinds = list(self.stored)
        family = self.version or ("U1.5 or later (pixel head)" if self.config.pixel_head else "U1")
        experts = " with experts" if any(decoder.generation_experts) else ""
        types = " + ".join(kinds[:_KINDS]) + (f" and {len(kinds) - _KINDS} more" if len(kinds) > _KINDS else "")
        files = "1 file" if len(self.files.weights) == 1 else f"{len(self.files.weights)} files"
        assumed = f" (assumed, as published: {self.assumptions})" if self.assumed else ""
        experts += "" if self.config.writes else " for drawing only (no output head)"
        place = self.files.tokenizer
        tokenizer = "in the same folder" if place == self.files.folder else place or "none"
        return (
            f"{self.name}: {family}{experts}, {decoder.num_layers} layers, {types}, {files} in {self.files.folder}\n"
            f"Config: {self.config_from}{assumed}\nTokenizer: {tokenizer}"
        )

    @property
    def assumptions(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.assumed.items())

    @property
    def tokenizer(self) -> Path:
        """The folder of its tokenizer. Raises CheckpointError that says how to get one."""
        folder = self.files.tokenizer
        if folder is None:
            raise CheckpointError(f"{self.files.path}: no tokenizer; {self.how_to_get_a_tokenizer}")
        return folder

    @property
    def how_to_get_a_tokenizer(self) -> str:
        target = self.files.folder / "tokenizer" if self.files.is_single else self.files.folder
        return (
            "it needs tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json, in "
            f'{target}. To fetch only these: sensenova download {self._published} --tokenizer-only --to "{target}"'
        )

    @property
    def _published(self) -> str:
        """A published model with the same tokenizer."""
        if any(self.config.decoder.generation_experts):
            return "SenseNova/SenseNova-U1-A3B-MoT"
        version = self.version or ("U1.5" if self.config.pixel_head else "U1")
        named = (repo for repo in REPOSITORIES if repo.endswith(f"-{version}-8B-MoT"))
        return next(named, DEFAULT_MODEL)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint's headers: of a Hugging Face folder, a repository in the hub's cache, or a single file.

    Reads no weight, so any size takes a second at most. Raises CheckpointError, naming file and remedy.
    """
    files = locate(path)
    tensors, metadata = read_files(files)
    kept = kept_layers(tensors, metadata)
    weights = as_kept(tensors, kept)
    quantised = quantised_as(weights, metadata, next(_configs_beside(files), None), kept=kept)
    try:
        scaled = with_scales(weights)
        names, ignored = published_names(scaled, str(files.path))
        headers = {published: scaled[name] for name, published in names.items()}
        config, config_from, assumed = _config(files, headers, metadata)
        _check_counts(config, headers, config_from)
        check_all_scaled(headers, marked=any(name.rpartition(".")[2] == MARK for name in tensors))
        check_scales(headers)
    except CheckpointError as error:
        if quantised is not None:
            raise refused(str(files.path), quantised) from None
        raise error if str(files.path) in str(error) else CheckpointError(f"{files.path}: {error}") from None
    stored = stored_types(tensors.values())
    return Checkpoint(
        files,
        config,
        headers,
        stored=stored,
        config_from=config_from,
        assumed=assumed,
        ignored=tuple(ignored),
        quantised=quantised,
    )


def _config(
    files: Files, headers: Mapping[str, TensorHeader], metadata: Mapping[str, Any]
) -> tuple[ModelConfig, str, dict[str, Any]]:
    """The geometry, who says so, and what of it nobody says."""
    shapes = {name: header.shape for name, header in headers.items()}
    width = head_width(shapes)

    def parsed(raw: Mapping[str, Any]) -> ModelConfig:
        config = replace(ModelConfig.from_dict(raw), writes=OUTPUT_HEAD in headers)
        return config if width is None else config.with_head_width(width)

    if not files.is_single and (files.folder / CONFIG_JSON).is_file():
        return parsed(read_config_json(files.folder)), CONFIG_JSON, {}
    if within := _config_within(metadata):
        return parsed(within), "the file's metadata", {}
    raw, assumed = config_from_shapes(shapes)
    config = parsed(raw)
    beside = next(filter(_is_ours, _configs_beside(files)), None)
    if beside is not None and _same_shapes(parsed(beside), config):
        return parsed(beside), CONFIG_JSON, {}
    return config, "the tensors' shapes", assumed


def read_config_json(folder: str | Path) -> dict[str, Any]:
    """The content of `folder/config.json`, or a CheckpointError that says what is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the folder that holds config.json and *.safetensors")
    path = folder / CONFIG_JSON
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json in it; give the checkpoint's own folder, not one above it")
    try:
        raw = read_json(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; give yourself the right to read it") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: holds a {type(raw).__name__}, expected an object; fetch the file again")
    return raw


def _config_within(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """A config.json that was put into a file's metadata, as `config` or under a longer name that ends so."""
    for key, value in metadata.items():
        if key.split(".")[-1] == "config" and isinstance(value, str):
            try:
                raw = json.loads(value)
            except (ValueError, RecursionError):
                continue  # somebody else's
            if _is_ours(raw):
                return raw
    return None


def _configs_beside(files: Files) -> Iterator[dict[str, Any]]:
    """Each config.json of a checkpoint. One beside a single file may be of another checkpoint."""
    for file in files.configs:
        try:
            raw = read_json(file)
        except (OSError, ValueError):
            continue
        if isinstance(raw, dict):
            yield raw


def _is_ours(raw: Any) -> bool:
    return isinstance(raw, dict) and FAMILY in (raw.get("architectures") or ())


def _same_shapes(config: ModelConfig, derived: ModelConfig) -> bool:
    """Whether a config speaks of a model of the same size as the tensors."""

    def size(of: ModelConfig) -> tuple:
        decoder = of.decoder
        mixtures = (*decoder.understanding_experts, *decoder.generation_experts)
        return (
            [each and (each.num_experts, each.width) for each in mixtures],
            (decoder.num_heads, decoder.num_kv_heads, decoder.head_dim),
            (decoder.hidden_size, decoder.vocab_size),
            decoder.intermediate_size if None in decoder.understanding_experts else None,
            (of.vision.hidden_size, of.vision.channels, of.vision.patch_size),
            (of.pixel_head, of.noise.embedded),
        )

    return size(config) == size(derived)


def _check_counts(config: ModelConfig, headers: Mapping[str, TensorHeader], config_from: str) -> None:
    """What a config that asks for a million layers must not make the model be built for."""
    layers, *experts = counts(headers)
    decoder = config.decoder
    if decoder.num_layers != layers:
        first = f"{LAYERS}{min(layers, decoder.num_layers)}."
        raise CheckpointError(
            f"{config_from} asks for {decoder.num_layers} layers, the tensors are of {layers} (see {first}*); are both "
            "from the same checkpoint, and is the download complete?"
        )
    kinds = (decoder.understanding_experts, decoder.generation_experts)
    asked = [max((each.num_experts for each in kind if each), default=0) for kind in kinds]
    if asked != experts:
        raise CheckpointError(
            f"{config_from} asks for {asked[0]} and {asked[1]} experts in a layer, the tensors are of {experts[0]} and "
            f"{experts[1]}; are both from the same checkpoint, and is the download complete?"
        )
