"""Units on their way from the files to the device: read through two buffers, or kept page-locked for the next pass."""

import logging
import mmap
import weakref

import torch
from torch import Tensor

from ..checkpoint import StoredWeights
from ..checkpoint.weights import finish
from .plan import STAGING, Sizes
from .transfers import Mark, Transfers
from .units import Key, Unit, Units

log = logging.getLogger(__name__)


class PageLockedBuffer:
    """System memory for one unit. copied: the mark of the last copy out of it.

    It has its pages to itself: what is locked and given back is pages, and one that two buffers shared would be refused
    to the second, or taken from it.
    """

    def __init__(self, size: int, transfers: Transfers, *, pin: bool):
        pages = _pages(size)
        self.bytes = pages[:size]
        self.pinned = pin and transfers.pin(pages)
        self.copied: Mark = None
        self._transfers = transfers
        # Memory must not be freed while it is page-locked, also when its owner is simply dropped.
        self._unpin = weakref.finalize(self, transfers.unpin, pages) if self.pinned else None

    def release(self) -> None:
        self._transfers.finish(self.copied)
        if self._unpin is not None:
            self._unpin()


def _pages(size: int) -> Tensor:
    """Whole pages of system memory for so many bytes, which nothing else lies in: uint8."""
    length = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    room = torch.empty(length + mmap.PAGESIZE, dtype=torch.uint8, device="cpu")
    first = -room.data_ptr() % mmap.PAGESIZE
    return room[first : first + length]


class PageLockedStore:
    """The side of streaming in system memory. Used by one thread at a time.

    Whatever is read from a file on its way to a card passes a page-locked buffer, of which there are two; a unit that
    every pass wants stays in one of its own. Nothing is page-locked that does not stream.
    """

    def __init__(self, stored: StoredWeights, units: Units, sizes: Sizes, *, transfers: Transfers, direct: bool):
        """direct: without a card between, files are read to where they are used, unless they are kept."""
        self.stored, self.units, self.sizes = stored, units, sizes
        self.transfers, self.direct = transfers, direct
        self.kept: dict[Key, PageLockedBuffer] = {}
        self._wanted: frozenset[Key] = frozenset()
        self._spare: list[PageLockedBuffer] = []
        self._staging: list[PageLockedBuffer] = []
        self._pins = True  # until it fails

    @property
    def nbytes(self) -> int:
        return sum(buffer.bytes.nbytes for buffer in (*self.kept.values(), *self._spare, *self._staging))

    def keep(self, wanted: frozenset[Key]) -> None:
        """Keep these units' bytes once they have been read, and no others; their buffers are used again."""
        self._wanted = wanted
        self._spare += [self.kept.pop(key) for key in list(self.kept) if key not in wanted]
        while len(self.kept) + len(self._spare) > len(wanted):
            self._spare.pop().release()

    def send(self, key: Key, target: Tensor, after: Mark) -> Mark:
        """Begin to copy a unit to a buffer on the device; returns the mark of its end."""
        unit = self.units[key[0]][key[1]]
        if self.direct and key not in self._wanted:
            self.transfers.finish(after)
            self._read(unit, target)
            return None
        buffer = self.kept.get(key)
        if buffer is None:
            buffer = self._take(key)
            self.transfers.finish(buffer.copied)
            try:
                self._read(unit, buffer.bytes)
            except BaseException:
                if key in self._wanted:
                    self._spare.append(buffer)
                raise
            if key in self._wanted:
                self.kept[key] = buffer
        buffer.copied = self.transfers.copy(buffer.bytes[: unit.nbytes], target[: unit.nbytes], after)
        return buffer.copied

    def release(self) -> None:
        for buffer in (*self.kept.values(), *self._spare, *self._staging):
            buffer.release()
        self.kept, self._spare, self._staging, self._wanted = {}, [], [], frozenset()

    def _take(self, key: Key) -> PageLockedBuffer:
        """A buffer to read a unit to: one to keep, or the staging buffer that was used longest ago."""
        if key in self._wanted:
            return self._to_keep(self.sizes.slot_of(key[0]))
        if len(self._staging) < STAGING:
            self._staging.append(self._new(self.sizes.staging // STAGING))
            return self._staging[-1]
        self._staging.append(self._staging.pop(0))
        return self._staging[-1]

    def _to_keep(self, size: int) -> PageLockedBuffer:
        """A spare buffer, or a new one in the place of one that has another size."""
        if not self._spare:
            return self._new(size)
        buffer = self._spare.pop()
        if buffer.bytes.nbytes == size:
            return buffer
        buffer.release()
        return self._new(size)

    def _new(self, size: int) -> PageLockedBuffer:
        buffer = PageLockedBuffer(size, self.transfers, pin=self._pins)
        if self._pins and not buffer.pinned:
            self._pins = False
            log.warning("weights are copied from memory that is not page-locked; copies will not hide behind computing")
        return buffer

    def _read(self, unit: Unit, buffer: Tensor) -> None:
        several = [self.stored.read(part.name, part.of(buffer), part.first_row) for part in unit.all_parts]
        finish([read for reads in several for read in reads])
