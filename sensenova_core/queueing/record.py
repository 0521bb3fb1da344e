"""What a folder knows of its jobs. A client that was killed goes on from it.

jobs.jsonl has a line for each job that is over, written when all of its files are in place; the last one of a job
counts. A hidden file beside it notes what matters between: that a job is drawn though its files are not here yet, and
which attempt is being made.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..system.locks import locked
from .jobs import Job
from .server import Files

RECORD, NOTES, LOCK = "jobs.jsonl", ".sensenova-queue.jsonl", ".sensenova-queue.lock"
PART = ".sensenova-queue.part"  # ends the names of files that are not whole yet
_DOCUMENTS = "[0-9]*_" + "[0-9a-f]" * 8 + "_*"  # the folders in it that hold a document's files; see Job.stem


@dataclass(frozen=True)
class Drawn:
    """A job's results, which lie on a server."""

    prompt_id: str
    server: str
    outputs: Files


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """No other client may use the folder in here. Raises SettingsError where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK) as lock:
        if lock is False:
            problem = f"--output: another `sensenova queue` saves into {folder}"
            raise SettingsError(problem, "wait for it, give it several --server, or give another folder")
        # Looked for where our own files are, and not in all that is below: the folder may be somebody's home.
        for left in chain(folder.glob(f"*{PART}"), folder.glob(f"{_DOCUMENTS}/*{PART}")):
            left.unlink(missing_ok=True)
        yield


class Record:
    """Used by one client, whose threads take turns."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._over: dict[str, dict[str, Any]] = {}  # job -> its last line
        self._attempts: dict[str, int] = {}
        self._drawn: dict[str, Drawn] = {}
        for line in _lines(folder / RECORD):
            if isinstance(line.get("job"), str):
                self._over[line["job"]] = line
        for line in _lines(folder / NOTES):
            self._note(line)
        over = {job: line.get("prompt_id") for job, line in self._over.items()}
        # Of what is over nothing is fetched by an old note: its files' names may be other results' by now.
        self._drawn = {job: drawn for job, drawn in self._drawn.items() if over.get(job) != drawn.prompt_id}

    def _note(self, line: dict[str, Any]) -> None:
        job = str(line.get("job"))
        if isinstance(line.get("attempt"), int):
            self._attempts[job] = line["attempt"]
        if isinstance(line.get("outputs"), dict):
            self._drawn[job] = Drawn(str(line.get("prompt_id")), str(line.get("server")), line["outputs"])

    def is_done(self, job: Job) -> bool:
        """Whether the job has succeeded and all of its files are there still."""
        line = self._over.get(job.id)
        if line is None or line.get("error"):
            return False
        return all((self.folder / str(name)).is_file() for name in line.get("files", ()))

    def failure(self, job: Job) -> str | None:
        """Why the job has failed when it was last tried."""
        return (self._over.get(job.id) or {}).get("error") or None

    def attempt(self, job: Job) -> int:
        return self._attempts.get(job.id, 0)

    def drawn(self, job: Job, attempt: int) -> Drawn | None:
        drawn = self._drawn.get(job.id)
        return drawn if drawn and drawn.prompt_id == job.prompt_id(attempt) else None

    def begin_attempt(self, job: Job, attempt: int) -> None:
        with self._lock:
            self._attempts[job.id] = attempt
            self._drawn.pop(job.id, None)
            _append(self.folder / NOTES, {"job": job.id, "attempt": attempt})

    def note_drawn(self, job: Job, drawn: Drawn) -> None:
        with self._lock:
            self._drawn[job.id] = drawn
            about = {"prompt_id": drawn.prompt_id, "server": drawn.server, "outputs": drawn.outputs}
            _append(self.folder / NOTES, {"job": job.id, **about})

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        """result: prompt_id, server, files, seconds, error."""
        line = {"job": job.id, "line": job.line, "values": job.values, **result}
        with self._lock:
            self._over[job.id] = line
            self._drawn.pop(job.id, None)
            _append(self.folder / RECORD, line)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Without what was broken off, or is somebody's own."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size:  # what was broken off ends here
            stream.seek(-1, os.SEEK_END)
        broken = size > 0 and stream.read(1) != b"\n"
        stream.write(
            (b"\n" if broken else b"") + json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        )
        stream.flush()
        os.fsync(stream.fileno())
