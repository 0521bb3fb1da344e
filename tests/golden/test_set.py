"""The committed selection of reference data is sound, and is what the whole set says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden_set import COMPACT, manifest, whole_set

# Files that lack a tensor or a case of their original, so only their content can be compared.
REWRITTEN = {".safetensors", ".json", ".md"}
needs_whole_set = pytest.mark.skipif(whole_set() is None, reason="the whole reference set is not on this machine")


def test_every_case_is_complete():
    files = {path.relative_to(COMPACT).as_posix() for path in (COMPACT / "cases").iterdir()}
    assert files == {case["file"] for case in manifest(COMPACT)["cases"]}
    for case in manifest(COMPACT)["cases"]:
        held = load_file(COMPACT / case["file"])
        assert {name: list(value.shape) for name, value in held.items()} == {
            name: entry["shape"] for name, entry in case["tensors"].items()
        }


def _data() -> list[Path]:
    """The reference data, without the tests that lie beside them."""
    return [path for path in COMPACT.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]


def test_selection_stays_small():
    total = sum(path.stat().st_size for path in _data())
    assert total <= 12_000_000, f"{total:,} bytes; leave a tensor out that follows from the others"


@needs_whole_set
def test_files_equal_the_originals():
    compared = 0
    for path in _data():
        relative = path.relative_to(COMPACT)
        if relative.parts[0] == "checkpoints" or path.suffix not in REWRITTEN:
            assert path.read_bytes() == (whole_set() / relative).read_bytes(), relative
            compared += 1
    assert compared > 15


@needs_whole_set
def test_tensors_equal_the_originals():
    for case in manifest(COMPACT)["cases"]:
        original = load_file(whole_set() / case["file"])
        for name, value in load_file(COMPACT / case["file"]).items():
            assert value.dtype == original[name].dtype and torch.equal(value, original[name]), (case["name"], name)


@needs_whole_set
def test_cases_equal_the_originals():
    originals = {case["name"]: case for case in manifest(whole_set())["cases"]}
    for case in manifest(COMPACT)["cases"]:
        original = dict(originals[case["name"]])
        assert case["tensors"].items() <= original.pop("tensors").items()
        assert {key: value for key, value in case.items() if key != "tensors"} == original
    for table, content in manifest(COMPACT)["tables"].items():
        assert content == manifest(whole_set())["tables"][table]
