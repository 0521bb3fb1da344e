"""Processes that write pictures into one folder at the same time.

python -m tests.support.writers 4 50    # the whole of it: 200 pictures in each way
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

from PIL import Image

WAYS = ("taken", "numbered", "without links")


def write_at_once(folder: Path, way: str, processes: int, pictures: int) -> Counter:
    """(process, picture) -> in how many files of the folder it is."""
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(processes)
    arguments = [(number, gate, folder, way, pictures) for number in range(processes)]
    writers = [context.Process(target=_write, args=each) for each in arguments]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not any(writer.exitcode for writer in writers)
    assert all(path.suffix == ".png" for path in folder.iterdir())
    return Counter(tuple(json.loads(Image.open(path).text["sensenova"]).values()) for path in folder.iterdir())


def _write(number: int, gate, folder: Path, way: str, pictures: int) -> None:
    import torch

    from sensenova_core.report.png import next_free, save_numbered, save_png

    picture = torch.rand(64, 64, 3)
    gate.wait()
    links = mock.patch("os.link", side_effect=PermissionError if way == "without links" else os.link)
    for index in range(pictures):
        settings = {"process": number, "picture": index}
        with links:
            if way == "taken":
                save_png(picture, next_free(folder, "sensenova"), settings)
            else:
                save_numbered(picture, folder, "sensenova", settings=settings)


if __name__ == "__main__":
    processes, pictures = map(int, sys.argv[1:])
    for way in WAYS:
        found = write_at_once(Path(tempfile.mkdtemp()) / "pictures", way, processes, pictures)
        once = len(found) == processes * pictures and set(found.values()) == {1}
        print(way, "right" if once else "WRONG", f"{sum(found.values())} files, {len(found)} pictures")
