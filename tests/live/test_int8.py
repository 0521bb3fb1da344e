"""ComfyUI's INT8 file, named as people have it, in the folder that core loads it from."""

import shutil
from pathlib import Path

import pytest
from PIL import ImageChops, ImageStat

from tests.live.client import Client
from tests.live.workflows import SAVE, profiled, profiles, text_to_image
from tests.support.int8 import write_int8

FILE = "sensenova_u1.6_8b_mot_int8_convrot.safetensors"


@pytest.fixture(scope="module", autouse=True)
def file(models: Path, base: Path, tmp_path_factory):
    """One file without a config, and the tokenizer in a folder beside it."""
    packed, _ = write_int8(models / "demo", tmp_path_factory.mktemp("int8"), "convrot 16")
    folder = base / "models/diffusion_models"
    (folder / "tokenizer").mkdir(parents=True)
    shutil.copyfile(packed / "model.safetensors", folder / FILE)
    shutil.copyfile(packed / "tokenizer.json", folder / "tokenizer/tokenizer.json")
    yield
    (folder / FILE).unlink()
    shutil.rmtree(folder / "tokenizer")


def drawn(client: Client, **loading: str):
    """The picture, and the profile."""
    prompt = profiled(text_to_image(Loader={"checkpoint": FILE, **loading}))
    run = client.run(prompt)
    assert run.outcome == "execution_success", run.error
    return client.images(run, SAVE)[0], profiles(run.outputs)[0]


@pytest.mark.parametrize(
    "compute, said", [("int8", "matrices are multiplied as INT8"), ("bf16", "stay in their files")]
)
def test_it_draws_what_the_plain_weights_draw_nearly(client, compute, said, first_run):
    picture, profile = drawn(client, compute=compute, vram_mode="balanced")
    plain = client.images(client.run(text_to_image()), SAVE)[0]
    assert sum(ImageStat.Stat(ImageChops.difference(picture, plain)).mean) / 3 < 12
    assert said in profile and ("compute=int8" in profile) == (compute == "int8")


def test_the_loader_names_it(client):
    run = client.run(text_to_image(Loader={"checkpoint": FILE}))
    told = "\n".join(run.texts("1"))
    assert "I8" in told and "U1" in told


def test_old_workflows_do_not_have_the_choice(client):
    """And auto is what they get."""
    prompt = text_to_image(Loader={"checkpoint": FILE})
    del next(node for node in prompt.values() if node["class_type"].endswith("Loader"))["inputs"]["compute"]
    assert client.run(prompt).outcome == "execution_success"
