"""What a path names: which files hold a checkpoint's weights, its config and its tokenizer. Opens indexes alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..hub.repository import (
    CONFIG_JSON,
    INDEX,
    INDEX_NAME,
    MAX_JSON,
    PEFT_CONFIG,
    PEFT_FILE,
    SHARD,
    TOKENIZER_FILES,
    read_json,
)
from ..system.paths import path_of
from .mistaken import (
    GGUF,
    NOT_ENDED,
    SAFETENSORS,
    UNFINISHED,
    check_ended,
    look_alike,
)
from .prefixes import LORA_BYTES

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MARK = b"fm_modules."  # in the names of a model's tensors
_BEGINS = b"language_model.model.embed_tokens.weight"  # in that of a whole one, beside MARK
LOOK = 2**23  # bytes of a GGUF file that hold all names, after a vocabulary if there is one
_SPLIT = re.compile(r"-\d{5}-of-(?!00001)\d{5}$")  # ends the stem of a part of a GGUF file
_SPLIT_GGUF = "a part of a GGUF file in several; join them (llama-gguf-split --merge), or fetch it in one file"
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
    def is_all_of_its_folder(self) -> bool:
        """Whether the folder means it: a single file that has none beside it does as well."""
        try:
            return locate(self.folder) == self
        except CheckpointError:
            return False

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
    path = path_of(path)
    if path.suffix.lower() in PICKLES and not path.is_dir():
        raise CheckpointError(
            f"{path}: a {path.suffix} file is a pickle, which can run code and is never opened; fetch the "
            ".safetensors or .gguf version"
        )
    if path.is_dir():
        return _in_folder(snapshot_of(path) if is_hub_repository(path) else path)
    check_ended(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: {'a link to a file that is not there' if path.is_symlink() else 'no such file or folder'}; give "
            f"the folder that holds config.json and *.safetensors, or a .safetensors or .gguf file{look_alike(path)}"
        )
    if path.name.endswith(INDEX):
        return _indexed(path)
    if is_shard(path):
        return _of_shard(path)
    if path.name == CONFIG_JSON:
        return _in_folder(path.parent)
    if path.suffix.lower() not in (SAFETENSORS, GGUF):
        raise CheckpointError(f"{path}: neither .safetensors nor .gguf; give one of these, or a checkpoint's folder")
    if path.suffix.lower() == GGUF and _SPLIT.search(path.stem):
        raise CheckpointError(f"{path}: {_SPLIT_GGUF}")
    return Files(path, (path,))


def is_shard(file: Path) -> bool:
    """Whether a file is a part of a checkpoint in several, by its name."""
    return file.suffix.lower() == SAFETENSORS and SHARD.match(file.stem) is not None


def is_of_family(file: Path) -> bool:
    """Whether a single file looks like a checkpoint of this family, by the beginning of its header alone."""
    names = _beginning(file)
    return MARK in names and not LORA_BYTES.search(names)


def holds_several(folder: Path) -> bool:
    """Whether a folder's .safetensors files are checkpoints of their own, as where one model lies in several types."""
    try:
        return not _visible(folder, INDEX) and len(_whole_ones(_visible(folder, SAFETENSORS))) > 1
    except CheckpointError:
        return False


def _whole_ones(files: list[Path]) -> list[Path]:
    """Those of several files that hold a whole model, by the beginnings of their headers alone."""
    singles = [file for file in files if not is_shard(file)]
    return [file for file in singles if len(singles) > 1 and all(name in _beginning(file) for name in (MARK, _BEGINS))]


def _several(folder: Path, files: list[Path]) -> str:
    names = ", ".join(file.name for file in files)
    return f"{folder}: {len(files)} checkpoints in it; give one of the files: {names}"


def is_lora(file: Path) -> bool:
    """Whether a safetensors file is a LoRA, by its name or the beginning of its header alone."""
    return file.name == PEFT_FILE or LORA_BYTES.search(_beginning(file)) is not None


def _beginning(file: Path) -> bytes:
    """As much of a file as names its tensors; nothing of one that cannot be read."""
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            return b""
        with open(file, "rb") as stream:
            begins = stream.read(8)
            return stream.read(LOOK if begins.startswith(b"GGUF") else min(int.from_bytes(begins, "little"), MAX_JSON))
    except OSError:
        return b""


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


def shards_of(index: Path) -> dict[str, str]:
    """Tensor -> file of an index. Raises CheckpointError, also where the files it names are not all there."""
    where = _weight_map(index)
    names = sorted(set(where.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent}: {len(missing)} of {len(names)} shards missing: {', '.join(missing)}; fetch them again"
        )
    return where


def _weight_map(index: Path) -> dict[str, str]:
    try:
        where = read_json(index)["weight_map"]
        names = sorted(set(where.values()))
        outside = [name for name in names if Path(name).name != name or not name.endswith(SAFETENSORS)]
    except OSError as error:
        raise CheckpointError(f"{index}: {error.strerror}; make it readable, or fetch the file again") from error
    except ValueError as error:
        raise CheckpointError(f"{index}: not a safetensors index: {error}") from error
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index}: not a safetensors index (no weight_map of tensors and files in it); fetch the file again"
        ) from error
    if outside or not names:
        named = f"{outside[0][:100]!r}, which is not a .safetensors file of this folder" if outside else "no file"
        raise CheckpointError(f"{index}: names {named}; fetch the index again")
    return where


def _in_folder(folder: Path) -> Files:
    indexes = _visible(folder, INDEX)
    if (folder / INDEX_NAME) in indexes or len(indexes) == 1:
        return _indexed(folder / INDEX_NAME if len(indexes) > 1 else indexes[0])
    if indexes:
        names = ", ".join(path.name for path in indexes)
        raise CheckpointError(f"{folder}: {len(indexes)} checkpoints in it; give one of their indexes: {names}")
    if files := _without_loras(folder, _visible(folder, SAFETENSORS)):
        _check_parts(folder, files)
        if len(alone := _whole_ones(files)) > 1:
            raise CheckpointError(_several(folder, alone))
        return Files(folder, tuple(files))
    packed = _visible(folder, GGUF)
    if len(packed) == 1:
        return Files(packed[0], (packed[0],))
    raise CheckpointError(_nothing_in(folder, [path.name for path in packed]))


def _without_loras(folder: Path, files: list[Path]) -> list[Path]:
    """A folder's checkpoint, without LoRAs that lie beside it. Raises CheckpointError where these are all there is."""
    loras = [file for file in files if file.name == PEFT_FILE or (len(files) > 1 and is_lora(file))]
    if not loras or len(loras) < len(files):
        return [file for file in files if file not in loras]
    if (folder / PEFT_CONFIG).is_file() or not (folder / CONFIG_JSON).is_file():
        raise CheckpointError(
            f"{folder}: the folder of a LoRA ({loras[0].name}){_base_of(folder)}; give it to the LoRA node or --lora, "
            "and its checkpoint here"
        )
    raise CheckpointError(f"{folder}: a LoRA ({loras[0].name}) beside {CONFIG_JSON}, and no weights; fetch these too")


def _base_of(folder: Path) -> str:
    try:
        base = read_json(folder / PEFT_CONFIG).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f", made for {base[:100]}" if isinstance(base, str) and base else ""


def _check_parts(folder: Path, files: list[Path]) -> None:
    """Raise CheckpointError where names say that there are more parts than lie here: no index tells so."""
    sets: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if (found := SHARD.match(file.stem)) and len(found[2]) <= 9 and len(found[3]) <= 9:
            sets.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    if len(sets) > 1:
        names = ", ".join(f"{stem[:60]}-*-of-{count:05}" for stem, count in sorted(sets))
        raise CheckpointError(
            f"{folder}: parts of {len(sets)} checkpoints in it, and no index: {names}; keep one of them"
        )
    for (stem, count), there in sets.items():
        missing = count - len(there & set(range(1, count + 1))) if count <= len(there) + MAX_JSON else 0
        if missing > 0:
            first = next(number for number in range(1, count + 1) if number not in there)
            raise CheckpointError(
                f"{folder}: {missing} of {count} shards missing, {stem[:60]}-{first:05}-of-{count:05}{SAFETENSORS} the "
                "first of them; fetch them too, into this folder"
            )


def _indexed(index: Path) -> Files:
    folder = index.parent
    return Files(folder, tuple(folder / name for name in sorted(set(shards_of(index).values()))), index)


def _of_shard(shard: Path) -> Files:
    """The checkpoint whose index names a shard, or all of a folder that has no index."""
    indexes = _visible(shard.parent, INDEX)
    naming = [index for index in indexes if shard.name in _weight_map(index).values()]
    if indexes and len(naming) != 1:
        raise CheckpointError(
            f"{shard}: {len(naming) or 'none'} of the indexes beside it names this part; give one of "
            f"{', '.join(index.name for index in indexes)}"
        )
    return _indexed(naming[0]) if naming else _in_folder(shard.parent)


def _nothing_in(folder: Path, packed: list[str]) -> str:
    if packed and all(_SPLIT.search(Path(name).stem) for name in packed):
        return f"{folder}: {packed[0]} is {_SPLIT_GGUF}"
    if packed:
        return _several(folder, [Path(name) for name in packed])
    unfinished = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(UNFINISHED))
    if unfinished:
        return f"{folder}: no .safetensors or .gguf file in it; {unfinished[0][:100]} is {NOT_ENDED}"
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickled or (folder / CONFIG_JSON).is_file():
        reason = f"; {pickled[0]} is a pickle, which can run code and is never opened" if pickled else ""
        return f"{folder}: no .safetensors file in it{reason}; fetch the safetensors version"
    return (
        f"{folder}: no config.json in it, and no .safetensors or .gguf file; give the checkpoint's own folder, not one "
        "above it"
    )


def _visible(folder: Path, ending: str) -> list[Path]:
    """Files of the folder by how their names end, in any case, without what macOS leaves beside them."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: the folder cannot be read: {error.strerror}; give yourself the right to read it"
        ) from error
    return [folder / name for name in names if name.lower().endswith(ending)]


def _begins(name: str, stem: str) -> bool:
    return name == stem or (stem.startswith(name) and stem[len(name)] in "-_. ")
