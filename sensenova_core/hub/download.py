"""Fetching a model from the hub: only when somebody asks for it, and only the files that are loaded.

huggingface_hub does the work, and its settings (HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE) hold here too; going on
within a file, and comparing checksums, is done here. A folder that was downloaded to keeps a record of where its files
came from.
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
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CheckpointError, quoted
from ..system.locks import locked
from .download_record import Record, check_origin, state_of
from .repository import CONFIG_JSON, INDEX, SHARD, TOKENIZER_FILES

_PIECE = 2**20  # bytes hashed at a time
_POLL_SECONDS = 0.2
_SPARE = 2**28  # bytes of the disk that stay free
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(?<!\.)")  # of files
_HIDDEN = re.compile(r"\.[A-Za-z0-9_][A-Za-z0-9._-]*")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)  # to Windows, whatever follows
_ERROR = "sensenova: error: "  # begins the command line's last words
_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from sensenova_core.hub.parent import end_with; "
    "end_with(int(sys.argv.pop(1))); from sensenova_core.cli import main; sys.exit(main(sys.argv[1:]))"
)
_LOCK = ".cache/sensenova-download.lock"  # the hub's library has a folder of that name there too


@dataclass(frozen=True)
class Wanted:
    """A file of a repository: its size in bytes, and its checksum, of the kind that the hub keeps for it."""

    size: int
    sha256: str | None = None
    git: str | None = None  # a git blob's SHA-1, of small files

    @property
    def checksum(self) -> str | None:
        return self.sha256 or self.git

    def is_in(self, file: Path) -> bool:
        """Whether a file has this size and checksum; where the hub has none, the size is enough."""
        if not file.is_file() or file.stat().st_size != self.size:
            return False
        if not self.checksum:
            return True
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % file.stat().st_size)
        with open(file, "rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
        return digest.hexdigest() == self.checksum


def download(
    repo: str,
    to: Path | None = None,
    revision: str | None = None,
    *,
    tokenizer_only: bool = False,
    file: str | None = None,
) -> Path:
    """Fetch a model's files into the folder `to`, or else into the hub's cache; returns the folder they are in.

    tokenizer_only: a few MB instead of all. file: the one to fetch where a repository has several checkpoints.
    What is there already is not fetched again, and what was broken off goes on. Every file is compared with the hub's
    checksum of it, and removed if it differs. Raises CheckpointError, also for a folder that holds another repository,
    or that another process is downloading to.
    """
    if to is not None and not tokenizer_only:
        check_origin(to, repo)
    wanted = files_of(repo, revision, tokenizer_only=tokenizer_only, file=file)
    # config.json comes last: a folder without it is no checkpoint yet, in any list
    wanted = dict(sorted(wanted.items(), key=lambda item: item[0] == CONFIG_JSON))
    if to is None:
        return _into_cache(repo, wanted, revision)
    _check_room(repo, wanted, to)
    with _alone(to):
        if not tokenizer_only:
            check_origin(to, repo)
        _into_folder(repo, wanted, to, revision=revision, recorded=not tokenizer_only)
    return to


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises CheckpointError where another process is downloading to a folder, which is made if need be."""
    lock = folder / _LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock) as held:
        if held is False:
            raise CheckpointError(
                f"{folder}: another process is downloading to it; wait for it, or end it: what has come is kept"
            )
        yield


def _into_folder(repo: str, wanted: dict[str, Wanted], to: Path, *, revision: str | None, recorded: bool) -> None:
    before = (Record.of(to) if recorded else None) or Record(repo)
    record = replace(before, files=dict(before.files), whole=False)
    for name, each in wanted.items():
        if recorded:
            record.write(to)
        file = to / name
        known = file.is_file() and record.unchanged(file) and record.files[name][2] == each.checksum
        if not known and not each.is_in(file):
            _fetch(repo, file, each, revision=revision)
        record.files[name] = [*state_of(file), each.checksum]
    if recorded:
        anew = any(record.files[name] != came for name, came in before.files.items())
        replace(record, whole=True, times=before.times + 1 if anew else before.times).write(to)
    for name, each in wanted.items():  # what had come of other versions goes on no more
        for part in to.glob(f".{glob.escape(name)}.*.part"):
            if part != _part(to / name, each) and re.fullmatch(r"[0-9a-f]{1,12}", part.name[len(name) + 2 : -5]):
                part.unlink()


def _fetch(repo: str, file: Path, wanted: Wanted, *, revision: str | None) -> None:
    """One file, going on from what an earlier attempt left, which the hub's library from version 2 on does not."""
    from huggingface_hub import constants, hf_hub_url, snapshot_download
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    part = _part(file, wanted)
    with _hub_errors(repo, revision):
        if wanted.size > getattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", wanted.size):  # a rule of the hub's
            snapshot_download(repo, revision=revision, allow_patterns=[glob.escape(file.name)], local_dir=file.parent)
            file.replace(part)
        part.touch()
        with open(part, "r+b") as stream:
            there = stream.seek(0, os.SEEK_END)
            headers = build_hf_headers() | {"accept-encoding": "identity"}
            url = hf_hub_url(repo, file.name, revision=revision)
            if there < wanted.size:
                http_get(url, stream, resume_size=there, headers=headers, expected_size=wanted.size)
    if not wanted.is_in(part):
        part.unlink()
        raise _other_checksum(repo, file.name)
    part.replace(file)


def _part(file: Path, wanted: Wanted) -> Path:
    """Where what has come of a file is kept: apart for each content, so that another version does not go on from it."""
    return file.with_name(f".{file.name}.{(wanted.checksum or str(wanted.size))[:12]}.part")


def _into_cache(repo: str, wanted: dict[str, Wanted], revision: str | None) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    with _alone(Path(HF_HUB_CACHE) / ".locks" / f"models--{repo.replace('/', '--')}"):
        return _into_snapshot(repo, wanted, revision)


def _into_snapshot(repo: str, wanted: dict[str, Wanted], revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    folder = Path()
    for names in ([name for name in wanted if name != CONFIG_JSON], [name for name in wanted if name == CONFIG_JSON]):
        if names:
            with _hub_errors(repo, revision):
                patterns = [glob.escape(name) for name in names]
                folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
        for name in names:
            if not wanted[name].is_in(folder / name):
                (folder / name).resolve().unlink()  # what the link leads to
                (folder / name).unlink(missing_ok=True)
                raise _other_checksum(repo, name)
    return folder


def _other_checksum(repo: str, name: str) -> CheckpointError:
    return CheckpointError(f"{repo}: {name} came with another checksum than the hub has, and was removed; run it again")


def downloading(
    repo: str, to: Path, revision: str | None = None, *, file: str | None = None
) -> Generator[tuple[int, int], None, None]:
    """`download` in a process of its own. Yields (bytes that are there, bytes in all) a few times a second.

    Stopping the loop stops the download at once; the next one goes on from there. Raises CheckpointError.
    """
    check_origin(to, repo)
    wanted = files_of(repo, revision, file=file)
    total = sum(each.size for each in wanted.values())
    command = [sys.executable, "-c", _RUN, str(Path(__file__).parents[2]), str(os.getpid())]
    command += ["download", repo, "--to", str(to)]
    command += ["--revision", revision] if revision else []
    command += ["--file", file] if file else []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        with subprocess.Popen(
            command,
            env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.PIPE,  # by which it sees that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=said,
        ) as process:
            try:
                while process.poll() is None:
                    yield _bytes_there(to, wanted), total
                    time.sleep(_POLL_SECONDS)
            finally:
                process.kill()  # unless it has ended
        if process.returncode:
            said.seek(0)
            lines = [line.strip() for line in said if line.strip()] or ["it ended without a word"]
            reason = next((line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)), lines[-1])
            raise CheckpointError(reason)
    yield total, total


def check_name(repo: str) -> str:
    """The NAME of OWNER/NAME. Raises CheckpointError for anything else, which must not become a path."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII):
        raise CheckpointError(f"{quoted(repo)} names no repository; give it as OWNER/NAME")
    return repo.split("/")[1]


def split_name(named: str) -> tuple[str, str | None]:
    """OWNER/NAME, or OWNER/NAME/FILE for one of its files -> (repository, file)."""
    repo, slash, file = named.strip().rpartition("/")
    return (repo, file) if slash and file and "/" in repo else (named.strip(), None)


def files_of(
    repo: str, revision: str | None = None, *, tokenizer_only: bool = False, file: str | None = None
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
    weights = _weights(repo, there) if file is None else [file]
    if file is not None and file not in there:
        raise CheckpointError(f"{repo}: no file {file} in it; there are {', '.join(there)}")
    # hidden ones are nobody's to load, and our record of the folder is one
    others = [
        name for name in there if name.endswith(".json") and name not in tokenizer and not _HIDDEN.fullmatch(name)
    ]
    if file is not None:  # an index names files that are not fetched
        others = [name for name in others if not name.endswith(INDEX)]
    _check_plain(repo, (*weights, *others))
    return {name: there[name] for name in (*tokenizer, *weights, *others)}


def _check_plain(repo: str, names: Iterable[str]) -> None:
    """Names become paths here, and what is a path differs between systems: backslashes, colons, names of devices."""
    odd = [name for name in names if not _PLAIN.fullmatch(name) or _DEVICE.match(name)]
    if odd:
        raise CheckpointError(
            f"{repo}: {len(odd)} of its files have names that are no plain ones, {odd[0][:100]!a} the first "
            "of them; nothing was fetched. Names of letters, digits, ., _ and - are taken: fetch it by hand, "
            "or from another repository"
        )


def _wanted(sibling) -> Wanted:
    """Of an entry in the hub's list. Large files' git checksums are of notes that stand in for them."""
    lfs = sibling.lfs
    return Wanted(sibling.size or 0, sha256=lfs and lfs.sha256, git=None if lfs else sibling.blob_id)


def _weights(repo: str, there: dict[str, Wanted]) -> list[str]:
    """Files of the one checkpoint that a repository holds: of several, the user has to choose."""
    whole = [name for name in there if name.endswith(".safetensors")]
    packed = [name for name in there if name.endswith(".gguf")]
    parts = {found[1] if (found := SHARD.match(Path(name).stem)) else name for name in whole}
    if whole and (len(parts) == 1 or any(name.endswith(INDEX) for name in there)):
        return whole
    if len(packed) == 1 and not whole:
        return packed
    if choice := whole or packed:
        _check_plain(repo, choice)
        listed = ", ".join(f"{name} ({there[name].size / 1e9:.1f} GB)" for name in choice)
        raise CheckpointError(
            f"{repo}: {len(choice)} files to choose from, {listed}; fetch one of them: "
            f"sensenova download {repo} --file {choice[0]}, or with {repo}/{choice[0]} as the Loader's repo"
        )
    raise CheckpointError(f"{repo}: no .safetensors or .gguf file in it; name a repository that has one")


def _bytes_there(folder: Path, wanted: dict[str, Wanted]) -> int:
    """Of files that have come, and of parts of others."""
    states = [state_of(folder / name) or state_of(_part(folder / name, each)) for name, each in wanted.items()]
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
        raise CheckpointError(f"{repo}: no revision {quoted(revision)}; leave --revision out for the newest") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"{repo}: no such repository on {constants.ENDPOINT}, or a private one (then log in with `hf auth login`); "
            "give its name as OWNER/NAME"
        ) from error
    except (KeyboardInterrupt, CheckpointError):
        raise
    except Exception as error:
        kind = type(error)
        network = (
            isinstance(error, errors.HfHubHTTPError | errors.LocalEntryNotFoundError | ConnectionError)
            or kind.__module__.split(".")[0] in ("requests", "httpx", "httpx2", "httpcore", "urllib3")
            or kind.__name__ == "OfflineModeIsEnabled"
        )
        if not network:
            raise
        said = (str(error).strip().splitlines() or [kind.__name__])[0][:200]
        raise CheckpointError(
            f"{repo}: {constants.ENDPOINT} did not answer as it should ({said}); "
            "check the connection and run it again: what has come already is kept"
        ) from error
