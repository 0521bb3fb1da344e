"""What a folder that was downloaded to knows of it: which repository its files are of, and how they came."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import CheckpointError
from .repository import read_json

RECORD = ".sensenova-download.json"


@dataclass(frozen=True)
class Record:
    """Where a folder's files came from. files: name -> size, time of change and checksum of each that was checked.

    whole: whether all of them are there. times: how often they came anew.
    """

    repo: str
    files: dict[str, list] = field(default_factory=dict)
    whole: bool = False
    times: int = 1

    @classmethod
    def of(cls, folder: Path) -> "Record | None":
        """None for a folder that was filled in another way."""
        try:
            record = cls(**read_json(folder / RECORD))
            known = isinstance(record.repo, str) and type(record.times) is int
            return record if known and all(len(each) == 3 for each in record.files.values()) else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        """Whole or not at all: half a record would be none."""
        unfinished = folder / f"{RECORD}.part"
        unfinished.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        unfinished.replace(folder / RECORD)

    def is_of(self, repo: str) -> bool:
        return self.repo.lower() == repo.lower()

    def unchanged(self, file: Path) -> bool:
        """Whether a file of the folder is as it came."""
        return self.files.get(file.name, [])[:2] == state_of(file)


def is_whole(folder: Path, repo: str, file: str | None = None) -> bool:
    """Whether a folder holds all of a repository that was downloaded to it, or this file of several. Asks nobody."""
    record = Record.of(folder)
    if record is None or not record.whole or not record.is_of(repo):
        return False
    if file is not None and file not in record.files:
        return False
    others = () if file is None else (".safetensors", ".gguf")  # that may be gone by now
    return all((folder / name).is_file() for name in record.files if name == file or not name.endswith(others))


def check_origin(folder: Path, repo: str) -> None:
    """Raise CheckpointError for a folder that another repository was downloaded to: names alone can be equal."""
    record = Record.of(folder)
    if record is not None and not record.is_of(repo):
        raise CheckpointError(
            f"{folder} holds {record.repo}, and not {repo}; rename that folder, or download to another one: "
            f"sensenova download {repo} --to FOLDER"
        )


def state_of(file: Path) -> list[int]:
    """Size and time of change; nothing for a file that is not there."""
    try:
        status = file.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
