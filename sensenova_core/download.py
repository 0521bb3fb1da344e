"""Fetching a model from the hub: only when somebody asks for it, and only the files that are loaded.

huggingface_hub does the work: progress, resuming, and the size of what came; checksums are compared here. Its settings
(HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE) hold here too. A folder that was downloaded to keeps a record of where
its files came from.
"""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import CheckpointError
from .record import Record, check_origin, state_of
from .repository import CONFIG_JSON, INDEX, TOKENIZER_FILES

DEFAULT_MODEL = "SenseNova/SenseNova-U1-8B-MoT"
_PIECE = 2**20  # bytes hashed at a time
_POLL_SECONDS = 0.2
_SPARE = 2**28  # bytes of the disk that stay free
_ERROR = "sensenova: error: "  # begins the command line's last words
_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from sensenova_core.cli import main; sys.exit(main(sys.argv[1:]))"
)


@dataclass(frozen=True)
class Wanted:
    """A file of a repository: its size in bytes, and its checksum, of the kind that the hub keeps for it."""

    size: int
    sha256: str | None = None
    git: str | None = None  # a git blob's SHA-1, of small files

    def is_in(self, file: Path) -> bool:
        """Whether a file has this checksum; one that the hub has none for passes."""
        if not self.sha256 and not self.git:
            return True
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % file.stat().st_size)
        with open(file, "rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        return digest.hexdigest() == (self.sha256 or self.git)


def download(
    repo: str,
    to: Path | None = None,
    revision: str | None = None,
    tokenizer_only: bool = False,
    file: str | None = None,
) -> Path:
    """Fetch a model's files into the folder `to`, or else into the hub's cache; returns the folder they are in.

    tokenizer_only: a few MB instead of all. file: the one to fetch where a repository has several checkpoints.
    What is there already is not fetched again, and what was broken off goes on. Every file is compared with the hub's
    checksum of it, and removed if it differs. Raises CheckpointError, also for a folder that holds another repository.
    """
    recorded = to is not None and not tokenizer_only
    if recorded:
        check_origin(to, repo)
    wanted = files_of(repo, revision, tokenizer_only, file)
    if to is not None:
        _check_room(repo, wanted, to)
    before = (Record.of(to) if recorded else None) or Record(repo)
    record, folder = replace(before, files=dict(before.files), whole=False), to
    if recorded:
        to.mkdir(parents=True, exist_ok=True)
        record.write(to)
    # config.json comes last: a folder without it is no checkpoint yet, in any list
    for names in ([name for name in wanted if name != CONFIG_JSON], [name for name in wanted if name == CONFIG_JSON]):
        if names:
            folder = _fetch(repo, names, to, revision)
            _check_sums(repo, folder, {name: wanted[name] for name in names}, record)
            record.files.update({name: [*state_of(folder / name), _sum(wanted[name])] for name in names})
            if recorded:
                record.write(to)
    if recorded:
        anew = any(record.files[name] != came for name, came in before.files.items())
        replace(record, whole=True, times=before.times + anew).write(to)
    return folder


def _fetch(repo: str, names: list[str], to: Path | None, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with _hub_errors(repo, revision):
        patterns = [glob.escape(name) for name in names]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_dir=to))


def _check_sums(repo: str, folder: Path, wanted: dict[str, Wanted], record: Record) -> None:
    """Remove what is not as the hub has it, and raise CheckpointError for it. What was found right before stays so."""
    wrong = []
    for name, each in wanted.items():
        file = folder / name
        known = record.unchanged(file) and record.files[name][2] == _sum(each)
        if not known and not each.is_in(file):
            wrong.append(name)
            file.resolve().unlink()  # in the cache, what a link leads to
            file.unlink(missing_ok=True)
    if wrong:
        raise CheckpointError(
            f"{repo}: {', '.join(wrong)} came with another checksum than the hub has, and was removed; run it again"
        )


def _sum(wanted: Wanted) -> str | None:
    return wanted.sha256 or wanted.git


def downloading(repo: str, to: Path, revision: str | None = None) -> Iterator[tuple[int, int]]:
    """`download` in a process of its own. Yields (bytes that are there, bytes in all) a few times a second.

    Stopping the loop stops the download at once; the next one goes on from there. Raises CheckpointError.
    """
    check_origin(to, repo)
    wanted = files_of(repo, revision)
    total = sum(each.size for each in wanted.values())
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
                yield _bytes_there(to, wanted), total
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
    yield total, total


def check_name(repo: str) -> str:
    """The NAME of OWNER/NAME. Raises CheckpointError for anything else, which must not become a path."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII):
        raise CheckpointError(f"{repo!r} names no repository; give it as OWNER/NAME")
    return repo.split("/")[1]


def files_of(
    repo: str, revision: str | None = None, tokenizer_only: bool = False, file: str | None = None
) -> dict[str, Wanted]:
    """Name -> the files of a repository that `download` fetches. Asks the hub. Raises CheckpointError."""
    from huggingface_hub import HfApi

    check_name(repo)
    with _hub_errors(repo, revision):
        siblings = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=20).siblings or []
    there = {each.rfilename: _wanted(each) for each in siblings if "/" not in each.rfilename}
    tokenizer = [name for name in TOKENIZER_FILES if name in there]
    if tokenizer_only:
        if not tokenizer:
            raise CheckpointError(f"{repo}: no tokenizer in it; name a repository of a published model")
        return {name: there[name] for name in tokenizer}
    weights = _weights(repo, list(there)) if file is None else [file]
    if file is not None and file not in there:
        raise CheckpointError(f"{repo}: no file {file} in it; there are {', '.join(there)}")
    others = [name for name in there if name.endswith(".json") and name not in tokenizer]
    if file is not None:  # an index names files that are not fetched
        others = [name for name in others if not name.endswith(INDEX)]
    return {name: there[name] for name in (*tokenizer, *weights, *others)}


def _wanted(sibling) -> Wanted:
    """Of an entry in the hub's list. Large files' git checksums are of notes that stand in for them."""
    lfs = sibling.lfs
    return Wanted(sibling.size or 0, lfs and lfs.sha256, None if lfs else sibling.blob_id)


def _weights(repo: str, names: list[str]) -> list[str]:
    whole = [name for name in names if name.endswith(".safetensors")]
    packed = [name for name in names if name.endswith(".gguf")]
    if whole or len(packed) == 1:
        return whole or packed
    if packed:
        raise CheckpointError(
            f"{repo}: {len(packed)} checkpoints in it, {', '.join(packed)}; fetch one of them on the command line: "
            f"sensenova download {repo} --file {packed[0]}"
        )
    raise CheckpointError(f"{repo}: no .safetensors or .gguf file in it; name a repository that has one")


def _bytes_there(folder: Path, wanted: dict[str, Wanted]) -> int:
    """Of files that have come, and of parts in the hub's own folder beside them."""
    whole = [folder / name for name in wanted]
    parts = (folder / ".cache" / "huggingface").rglob("*.incomplete")
    states = map(state_of, (*whole, *parts))  # of which some are not yet there, or no longer
    found = sum(state[0] for state in states if state)
    return min(found, sum(each.size for each in wanted.values()))


def _check_room(repo: str, wanted: dict[str, Wanted], to: Path) -> None:
    existing = next(path for path in (to.absolute(), *to.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise CheckpointError(f"{to}: {existing} cannot be written to; give another folder with --to")
    missing = sum(each.size for each in wanted.values()) - _bytes_there(to, wanted)
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
        said = (str(error).strip().splitlines() or [kind.__name__])[0][:200]
        raise CheckpointError(
            f"{repo}: {constants.ENDPOINT} did not answer as it should ({said}); "
            "check the connection and run it again: what has come already is kept"
        ) from error
