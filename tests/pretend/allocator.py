"""What torch's caching allocator takes of a card: segments, cut into blocks; small and large ones of a stream apart."""

import bisect

import torch

MIB = 2**20
ROUND = 512  # bytes; blocks are multiples of it
SMALL, SMALL_SEGMENT = MIB, 2 * MIB  # the largest small block; the segment that it is cut from
MEDIUM, MEDIUM_SEGMENT = 10 * MIB, 20 * MIB  # larger blocks have a segment of their own,
LARGE_ROUND = 2 * MIB  # of a multiple of so many bytes


class Block:
    """A piece of a segment, with those beside it."""

    def __init__(self, size: int, pool: list, before: "Block | None" = None, after: "Block | None" = None):
        self.size, self.pool, self.before, self.after, self.free = size, pool, before, after, False


class Allocator:
    """capacity: of the card, for segments. allocated: in blocks that are used. reserved: in segments.
    most: the same at their highest."""

    def __init__(self, capacity: int):
        self.capacity, self.allocated, self.reserved = capacity, 0, 0
        self.most = {"allocated": 0, "reserved": 0}
        self._pools: dict[tuple[str, bool], list] = {}  # (stream, small) -> free blocks by size

    def take(self, nbytes: int, stream: str) -> Block:
        """Raises torch.OutOfMemoryError."""
        size = _up(max(nbytes, 1), ROUND)
        small = size <= SMALL
        pool = self._pools.setdefault((stream, small), [])
        place = bisect.bisect_left(pool, size, key=lambda block: block.size)
        block = pool.pop(place) if place < len(pool) else self._segment(size, pool)
        block.free = False
        if (left := block.size - size) >= (ROUND if small else SMALL + 1):
            block.size, rest = size, Block(left, pool, block, block.after)
            if block.after is not None:
                block.after.before = rest
            block.after = rest
            self._put(rest)
        self.allocated += block.size
        self._note()
        return block

    def give(self, block: Block) -> None:
        """Back to its pool, as one with the free blocks beside it."""
        self.allocated -= block.size
        if block.before is not None and block.before.free:
            block = self._joined(block.before, block)
        if block.after is not None and block.after.free:
            block = self._joined(block, block.after)
        self._put(block)

    def empty_cache(self) -> None:
        """Give back segments of which no block is used."""
        for pool in self._pools.values():
            for block in [block for block in pool if block.before is None and block.after is None]:
                pool.remove(block)
                self.reserved -= block.size

    def reset_most(self) -> None:
        self.most = {"allocated": self.allocated, "reserved": self.reserved}

    def _segment(self, size: int, pool: list) -> Block:
        whole = SMALL_SEGMENT if size <= SMALL else MEDIUM_SEGMENT if size < MEDIUM else _up(size, LARGE_ROUND)
        if self.reserved + whole > self.capacity:
            self.empty_cache()
        if self.reserved + whole > self.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / 2**30:.2f} GiB.")
        self.reserved += whole
        self._note()
        return Block(whole, pool)

    def _joined(self, first: Block, second: Block) -> Block:
        for block in (first, second):
            if block.free:
                block.pool.remove(block)
                block.free = False
        first.size, first.after = first.size + second.size, second.after
        if second.after is not None:
            second.after.before = first
        return first

    def _put(self, block: Block) -> None:
        block.free = True
        bisect.insort(block.pool, block, key=lambda each: each.size)

    def _note(self) -> None:
        self.most = {name: max(most, getattr(self, name)) for name, most in self.most.items()}


class Pool(Allocator):
    """What the driver's own allocator takes (cudaMallocAsync): one pool, which keeps what it had at the most."""

    STEP = 32 * MIB

    def take(self, nbytes: int, stream: str) -> Block:
        size = _up(max(nbytes, 1), ROUND)
        most = max(self.reserved, _up(self.allocated + size, self.STEP))
        if most > self.capacity:
            raise torch.OutOfMemoryError(f"Allocation on device 0 would exceed allowed memory: {size / 2**30:.2f} GiB.")
        self.allocated, self.reserved = self.allocated + size, most
        self._note()
        return Block(size, [])

    def give(self, block: Block) -> None:
        self.allocated -= block.size

    def empty_cache(self) -> None:
        self.reserved = _up(self.allocated, self.STEP)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
