"""Fetching a model from the hub: only when somebody asks for it, and only the files that are loaded.

huggingface_hub does the work: progress, resuming, and checking what came. Its settings (HF_ENDPOINT, HF_TOKEN, HF_HOME,
HF_HUB_OFFLINE) hold here too.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CheckpointError

CONFIG = "config.json"  # comes last: a folder without it is no checkpoint yet, in any list
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
_POLL_SECONDS = 0.2
_SPARE = 2**28  # bytes of the disk that stay free
_ERROR = "sensenova: error: "  # begins the command line's last words
_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from sensenova_core.cli import main; sys.exit(main(sys.argv[1:]))"
)


def download(
    repo: str,
    to: Path | None = None,
    revision: str | None = None,
    tokenizer_only: bool = False,
    file: str | None = None,
) -> Path:
    """Fetch a model's files into the folder `to`, or else into the hub's cache; returns the folder they are in.

    tokenizer_only: a few MB instead of all. file: the one to fetch where a repository has several checkpoints.
    What is there already is not fetched again, and what was broken off goes on. Raises CheckpointError.
    """
    from huggingface_hub import snapshot_download

    sizes = files_of(repo, revision, tokenizer_only, file)
    if to is not None:
        _check_room(repo, sizes, to)
    folder = to
    with _hub_errors(repo, revision):
        for names in ([name for name in sizes if name != CONFIG], [name for name in sizes if name == CONFIG]):
            if names:
                patterns = [glob.escape(name) for name in names]
                folder = snapshot_download(repo, revision=revision, allow_patterns=patterns, local_dir=to)
    return Path(folder)


def downloading(repo: str, to: Path, revision: str | None = None) -> Iterator[tuple[int, int]]:
    """`download` in a process of its own. Yields (bytes that are there, bytes in all) a few times a second.

    Stopping the loop stops the download at once; the next one goes on from there. Raises CheckpointError.
    """
    sizes = files_of(repo, revision)
    command = [sys.executable, "-c", _RUN, str(Path(__file__).parents[1]), "download", repo, "--to", str(to)]
    command += ["--revision", revision] if revision else []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command,
            env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            while process.poll() is None:
                yield _bytes_there(to, sizes), sum(sizes.values())
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            lines = [line.strip() for line in said if line.strip()] or ["it ended without a word"]
            reason = next((line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)), lines[-1])
            raise CheckpointError(reason)
    yield sum(sizes.values()), sum(sizes.values())


def check_name(repo: str) -> str:
    """The NAME of OWNER/NAME. Raises CheckpointError for anything else, which must not become a path."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII):
        raise CheckpointError(f"{repo!r} names no repository; give it as OWNER/NAME")
    return repo.split("/")[1]


def files_of(
    repo: str, revision: str | None = None, tokenizer_only: bool = False, file: str | None = None
) -> dict[str, int]:
    """Name -> bytes of the files of a repository that `download` fetches. Asks the hub. Raises CheckpointError."""
    from huggingface_hub import HfApi

    check_name(repo)
    with _hub_errors(repo, revision):
        siblings = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=20).siblings or []
    sizes = {each.rfilename: each.size or 0 for each in siblings if "/" not in each.rfilename}
    tokenizer = [name for name in TOKENIZER if name in sizes]
    if tokenizer_only:
        if not tokenizer:
            raise CheckpointError(f"{repo}: no tokenizer in it; name a repository of a published model")
        return {name: sizes[name] for name in tokenizer}
    weights = _weights(repo, sizes) if file is None else [file]
    if file is not None and file not in sizes:
        raise CheckpointError(f"{repo}: no file {file} in it; there are {', '.join(sizes)}")
    others = [name for name in sizes if name.endswith(".json") and name not in tokenizer]
    return {name: sizes[name] for name in (*tokenizer, *weights, *others)}


def _weights(repo: str, sizes: dict[str, int]) -> list[str]:
    whole = [name for name in sizes if name.endswith(".safetensors")]
    packed = [name for name in sizes if name.endswith(".gguf")]
    if whole or len(packed) == 1:
        return whole or packed
    if packed:
        raise CheckpointError(f"{repo}: {len(packed)} checkpoints in it; choose one with --file: {', '.join(packed)}")
    raise CheckpointError(f"{repo}: no .safetensors or .gguf file in it; name a repository that has one")


def _bytes_there(folder: Path, sizes: dict[str, int]) -> int:
    """Of files that have come, and of parts in the hub's own folder beside them."""
    whole = [folder / name for name in sizes]
    parts = (folder / ".cache" / "huggingface").rglob("*.incomplete")
    found = 0
    for path in (*whole, *parts):
        try:
            found += path.stat().st_size
        except OSError:
            continue  # not yet, or no longer
    return min(found, sum(sizes.values()))


def _check_room(repo: str, sizes: dict[str, int], to: Path) -> None:
    existing = next(path for path in (to.absolute(), *to.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise CheckpointError(f"{to}: {existing} cannot be written to; give another folder with --to")
    missing = sum(sizes.values()) - _bytes_there(to, sizes)
    free = shutil.disk_usage(existing).free
    if missing > max(0, free - _SPARE):
        raise CheckpointError(
            f"{repo} needs {missing / 1e9:.1f} GB more, and {existing} has {free / 1e9:.1f} GB free; make room, or "
            "give another folder with --to"
        )


@contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """The hub's errors and those of the network libraries below it, of which there are two kinds, in a user's words."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo}: its owner asks you to accept conditions first: do so on {constants.ENDPOINT}/{repo}, then log in "
            "with `hf auth login`, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo}: no revision {revision!r}; leave --revision out for the newest") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"{repo}: no such repository on {constants.ENDPOINT}, or a private one (then log in with `hf auth login`); "
            "give its name as OWNER/NAME"
        ) from error
    except (KeyboardInterrupt, CheckpointError):
        raise
    except Exception as error:
        kind = type(error)
        network = isinstance(error, errors.HfHubHTTPError | errors.LocalEntryNotFoundError | ConnectionError)
        if not network and kind.__module__.split(".")[0] not in ("requests", "httpx", "httpx2", "httpcore", "urllib3"):
            network = kind.__name__ == "OfflineModeIsEnabled"
            if not network:
                raise
        raise CheckpointError(
            f"{repo}: {constants.ENDPOINT} did not answer as it should ({str(error).strip().splitlines()[0][:200]}); "
            "check the connection and run it again: what has come already is kept"
        ) from error
