"""What the pack adds to ComfyUI's start."""

import json

import pytest

from tests.live import comfyui
from tests.test_installing import HEAVY

MOST_SECONDS = 0.2  # of one core; 0.07 were measured, and 0.15 to 0.2 at the first start, which compiles all files
TRIES = 3  # of which the quickest counts
MOST_MODULES = 6  # beside the pack's own: PIL.ImageCms and what it needs


@pytest.fixture
def loads(installation, tmp_path):
    comfyui.prepare_base(installation, tmp_path)
    arguments = ("tests/live/importing.py", installation.folder, tmp_path, *HEAVY)
    return lambda: json.loads(comfyui.run_python(installation, *arguments).splitlines()[-1])


def test_importing_is_quick_and_imports_nothing_heavy(loads):
    for _try in range(TRIES):
        found = loads()
        assert found["done"] and found["asked"] == [] and len(found["new"]) <= MOST_MODULES, found
        if found["cpu_seconds"] < MOST_SECONDS:
            return
    raise AssertionError(found)
