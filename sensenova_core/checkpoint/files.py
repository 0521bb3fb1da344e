"""What a path names: which files hold a checkpoint's weights, its config and its tokenizer. Opens indexes alone."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .dialect import LORA

INDEX_NAME, CONFIG_JSON = "model.safetensors.index.json", "config.json"
SAFETENSORS, GGUF = ".safetensors", ".gguf"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json")
MAX_JSON = 2**24  # bytes of an index or a config
MARK = b"fm_modules."  # in the names of a model's tensors
LOOK = 2**23  # bytes of a GGUF file that hold all names, after a vocabulary if there is one
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}$")  # ends the stem of a part of a checkpoint
_HUB = "models--"  # begins the folder of a repository in the hub's cache


@dataclass(frozen=True)
class Files:
    """A checkpoint's files. path: the folder or the single file. index: which tensor lies in which of the weights."""

    path: Path
    weights: tuple[Path, ...]
    index: Path | None = None

    @property
    def name(self) -> str:
        """What people call it: a file's stem, a folder's name, a repository's in the hub's cache."""
        path = self.path.absolute()
        hub = path.parent.parent.name if path.parent.name == "snapshots" else ""
        if hub.startswith(_HUB):
            return hub.split("--", 2)[-1]
        return path.stem if self.is_single else path.name

    @property
    def is_single(self) -> bool:
        return self.weights == (self.path,)

    @property
    def folder(self) -> Path:
        return self.path.parent if self.is_single else self.path

    @property
    def configs(self) -> list[Path]:
        """Where its config.json may be, the likeliest first. One beside a single file may be of another checkpoint."""
        folders = [self.folder / self.path.stem, self.folder] if self.is_single else [self.folder]
        return [folder / CONFIG_JSON for folder in folders]

    @property
    def tokenizer(self) -> Path | None:
        """The folder of its tokenizer, if there is one."""
        return next((folder for folder in self._tokenizer_folders() if has_tokenizer(folder)), None)

    @property
    def all(self) -> list[Path]:
        """Every file whose content matters to what is loaded."""
        beside = [*self.configs, *([self.index] if self.index else [])]
        beside += [self.tokenizer / name for name in TOKENIZER_FILES] if self.tokenizer else []
        return [*self.weights, *(path for path in beside if path.is_file())]

    def _tokenizer_folders(self) -> Iterator[Path]:
        """Its own; beside a single file a folder of that name, or of its beginning, as U1-Q4.gguf and U1/ go together;
        `tokenizer`."""
        yield self.folder
        if self.is_single:
            named = [path for path in self.folder.iterdir() if _begins(path.name, self.path.stem) and path.is_dir()]
            yield from sorted(named, key=lambda path: len(path.name), reverse=True)
        yield self.folder / "tokenizer"


def locate(path: str | Path) -> Files:
    """The files that a path names: a Hugging Face folder, a repository in the hub's cache, or a single file.

    Raises CheckpointError for anything else, which says what to give in its place.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path}: a {path.suffix} file is a pickle, which can run code and is never opened; fetch the "
            ".safetensors or .gguf version"
        )
    if path.is_dir():
        return _in_folder(snapshot_of(path) if is_hub_repository(path) else path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: {'a link to a file that is not there' if path.is_symlink() else 'no such file or folder'}; give "
            "the folder that holds config.json and *.safetensors, or a .safetensors or .gguf file"
        )
    if path.name.endswith(".json") or is_shard(path):  # of the folder's checkpoint
        return _in_folder(path.parent)
    if path.suffix.lower() not in (SAFETENSORS, GGUF):
        raise CheckpointError(f"{path}: neither .safetensors nor .gguf; give one of these, or a checkpoint's folder")
    return Files(path, (path,))


def is_shard(file: Path) -> bool:
    """Whether a file is a part of a checkpoint in several, by its name."""
    return file.suffix == SAFETENSORS and _SHARD.search(file.stem) is not None


def is_of_family(file: Path) -> bool:
    """Whether a single file looks like a checkpoint of this family, by the beginning of its header alone."""
    try:
        if not file.is_file():
            return False
        with open(file, "rb") as stream:
            begins = stream.read(8)
            length = LOOK if begins.startswith(b"GGUF") else min(int.from_bytes(begins, "little"), MAX_JSON)
            names = stream.read(length)
    except OSError:
        return False
    return MARK in names and not any(mark.encode() in names for mark in LORA)


def is_hub_repository(folder: Path) -> bool:
    """Whether a folder is a repository in the layout of the hub's cache."""
    return folder.name.startswith(_HUB) and (folder / "snapshots").is_dir()


def snapshot_of(repository: Path) -> Path:
    """The snapshot in the hub's cache that `refs/main` names, or the only one there is. Raises CheckpointError."""
    main = repository / "refs" / "main"
    named = main.read_bytes()[:100].strip() if main.is_file() else b""
    found = {path.name.encode(): path for path in (repository / "snapshots").iterdir() if path.is_dir()}
    if named in found or len(found) == 1:
        return found.get(named) or next(iter(found.values()))
    raise CheckpointError(
        f"{repository}: refs/main names no snapshot that is there, and there are {len(found)}; give one of the folders "
        "in snapshots, or download the model again"
    )


def has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or all((folder / n).is_file() for n in ("vocab.json", "merges.txt"))


def read_json(path: Path) -> Any:
    """Raises ValueError for what is no JSON, or is too much of it."""
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path.stat().st_size:,} bytes, which is no file of this kind")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested without end") from error


def shards_of(index: Path) -> dict[str, str]:
    """Tensor -> file of an index. Raises CheckpointError, also where the files it names are not all there."""
    folder = index.parent
    try:
        where = read_json(index)["weight_map"]
        names = sorted(set(where.values()))
        outside = [name for name in names if Path(name).name != name or not name.endswith(SAFETENSORS)]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: not a safetensors index ({error!r}); fetch the file again") from error
    if outside or not names:
        named = f"{outside[0]!r}, which is not a .safetensors file of this folder" if outside else "no file"
        raise CheckpointError(f"{index}: names {named}; fetch the index again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} shards missing: {', '.join(missing)}; fetch them again"
        )
    return where


def _in_folder(folder: Path) -> Files:
    indexes = [path for path in _visible(folder, SAFETENSORS + ".index.json")]
    if indexes:
        index = next((path for path in indexes if path.name == INDEX_NAME), indexes[0])
        return Files(folder, tuple(folder / name for name in sorted(set(shards_of(index).values()))), index)
    if files := _visible(folder, SAFETENSORS):
        return Files(folder, tuple(files))
    packed = _visible(folder, GGUF)
    if len(packed) == 1:
        return Files(packed[0], (packed[0],))
    raise CheckpointError(_nothing_in(folder, [path.name for path in packed]))


def _nothing_in(folder: Path, packed: list[str]) -> str:
    if packed:
        return f"{folder}: {len(packed)} checkpoints in it; give one of the files: {', '.join(packed)}"
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickled or (folder / CONFIG_JSON).is_file():
        reason = f"; {pickled[0]} is a pickle, which can run code and is never opened" if pickled else ""
        return f"{folder}: no .safetensors file in it{reason}; fetch the safetensors version"
    return (
        f"{folder}: no config.json in it, and no .safetensors or .gguf file; give the checkpoint's own folder, not one "
        "above it"
    )


def _visible(folder: Path, ending: str) -> list[Path]:
    """Files of the folder by how their names end, without what macOS leaves beside them."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending) and not path.name.startswith("."))


def _begins(name: str, stem: str) -> bool:
    return name == stem or (stem.startswith(name) and stem[len(name)] in "-_. ")
