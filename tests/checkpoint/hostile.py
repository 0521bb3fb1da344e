"""What any damaged file must do: fail with an error that names it and what to do, at once; never a crash or a large
allocation.

Allocations of Python and of numpy are counted; torch makes none before weights are placed but for scales, which are as
large as they are in the file. What opens in spite of its damage is loaded as far as that goes without a weight.
"""

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.checkpoint import open_checkpoint
from sensenova_core.checkpoint.safetensors_file import MAX_HEADER

SECONDS = 1.0  # what one file may take; a busy machine is forgiven
MOST = 3 * MAX_HEADER  # bytes that one file may take
COUNTED = 2**20  # bytes of a file of which allocations are counted, which slows down what makes many
REMEDIES = ("fetch", "give", "download", "rename", "remove")
NORM = "language_model.model.norm.weight"
SEEDS, LOADED = 150, 12  # of each kind of file; of these the first are also loaded, if they open
COUNTED_SEEDS = 3  # of every third of them allocations are counted


@contextmanager
def within_bounds(counted: bool) -> Iterator[None]:
    if counted:
        tracemalloc.start(1)
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < SECONDS
        assert not counted or tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def refused(path: Path, name: str | None = None, counted: bool | None = None) -> str:
    counted = path.stat().st_size < COUNTED if counted is None else counted
    with within_bounds(counted), pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    message = str(error.value)
    assert (name or path.name) in message and any(word in message for word in REMEDIES), message
    return message


def opens_or_is_refused(path: Path, counted: bool = True, loads: bool = False) -> bool:
    """Whether it opens. Anything but a CheckpointError fails the test. loads: also of loading what opens."""
    with within_bounds(counted):
        try:
            open_checkpoint(path)
        except CheckpointError as error:
            assert path.name in str(error) and any(word in str(error) for word in REMEDIES), str(error)
            return False
    if loads:
        try:
            sensenova_core.load(path, place=False)
        except CheckpointError as error:
            assert any(word in str(error) for word in REMEDIES), str(error)
    return True
