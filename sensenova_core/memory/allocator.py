"""What torch's allocator takes of a card for tensors, and libraries beside them: from above, for a plan is a bound."""

import torch

MIB = 2**20
# Tensors lie in segments: those of up to 1 MiB share segments of 2 MiB, those under 10 MiB share segments of 20 MiB,
# and larger ones have segments of their own, of whole 2 MiB.
SMALL, SMALL_SEGMENT, MIDDLE, MIDDLE_SEGMENT, GRAIN = MIB, 2 * MIB, 10 * MIB, 20 * MIB, 2 * MIB
# Of both shared kinds a segment that is begun and not full, and what small weights lose in segments of their own.
POOLS = SMALL_SEGMENT + MIDDLE_SEGMENT + 16 * MIB
# Of cuBLAS, as torch asks it to: made at the first product, and kept.
WORKSPACE, WORKSPACE_HOPPER = 8 * MIB + 128 * 2**10, 32 * MIB


def taken(size: int) -> int:
    """Bytes of a segment for one large tensor; small ones are as they are, for they share segments."""
    return size if size < MIDDLE else -(-size // GRAIN) * GRAIN


def taken_by(size: int, count: int) -> int:
    """Bytes of all segments for so many equal tensors of `size` bytes together."""
    if not count:
        return size
    each = -(-size // count)
    if each >= MIDDLE:
        return count * taken(each)
    segment = SMALL_SEGMENT if each <= SMALL else MIDDLE_SEGMENT
    return -(-count // (segment // max(1, each))) * segment


def libraries(device: torch.device | None) -> int:
    """Bytes of a card that torch and its libraries take beside tensors; None: of any card. CUDA's context is not among
    them, for nobody allocates it."""
    if device is not None and device.type != "cuda":
        return 0
    hopper = device is None or torch.cuda.get_device_capability(device)[0] in (9, 10)
    return POOLS + (WORKSPACE_HOPPER if hopper else WORKSPACE)
