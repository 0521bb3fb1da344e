"""A process that ends with the one that started it, however that ends."""

import os
import select
import threading

_SECONDS = 1


def end_with(parent: int) -> None:
    """Have this process end when `parent`, which started it and holds the other end of its standard input, does."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """The pipe's end is told at once; a fork of the parent's may hold it open, hence the id as well."""
    windows = os.name == "nt"  # which selects no pipes, and keeps the id
    while windows or os.getppid() == parent:
        if (windows or select.select([0], [], [], _SECONDS)[0]) and not os.read(0, 1):
            break
    os._exit(1)
