"""Where ComfyUI keeps models: the lists of checkpoints and LoRAs, what a name in them means, and downloads."""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import comfy.utils
import folder_paths

from ..sensenova_core import DEMO, CheckpointError
from ..sensenova_core.checkpoint import locate
from ..sensenova_core.checkpoint.files import (
    GGUF,
    SAFETENSORS,
    holds_several,
    is_hub_repository,
    is_of_family,
    is_shard,
    snapshot_of,
)
from ..sensenova_core.checkpoint.weights import State, file_state
from ..sensenova_core.errors import quoted
from ..sensenova_core.hub.download import check_name, downloading, split_name
from ..sensenova_core.hub.download_record import Record, is_whole
from ..sensenova_core.hub.repository import CONFIG_JSON, MAX_JSON
from ..sensenova_core.lora import lora_states
from ..sensenova_core.model.config import FAMILY
from . import progress

FOLDER_KEY = "sensenova"
OTHER_FOLDER_KEYS = ("diffusion_models", "checkpoints")  # where others keep theirs, and what ComfyUI itself saves
LORA_KEYS = ("sensenova_loras", "loras")  # ours first
SEARCH_DEPTH = 3
AUTOMATIC, BUILT_IN = "automatic", "built-in demo"  # in the list of checkpoints
NO_LORA = "none there yet"  # in a list that would be empty, where the graph editor shows "undefined"
AS_IT_CAME = "as it came"  # in fingerprints, of what was downloaded
EXAMPLES = Path(__file__).parents[1] / "workflows" / "pictures"
log = logging.getLogger(__name__)


def register_model_folder() -> None:
    """Make models/sensenova and its loras known, beside any folders of these names in extra_model_paths.yaml."""
    folder = os.path.join(folder_paths.models_dir, FOLDER_KEY)
    folder_paths.add_model_folder_path(FOLDER_KEY, folder, is_default=True)
    folder_paths.add_model_folder_path(LORA_KEYS[0], os.path.join(folder, "loras"), is_default=True)


def offer_examples() -> None:
    """Put the pictures that the shipped workflows edit and ask about into ComfyUI's input folder, if missing.

    Without them, these workflows would begin with an error for the missing file.
    """
    for picture in EXAMPLES.glob("*.png"):
        target = Path(folder_paths.get_input_directory()) / picture.name
        try:
            if not target.exists():
                shutil.copy(picture, target)
        except OSError as error:
            log.warning("example picture %s is not offered: %s", target, error)


def models_folder() -> str:
    """Where checkpoints belong."""
    return folder_paths.get_folder_paths(FOLDER_KEY)[0]


def checkpoint_choices() -> list[str]:
    """What a list of checkpoints offers."""
    return [AUTOMATIC, *checkpoints(), BUILT_IN]


def checkpoints() -> dict[str, Path]:
    """Name -> folder or single file of every checkpoint that the user has; folders first.

    Names are relative to a model folder, or OWNER/NAME for a repository in the layout of the hub's cache.
    """
    found: dict[str, Path] = {}
    for key in (FOLDER_KEY, *OTHER_FOLDER_KEYS):
        for root in map(Path, folder_paths.get_folder_paths(key)):
            for name, path in _below(root, any_folder=key == FOLDER_KEY):
                found.setdefault(name, path)
    return dict(sorted(found.items(), key=lambda item: (item[1].is_file(), item[0])))


def checkpoint_meant(choice: str) -> str:
    """The name of a checkpoint: for automatic the first that the user has, or else the demo."""
    return next(iter(checkpoints()), BUILT_IN) if choice == AUTOMATIC else choice


def checkpoint_path(name: str) -> Path:
    """The folder or file of a checkpoint. Raises CheckpointError that says where checkpoints belong."""
    if name == BUILT_IN:
        return DEMO
    found = checkpoints()
    if name not in found:
        raise CheckpointError(
            f"checkpoint {quoted(name)} is not there. Put a checkpoint's folder (config.json, *.safetensors, tokenizer "
            f"files) or a single .safetensors or .gguf file into {models_folder()} and "
            f"press R to refresh the list, or turn download on; found now: {', '.join(found) or 'none'}. "
            f"{BUILT_IN!r} needs no files"
        )
    return found[name]


def chosen(choice: str, repo: str) -> tuple[str, Path]:
    """A choice's name, and its folder or file. What is not there is downloaded from `repo`, if that is not empty.

    repo: OWNER/NAME, or OWNER/NAME/FILE for one file of a repository that holds several checkpoints.
    """
    if repo and not is_there(choice):
        path = downloaded(choice, repo)
        return (path.name if choice == AUTOMATIC else choice), path
    name = checkpoint_meant(choice)
    return name, checkpoint_path(name)


def is_there(name: str) -> bool:
    """Whether a choice needs no download; automatic does where the user has nothing."""
    found = checkpoints()
    return name == BUILT_IN or name in found or (name == AUTOMATIC and bool(found))


def downloaded(choice: str, repo: str) -> Path:
    """The folder or file of a choice that is not there, once its repository has been fetched.

    Raises CheckpointError where the repository is not what was chosen: nothing else is loaded in its place.
    """
    repo, file = split_name(repo)
    name = check_name(repo)
    if choice not in (AUTOMATIC, repo) and choice.split("/")[0] != name:
        raise CheckpointError(
            f"checkpoint {quoted(choice)} is not there, and {repo[:100]}, which download would fetch, is another one; "
            f"set checkpoint to {AUTOMATIC}, or repo to where {quoted(choice)} comes from"
        )
    folder = download(repo, file)
    if file is not None and choice in (AUTOMATIC, repo, name, f"{name}/{file}"):
        return folder / file
    return folder if choice in (AUTOMATIC, repo, name) else checkpoint_path(choice)


def download(repo: str, file: str | None = None) -> Path:
    """Fetch a repository, or this file of it, into models/sensenova, with the node's progress bar. Cancelling the node
    stops it.

    What was fetched whole before is not asked for again. Raises CheckpointError, also where the folder of its name
    holds another repository.
    """
    folder = _folder_of(repo)
    if is_whole(folder, repo, file):
        return folder
    bar = None
    with closing(downloading(repo, folder, file=file)) as steps:
        for done, total in steps:
            progress.stop_if_interrupted()
            bar = bar or comfy.utils.ProgressBar(total)
            bar.update_absolute(done, total)
            doing = "Checking" if done == total else "Downloading"
            progress.show_text(f"{doing} {repo}: {done / 1e9:.1f} of {total / 1e9:.1f} GB")
    return folder


def _folder_of(repo: str) -> Path:
    """Where a repository is downloaded to."""
    return Path(models_folder()) / check_name(repo)


def fingerprint_of(choice: str | None, repo: str | None = "") -> tuple | None:
    """Changes when a choice means another checkpoint, or a file of it is replaced.

    repo: what is downloaded if the choice is not there; "" for nothing. Where one of the two is None, it is linked to
    another node and not known here: it may mean any checkpoint of the list, and changes when one of them does.
    """
    try:
        if choice is None or (repo is None and not is_there(choice)):
            return tuple(map(_states, checkpoints().values()))
        if not repo or is_there(choice):
            return _states(checkpoint_path(checkpoint_meant(choice)))
        repo, file = split_name(repo)
        folder = _folder_of(repo)
    except CheckpointError:
        return None
    if is_whole(folder, repo, file):
        return _states(folder if file is None else folder / file)
    record = Record.of(folder) or Record(repo)
    return str(folder), AS_IT_CAME, record.times  # as it will be, so that fetching it changes nothing


def _states(path: Path) -> tuple | None:
    """Changes with a checkpoint's files. Of what was downloaded, only files that were changed since are looked at."""
    try:
        files = locate(path)
        record = Record.of(files.folder)
        if record is None:
            return str(files.path), *fingerprint(files.all)
        changed = [file for file in files.all if file.parent != files.folder or not record.unchanged(file)]
        path = files.folder if files.is_all_of_its_folder else files.path
        return str(path), AS_IT_CAME, record.times, *fingerprint(changed)
    except (OSError, CheckpointError):
        return None


def fingerprint(files: Iterable[Path]) -> tuple[tuple, ...]:
    """Changes when one of these files is replaced or written over, also by an older one with its old time.

    Of each its path, what tells it from others, and when the system last wrote anything of it, which nobody can set.
    """
    return tuple((str(path), file_state(path), path.stat().st_ctime_ns) for path in sorted(files))


def _below(root: Path, *, any_folder: bool) -> Iterator[tuple[str, Path]]:
    """Checkpoints in a model folder that other models may be in: (name, folder or file).

    any_folder: a folder with a config.json is one whatever it says, so that what is wrong with it is said on loading.
    """
    for here, below, files in os.walk(root, followlinks=True):
        folder = Path(here)
        depth = len(folder.relative_to(root).parts)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in [name for name in below if is_hub_repository(folder / name)]:
            below.remove(name)
            if (snapshot := _snapshot_of_family(folder / name)) is not None:
                yield "/".join(name.split("--")[1:]), snapshot
        whole = depth > 0 and CONFIG_JSON in files and (any_folder or _names_family(folder / CONFIG_JSON))
        whole = whole and not holds_several(folder)  # each of which is offered by itself
        packed = [name for name in files if name.lower().endswith(GGUF)]
        if whole and (not packed or any(name.lower().endswith(SAFETENSORS) for name in files)):
            yield folder.relative_to(root).as_posix(), folder
        singles = packed if whole else [*packed, *(name for name in files if name.lower().endswith(SAFETENSORS))]
        for file in sorted(folder / name for name in singles if not name.startswith(".")):
            if not is_shard(file) and _holds_family(file):
                yield file.relative_to(root).as_posix(), file
        if whole or depth >= SEARCH_DEPTH:
            below.clear()


def _snapshot_of_family(repository: Path) -> Path | None:
    try:
        snapshot = snapshot_of(repository)
    except (OSError, CheckpointError):
        return None
    return snapshot if _names_family(snapshot / CONFIG_JSON) else None


def _names_family(config: Path) -> bool:
    try:
        with open(config, "rb") as stream:
            return FAMILY.encode() in stream.read(MAX_JSON)
    except OSError:
        return False  # somebody else's file that may not be read


def _holds_family(file: Path) -> bool:
    state = file_state(file)
    return state is not None and _looked_at(file, state)


@lru_cache(maxsize=4096)
def _looked_at(file: Path, state: State) -> bool:
    """`is_of_family`, once for a file as long as it is the same."""
    return is_of_family(file)


def lora_choices() -> list[str]:
    """The LoRA files that the user has."""
    names = {name for key in LORA_KEYS for name in folder_paths.get_filename_list(key)}
    return sorted(name for name in names if name.lower().endswith(SAFETENSORS))


def lora_path(name: str) -> Path:
    """The file of a LoRA. Raises CheckpointError that says where they belong."""
    for key in LORA_KEYS:
        if path := folder_paths.get_full_path(key, name):
            return Path(path)
    lacking = "no LoRA is there" if name == NO_LORA else f"LoRA {quoted(name)} is not there"
    raise CheckpointError(
        f"{lacking}. Put a .safetensors file into "
        f"{folder_paths.get_folder_paths(LORA_KEYS[0])[0]} or ComfyUI's models/loras and press R to "
        f"refresh the list; found now: {', '.join(lora_choices()) or 'none'}"
    )


def lora_fingerprint(name: str | None) -> tuple | None:
    """Changes when a name means another file, or the file or its settings are replaced. None: a link, as above."""
    if name is None:
        return tuple(map(lora_fingerprint, lora_choices()))
    try:
        return fingerprint(lora_states(lora_path(name)))
    except (OSError, CheckpointError):
        return None
