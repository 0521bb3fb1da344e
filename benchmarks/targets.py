"""What others take for the tasks of memory_modes.py, and what this project wants to take. GiB and seconds."""

from collections.abc import Iterator
from dataclasses import dataclass

GIB = 2**30

# One H100 80 GB, 8B model in bfloat16, a picture of 2048 x 2048, 50 steps, cfg 4: the reference implementation's own
# table. A case -> (seconds, allocated, reserved, resident in system memory).
REFERENCE = {
    "full": (22.108, 34.83, 35.82, 5.59),
    "thinking:full": (38.342, 35.02, 35.94, 5.58),
    "edit:full": (25.871, 39.50, 41.32, 5.61),
    "27GiB": (87.692, 27.76, 28.31, 10.27),
    "20GiB": (174.961, 20.58, 21.12, 19.50),
    "13GiB": (250.757, 13.39, 13.93, 24.12),
    "9GiB": (290.039, 9.79, 10.33, 28.76),
    "7GiB": (316.323, 7.64, 8.18, 28.76),
    "balanced": (112.394, 6.78, 12.50, 47.18),
    "low": (130.191, 5.34, 5.85, 47.22),
}
# Its newest code on the same card, seconds.
NEWEST = {"full": 20.9, "balanced": 31.5, "low": 51.5}

HOST_GIB = 20.0  # resident in system memory, whatever the mode
FIRST_STEP_SECONDS = 10.0  # from nothing, files in the page cache
TOKEN_SECONDS = 0.007  # where the understanding expert stays on the card
STREAMED_TOKEN = 1.1  # times the bytes of a token / bandwidth, where it streams
EDIT_MORE_GIB = 2.0  # an edit over a picture from text alone


@dataclass(frozen=True)
class Target:
    """times: what `of` may be exceeded by: "limit" (the arithmetic), "full" (the mode), "larger" (of that and
    bytes / bandwidth). allocated, reserved: GiB at most; None is no target."""

    times: float
    of: str
    allocated: float | None = None
    reserved: float | None = None


TARGETS = {
    "full": Target(1.3, "limit", allocated=17.5),
    "27GiB": Target(1.05, "full", reserved=27),
    "20GiB": Target(1.05, "full", reserved=20),
    "13GiB": Target(1.1, "full", reserved=13),
    "9GiB": Target(1.2, "full", reserved=9),
    "7GiB": Target(1.2, "full", reserved=7),
    "balanced": Target(1.1, "larger", allocated=3.3, reserved=4),
    "low": Target(1.3, "larger", allocated=2.2, reserved=2.5),
}


@dataclass(frozen=True)
class Bases:
    """What times are measured against, in seconds: the arithmetic's limit, the mode full, and what copies take."""

    limit: float
    full: float
    streaming: float

    def seconds(self, target: Target) -> float:
        """The most that a target allows."""
        bases = {"limit": self.limit, "full": self.full, "larger": max(self.full, self.streaming)}
        return target.times * bases[target.of]


@dataclass(frozen=True)
class Check:
    """A figure beside the most that a target allows."""

    what: str
    value: float
    most: float

    @property
    def ok(self) -> bool:
        return self.value <= self.most

    def __str__(self) -> str:
        return f"{self.what} {self.value:.4g} {'<=' if self.ok else '>'} {self.most:.4g}: {'ok' if self.ok else 'MISS'}"


def bases_of(row: dict, full: dict, speed: dict) -> Bases:
    """full: the row of the mode full for the same task."""
    streaming = row["copied_gib"] * GIB / speed["copy_rate"]
    return Bases(row["limit_flops"] / speed["flops"], full["image_s"], streaming)


def checks(row: dict, rows: dict[str, dict], speed: dict, budget: int | None) -> Iterator[Check]:
    """What the targets of the reference task ask of a row. rows: all of them, by case."""
    task, _, setting = row["case"].rpartition(":")
    full = rows.get(f"{task}:full" if task else "full")
    target = TARGETS.get(setting)
    if full and target and (not task or (task == "edit" and setting != "full")):
        yield Check("s", row["image_s"], bases_of(row, full, speed).seconds(target))
    if target and not task:
        for kind in ("allocated", "reserved"):
            if getattr(target, kind) is not None:
                yield Check(f"GiB {kind}", row[f"{kind}_gib"], getattr(target, kind))
    elif budget is not None:
        yield Check("GiB reserved", row["reserved_gib"], budget / GIB)
    if task == "edit" and setting in rows:
        yield Check("GiB allocated", row["allocated_gib"], rows[setting]["allocated_gib"] + EDIT_MORE_GIB)
    if row["token_s"] is not None:
        streamed = STREAMED_TOKEN * row["token_gib"] * GIB / speed["copy_rate"]
        yield Check("s a token", row["token_s"], max(TOKEN_SECONDS, streamed))
    else:
        yield Check("s to the first step", row["first_step_s"], FIRST_STEP_SECONDS)
    yield Check("GiB of system memory", row.get("peak_gib", row["rss_gib"]), HOST_GIB)
