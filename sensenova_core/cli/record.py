"""Which lines of a --jsonl file have been drawn: a record of them beside the pictures, and the pictures themselves.

A picture carries the key of its line, so that one is known whose process was killed before it came into the record. A
line is locked while it is drawn: processes that are given the same lines and the same folder share them.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..settings import CritiqueSettings, ReasoningSettings
from ..system.locks import locked
from ..system.paths import path_of
from .jobs import Job
from .models import resolve_model
from .options import options_of

RECORD = ".sensenova-lines.jsonl"
log = logging.getLogger(__name__)


def with_keys(jobs: Sequence[Job], options) -> list[Job]:
    """The jobs of a --jsonl file with keys: of all that their pictures depend on, and of how often it came before."""
    if options.jsonl is None:
        return list(jobs)
    keyed: list[Job] = []
    seen: Counter[str] = Counter()
    sums: dict[str, str] = {}
    for job in jobs:
        content = _content(job, options, sums)
        text = json.dumps(content, sort_keys=True, default=str)
        seen[text] += 1
        key = hashlib.sha256(f"{seen[text]} {text}".encode("utf-8", "surrogatepass")).hexdigest()[:20]
        keyed.append(replace(job, key=key))
    return keyed


def _content(job: Job, options, sums: dict[str, str]) -> dict[str, Any]:
    """sums: of picture files that were read before."""
    thinking = options_of(ReasoningSettings, "seed")
    correcting = ("self_correct", *options_of(CritiqueSettings, "seed"))
    more = {} if options.self_correct is None else {name: getattr(options, name) for name in correcting}
    begun = {"init_image": job.init_image, "mask": job.mask}
    settings = asdict(job.settings)
    if job.init_image is None:  # so that a line that begins from noise has the key that it always had
        del settings["denoise"], settings["feather"]
    return {
        **{name: _sum(image, sums) for name, image in begun.items() if image is not None},
        "prompt": job.prompt,
        "images": [_sum(image, sums) for image in job.paths],
        "settings": settings,
        "max_pixels": options.max_pixels,
        "think": {name: getattr(options, name) for name in thinking} if options.think else None,
        "model": str(resolve_model(options.model).resolve()),
        "loras": options.lora,
        **({"self_correct": more} if more else {}),  # without it, lines have the keys that they had before
    }


def _sum(image: Any, sums: dict[str, str]) -> str:
    """Of the bytes of a picture file, or of the pixels of a picture that came by a pipe."""
    if not isinstance(image, str):
        return hashlib.sha256(image.tobytes()).hexdigest()
    if image not in sums:
        file = path_of(image)
        sums[image] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else image
    return sums[image]


class Record:
    """What a folder holds of lines. What has come since is looked for whenever it is asked."""

    def __init__(self, output: Path, jobs: Sequence[Job]):
        self.folder = output.parent if output.suffix.lower() == ".png" else output
        self._keys = {job.key for job in jobs}
        self._read = 0  # bytes of the record
        self._seen: set[str] = set()  # names of pictures that were looked at
        self._files: dict[tuple[str, int], set[Path]] = {}  # (key, index of the picture) -> where it is or was
        self._last: dict[str, int] = {}  # key -> index of the last picture, of a line that is corrected

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are not all there, said in the log."""
        self._look()
        missing = [job for job in jobs if not self._complete(job, self._whole(job))]
        log.info("%d of %d lines are drawn already", len(jobs) - len(missing), len(jobs))
        return missing

    def claimed(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """One after the other, each locked until the next is asked for; those that others draw come last, if at all."""
        others = []
        for job in jobs:
            with locked(self._lock(job)) as held:
                if held is False:
                    others.append(job)
                elif not self._done(job):
                    yield job
            if held is not False:
                self._lock(job).unlink(missing_ok=True)
        for job in others:
            while not self._done(job):
                with locked(self._lock(job), seconds=1) as held:
                    if held is not False and not self._done(job):
                        yield job

    def there(self, job: Job) -> dict[int, Path]:
        """Pictures of a line: index -> file."""
        self._look()
        return self._whole(job)

    def finished(self, job: Job, paths: Sequence[Path]) -> None:
        """Note a line whose pictures are in place, for good."""
        from ..report.outputs import synced

        synced(self.folder)
        line = {"line": job.key, "prompt": job.prompt[:100], "files": [path.name for path in paths]}
        with open(self.folder / RECORD, "ab+") as stream:
            size = stream.seek(0, os.SEEK_END)
            if size:  # what was broken off ends here
                stream.seek(-1, os.SEEK_END)
            broken = size > 0 and stream.read(1) != b"\n"
            stream.write((b"\n" if broken else b"") + json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _done(self, job: Job) -> bool:
        return self._complete(job, self.there(job))

    def _complete(self, job: Job, there: dict[int, Path]) -> bool:
        """Whether a line is done: all of its batch is there, or of its picture's revisions the last one."""
        return self._last.get(job.key) in there if job.rounds else len(there) == job.settings.batch_size

    def _lock(self, job: Job) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f".sensenova-{job.key}.line.lock"

    def _whole(self, job: Job) -> dict[int, Path]:
        """A name of the record may be another picture's by now, whose own key says so."""
        found = {}
        for index in range(job.pictures):
            for path in self._files.get((job.key, index), ()):
                if path.is_file() and path.stat().st_size:
                    made = _made_for(path)
                    if made is None or (made.line, made.index) == (job.key, index):
                        found[index] = path
        return found

    def _look(self) -> None:
        """Take in what has come into the record and the folder since."""
        with suppress(FileNotFoundError), open(self.folder / RECORD, "rb") as stream:
            stream.seek(self._read)
            new = stream.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read += len(new)
            for line in new.splitlines():
                self._note(line)
        if self.folder.is_dir():
            for entry in os.scandir(self.folder):
                if entry.name.lower().endswith(".png") and entry.name not in self._seen and entry.stat().st_size:
                    self._seen.add(entry.name)
                    if made := _made_for(Path(entry.path)):
                        self._files.setdefault((made.line, made.index), set()).add(Path(entry.path))
                        if made.last:
                            self._last[made.line] = made.index

    def _note(self, line: bytes) -> None:
        try:
            noted = json.loads(line)
            if noted["line"] in self._keys:
                for index, name in enumerate(noted["files"]):
                    self._files.setdefault((noted["line"], index), set()).add(self.folder / Path(name).name)
                    self._last[noted["line"]] = index
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # broken off, or somebody's own


@dataclass(frozen=True)
class _Made:
    """What a picture was made for. line: key of its line. index: in its batch, or of the revision. last: whether it is
    known to be the last revision."""

    line: str
    index: int
    last: bool


def _made_for(path: Path) -> _Made | None:
    """None if the picture does not say."""
    from PIL import Image

    from ..reading.images import METADATA_KEY

    try:
        with Image.open(path) as picture:
            made = json.loads(picture.info[METADATA_KEY])
            return _Made(str(made["line"]), int(made.get("round", made["batch_index"])), "ended" in made)
    except Exception:  # whatever a file of somebody else's does to Pillow
        return None
