"""The files of the registry's archive: what git keeps, without what .comfyignore names."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def files() -> set[str]:
    """Paths from the root. Skips the test where this is no clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone: git does not know which files are the pack's")
    ignored = _listed("--ignored", "--exclude-from=.comfyignore")
    assert ignored
    return _listed() - ignored


def _listed(*options: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", *options]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")) - {""}
