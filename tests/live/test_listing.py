"""What the list of checkpoints offers, and what the Loader fetches."""

import json
import os
import subprocess

import pytest

from tests.live.comfyui import REPOSITORY
from tests.support.fake_hub import FakeHub
from tests.support.golden_set import COMPACT

CHECKPOINT = COMPACT / "checkpoints/tiny-u15"


@pytest.fixture(scope="module")
def report(installation, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("models")
    files = {file.name: file.read_bytes() for file in CHECKPOINT.iterdir()}
    weights = files["model.safetensors"]
    native = {name: content for name, content in files.items() if name != "model.safetensors"}
    native |= {"U1.6-bf16.safetensors": weights, "U1.6-int8.safetensors": weights}
    with FakeHub({"SenseNova/Fetched": files, "sensenova/U1.6-Native": native}, seconds=0.02) as hub:
        command = [installation.python, "tests/live/listing.py", installation.folder, CHECKPOINT, folder, hub.url]
        environment = os.environ | hub.environment(folder / "home") | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_list(report):
    folders = ["SenseNova/Cached", "folder", "shared"]
    files = [
        "c.safetensors",
        "deep/er/y.safetensors",
        "extra.safetensors",
        "foreign/mine.safetensors",
        "kinds/bf16.safetensors",
        "kinds/fp8.safetensors",
        "packed/a.gguf",
        "packed/b.gguf",
    ]
    files += ["single.safetensors", "sub/x.safetensors", "u1-Q4.gguf"]
    assert report["choices"] == ["automatic", *folders, *files, "built-in demo"]


def test_a_file_is_looked_at_once(report):
    assert report["looks again"] == 0 and report["looks after a change"] == 1


def test_fingerprints_cover_what_is_loaded(report):
    assert report["fingerprint stays"] and report["fingerprint of none"] is None
    assert report["fingerprint sees the tokenizer"] and report["fingerprint sees the time"]
    assert report["fingerprint expects what is fetched"] and report["fingerprint sees what was fetched"]
    assert report["fingerprint of a LoRA stays"]
    assert report["fingerprint sees a LoRA's settings"] and report["fingerprint sees a LoRA's time"]


def test_fingerprints_of_links_cover_all_that_they_may_mean(report):
    assert report["fingerprint of a link stays"] and report["fingerprint of a link sees any checkpoint"]
    assert report["fingerprint of a linked LoRA stays"] and report["fingerprint of a linked LoRA sees any"]


def test_choices_that_are_not_there_are_refused_unless_they_are_fetched(report):
    assert report["valid"] is True and report["loaded"]
    assert report["refused"].startswith("checkpoint 'none' is not there. Put a checkpoint's folder")


def test_nothing_else_is_loaded_in_place_of_what_was_chosen(report):
    assert report["another"].startswith("checkpoint 'other' is not there, and SenseNova/Fetched, which download would")
    assert "holds SenseNova/Fetched, and not somebody/Fetched; rename that folder" in report["somebody's"]


def test_downloading(report):
    assert report["cancelled"] and report["downloaded"] == "models/sensenova/Fetched" and report["loaded"]
    assert report["said"].startswith("Model: Fetched\nFetched: U1.5 or later (pixel head), 3 layers, F32, 1 file in ")
    assert report["bar"][0] == report["bar"][1] > 1e6 and report["again"] == "Fetched"


def test_one_file_of_a_repository_of_several(report):
    assert "2 files to choose from, U1.6-bf16.safetensors" in report["several"]
    assert "with sensenova/U1.6-Native/U1.6-bf16.safetensors as the Loader's repo" in report["several"]
    one = "models/sensenova/U1.6-Native/U1.6-int8.safetensors"
    assert report["one"] == [one] and report["one was said"].startswith("Model: U1.6-Native\nU1.6-int8: U1.6, ")
    assert report["fingerprint expects one file"] and report["one again"] == "U1.6-int8.safetensors"
