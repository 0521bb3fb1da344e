"""The examples run as they stand, with the built-in demo; those on a server in tests/live/test_queue.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "draw": (["draw.png"], "step 20 of 20"),
    "edit_and_ask": (["edited.png"], "purple circle"),
    "batch": ([f"batch_{number}_{index}.png" for number in (1, 2) for index in (1, 2, 3, 4)], "batch_2_4.png"),
}
ON_A_SERVER = {"queue_batch": 58}  # lines at most


def test_every_example_is_run_and_short():
    files = sorted((ROOT / "docs/examples").glob("*.py"))
    assert [file.stem for file in files] == sorted(EXAMPLES | ON_A_SERVER)
    lines = {file.stem: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert all(lines[name] <= ON_A_SERVER.get(name, 15) for name in lines)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    pictures, said = EXAMPLES[name]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "docs/examples" / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    assert all(Image.open(tmp_path / picture).size == (128, 128) for picture in pictures)
