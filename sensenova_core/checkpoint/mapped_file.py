"""A file that is mapped to memory, and whether it is still what it was."""

import os
import weakref
from pathlib import Path

import torch

from ..errors import CheckpointError
from .guard import Guarded

State = tuple[int, int, int]  # of a file: its size in bytes, its time of change in ns, and its inode


class MappedFile:
    """A file's bytes, mapped to memory: nothing is read before it is used.

    It is held open, for the file by that name may soon be another one, which what is mapped has nothing to do with.
    """

    def __init__(self, file: Path):
        """Raises CheckpointError."""
        self.file = file
        try:
            self._stream = open(file, "rb")  # noqa: SIM115  # until nobody holds this
            # torch takes names in UTF-8 alone, which not all are
            name = str(file) if str(file).isprintable() else f"/dev/fd/{self._stream.fileno()}"
            self.state = state_of(os.fstat(self._stream.fileno()))
            mapped = torch.from_file(name, shared=False, size=self.state[0], dtype=torch.uint8, device="cpu")
            self.storage = mapped.untyped_storage()
        except (RuntimeError, OSError) as error:
            raise _unmapped(file, error) from error
        self._guarded = Guarded(self.storage.data_ptr(), self.storage.nbytes())
        weakref.finalize(self, self._guarded.close)

    @property
    def changed(self) -> bool:
        """Whether the bytes may be others than when it was mapped."""
        return self._guarded.lost or state_of(os.fstat(self._stream.fileno())) != self.state

    def check(self) -> None:
        """Raise CheckpointError if it was changed."""
        if self.changed:
            raise changed(self.file)


def file_state(file: Path) -> State | None:
    """What tells a file from another in its place, also from an older one with its old time; None for no file."""
    try:
        return state_of(file.stat())
    except OSError:
        return None


def state_of(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ino


def changed(file: Path) -> CheckpointError:
    return CheckpointError(f"{file} was changed or removed after it was loaded; load it again")


def _unmapped(file: Path, error: Exception) -> CheckpointError:
    try:
        size = f" ({file.stat().st_size / 2**30:.0f} GiB)"
    except OSError:
        return changed(file)
    return CheckpointError(
        f"{file}{size} cannot be mapped to memory: {error}; use a version in "
        "shards of a few GB, or allow larger mappings (vm.overcommit_memory = 1 on Linux)"
    )
