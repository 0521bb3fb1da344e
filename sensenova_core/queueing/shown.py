"""What the user sees of the queue: a bar for all jobs, and one for the job of each server; on no terminal, lines."""

import sys
import threading

from .jobs import Job

_TITLE = 24  # characters


class Shown:
    """Used by several threads. total: of all jobs; done: of those, before this began."""

    def __init__(self, servers: list[str], *, total: int, done: int):
        from tqdm import tqdm

        self._lock = threading.RLock()
        self._places = {server: place for place, server in enumerate(servers, 1)}
        self._bars = {}
        self._jobs: dict[str, Job] = {}
        self.failed: list[tuple[int, str]] = []  # (line, error)
        self._drawn = total > 0 and sys.stderr.isatty()
        self._tqdm = tqdm
        self._all = self._bar("jobs", place=0, total=total, initial=done)

    def _bar(self, title: str, *, place: int, total: int, initial: int = 0):
        return self._tqdm(
            desc=title,
            total=total,
            initial=initial,
            position=place,
            leave=place == 0,
            disable=not self._drawn,
            dynamic_ncols=True,
            unit="job" if place == 0 else "step",
        )

    def begin(self, server: str, job: Job) -> None:
        with self._lock:
            self.end(server)
            self._jobs[server] = job
            self._bars[server] = self._bar(f"line {job.line}", place=self._places[server], total=1)

    def step(self, server: str, title: str, *, value: float, most: float) -> None:
        """A node works: at `value` of `most` steps, 0 for one that has none."""
        with self._lock:
            bar, job = self._bars.get(server), self._jobs.get(server)
            if bar is None or job is None or not self._drawn:
                return
            name = f"line {job.line}, {title[:_TITLE]}"
            total = max(1, int(most))
            if bar.desc != name or bar.total != total:
                bar.set_description_str(name, refresh=False)
                bar.reset(total=total)
            bar.n = int(value)
            bar.refresh()

    def over(self, server: str, job: Job, *, files: list[str], error: str | None, seconds: float) -> None:
        with self._lock:
            self.end(server)
            if error:
                self.failed.append((job.line, error))
            self.say(f"line {job.line}: {error or ', '.join(files) or 'no files'} ({seconds:.1f} s)")
            self._all.update()

    def say(self, text: str) -> None:
        """A line on standard output, above the bars."""
        with self._lock:
            self._tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def end(self, server: str) -> None:
        """The server has no job any more."""
        with self._lock:
            self._jobs.pop(server, None)
            if (bar := self._bars.pop(server, None)) is not None:
                bar.close()

    def close(self) -> None:
        with self._lock:
            for server in list(self._bars):
                self.end(server)
            self._all.close()
