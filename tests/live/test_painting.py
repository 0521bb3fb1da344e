"""Pictures that begin from a picture, and ComfyUI's own schedules and samplers, on a real server."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.live.client import Client
from tests.live.pictures import PHOTO
from tests.live.workflows import SAMPLER, SAVE, STEPS, text_to_image

SIZE = {"width": PHOTO[0], "height": PHOTO[1], "crop": True}
LEFT = 21
PADDED = {
    "photo": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
    "pad": {
        "class_type": "ImagePadForOutpaint",
        "inputs": {"image": ["photo", 0], "left": LEFT, "top": 0, "right": 0, "bottom": 0, "feathering": 9},
    },
}
SMALL = {"width": 64, "height": 64, "steps": STEPS, "cfg": 2.0}


def graph(nodes: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return nodes | text_to_image(FlowMatchSampler=inputs)


def solver(name: str) -> dict[str, Any]:
    return {"solver": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": name}}}


def levels(client: Client, run) -> list[np.ndarray]:
    assert run.outcome == "execution_success", run.error
    return [np.asarray(image.convert("RGB")).astype(int) for image in client.images(run, SAVE)]


@pytest.fixture(scope="module")
def photo(base) -> np.ndarray:
    return np.asarray(Image.open(base / "input/photo.png").convert("RGB")).astype(int)


def test_outpainting_keeps_what_was_there_to_the_level(client, photo):
    """A padded size that is no multiple of 32; the mask of ComfyUI's own node fades over 9 pixels of the picture."""
    inputs = {"width": 0, "height": 0, "init_image": ["pad", 0], "mask": ["pad", 1], "batch_size": 2}
    for picture in levels(client, client.run(graph(PADDED, **inputs))):
        assert picture.shape == (PHOTO[1], PHOTO[0] + LEFT, 3)
        assert np.array_equal(picture[:, LEFT + 9 :], photo[:, 9:])
        assert abs(picture[:, :LEFT] - 127).mean() > 20  # grey before


def test_a_picture_is_scaled_and_the_node_says_so(client):
    inputs = SMALL | {"init_image": ["pad", 0], "mask": ["pad", 1], "denoise": 0.5, "feather": 3}
    run = client.run(graph(PADDED, **inputs))
    assert levels(client, run)[0].shape == (64, 64, 3)
    note = "init_image was 171 x 100, and is scaled to the 64 x 64 that is drawn"
    assert run.texts(SAMPLER)[0] == note and all(text.startswith(note) for text in run.texts(SAMPLER))


def test_what_has_no_effect_is_said(client, photo):
    run = client.run(graph(PADDED, **SIZE, init_image=["photo", 0]))
    assert run.texts(SAMPLER)[0].startswith("denoise is 1 and there is no mask, so that nothing of init_image is used")
    plain = client.run(graph({}, **SIZE))
    assert np.array_equal(levels(client, run)[0], levels(client, plain)[0])
    run = client.run(graph(PADDED, init_image=["photo", 0], mask=["photo", 1], width=0, height=0))
    assert run.texts(SAMPLER)[0].startswith("mask is empty, so that all is kept")
    assert np.array_equal(levels(client, run)[0], photo)


def test_euler_of_comfyui_is_ours(client):
    ours, theirs = (
        client.run(graph(nodes, **SMALL, **more))
        for nodes, more in (({}, {}), (solver("euler"), {"sampler": ["solver", 0]}))
    )
    assert abs(levels(client, ours)[0] - levels(client, theirs)[0]).max() <= 1
    assert theirs.of("progress", SAMPLER) and len(theirs.previews) == STEPS
    assert [data["value"] for data in theirs.of("progress", SAMPLER)] == list(range(STEPS + 1))


@pytest.mark.parametrize(
    "name", ["heun", "dpm_2", "dpmpp_2m", "dpmpp_2m_sde", "er_sde", "euler_ancestral", "res_multistep"]
)
def test_samplers_of_comfyui_run(client, name):
    inputs = SMALL | {"sampler": ["solver", 0], "init_image": ["pad", 0], "mask": ["pad", 1], "denoise": 0.8}
    run = client.run(graph(PADDED | solver(name), **inputs))
    [picture] = levels(client, run)
    assert picture.std() > 5
    assert [data["value"] for data in run.of("progress", SAMPLER)] == list(range(STEPS + 1))


def test_a_schedule_of_comfyui(client):
    def scheduled(sigmas: str):
        nodes = {"sigmas": {"class_type": "ManualSigmas", "inputs": {"sigmas": sigmas}}}
        return client.run(graph(nodes, **SMALL, sigmas=["sigmas", 0]))

    run = scheduled("1.0, 0.9, 0.5, 0.2, 0.1, 0.0")
    assert len(levels(client, run)[0]) == 64
    assert [data["value"] for data in run.of("progress", SAMPLER)] == [*range(6)]
    assert "sigmas has 14.6, which is outside 0 to 1" in scheduled("14.6, 3.0, 0.0").error["exception_message"]
    assert "sigmas begins at 0.5" in scheduled("0.5, 0.0").error["exception_message"]


@pytest.mark.parametrize(
    "nodes, inputs, words",
    [
        (solver("euler_cfg_pp"), {"sampler": ["solver", 0]}, "sampler looks into guidance, which is within the model"),
        (PADDED, {"mask": ["pad", 1]}, "mask is connected without init_image; connect the picture"),
        ({}, {"denoise": 0.5}, "denoise is 0.5; give 1 to begin from noise; or give init_image"),
    ],
)
def test_what_cannot_be(client, nodes, inputs, words):
    assert words in client.run(graph(nodes, **SMALL, **inputs)).error["exception_message"]
