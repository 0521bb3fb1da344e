"""Locks of files, which end with the process that holds them, however it ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(path: Path, seconds: float = 0) -> Iterator[bool | None]:
    """Hold the lock of `path`, a file that is made for it and stays.

    True; False where another has held it for these seconds; None where the file system knows no locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
        held = True
    except Timeout:
        held = False
    except NotImplementedError:
        held = None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        held = None
    try:
        yield held
    finally:
        lock.release()
