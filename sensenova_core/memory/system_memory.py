"""How much system memory there is to take: the machine's, or what a container's limit leaves of it."""

from pathlib import Path

import psutil

_NO_LIMIT = 2**60  # version 1 of control groups writes a number near 2^63 for "no limit"


def available_bytes(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that can be taken without swapping, page cache counted as free.

    root, membership: where Linux tells of control groups; elsewhere they do not exist.
    """
    rooms = [psutil.virtual_memory().available]
    for group in _groups(root, membership):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < _NO_LIMIT:
            rooms.append(max(0, limit - used + _cached(group / "memory.stat")))
    return min(rooms)


def swap_bytes() -> int:
    """Bytes that may still be swapped out."""
    return psutil.swap_memory().free


def _groups(root: Path, membership: Path) -> list[Path]:
    """This process's group and those above it: each may have a limit of its own."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers in ("", "memory"):
            top = root if not controllers else root / "memory"
            inside = top / path.lstrip("/")
            groups += [inside, *(above for above in inside.parents if above.is_relative_to(top))]
    return groups


def _number(file: Path) -> int | None:
    """The number in a file; None where there is none, as in a group without a limit ("max")."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _cached(stat: Path) -> int:
    """File pages that the system gives back when memory is wanted."""
    try:
        pairs = dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return 0
    return int(pairs.get("inactive_file", 0)) + int(pairs.get("active_file", 0))
