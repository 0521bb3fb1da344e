"""What a process takes of system memory, watched while it works."""

import threading
from pathlib import Path

import psutil

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
EVERY = 0.01  # seconds
_ROWS = {"VmHWM": "peak", "VmRSS": "rss", "RssAnon": "anon", "RssFile": "file"}


def memory() -> dict[str, int]:
    """Bytes. rss: resident. Where Linux tells: anon, of it the process's own; file, pages of files, which the system
    takes back when it wants them; peak, the most that was ever resident."""
    if not STATUS.is_file():
        return {"rss": psutil.Process().memory_info().rss}
    rows = (line.split(":") for line in STATUS.read_text(encoding="utf-8").splitlines())
    return {_ROWS[name]: int(value.split()[0]) * 1024 for name, value in rows if name in _ROWS}


class Watch:
    """The most of each kind of memory while it is on. `with Watch() as watch: ...; watch.most["anon"]`."""

    def __enter__(self) -> "Watch":
        if CLEAR.is_file():
            CLEAR.write_text("5", encoding="utf-8")  # the system's own peak begins anew
        self.most = memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            self._note()

    def _note(self) -> None:
        now = memory()
        self.most = {kind: max(size, now[kind]) for kind, size in self.most.items()}
