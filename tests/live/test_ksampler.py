"""To ComfyUI on a real server: KSampler draws our picture, shows it, keeps what a mask leaves out, and stops."""

import pytest
from PIL import Image, ImageChops

from tests.live.client import Client, Run
from tests.live.workflows import LOADER, SIDE, STEPS, tiny

BRIDGE, KSAMPLER, DECODE, SAVE = "4", "5", "6", "7"  # node ids of the workflow
SMALL = 128
BOX = (32, 32, 96, 80)  # of the mask


def ksampler(**changes: dict) -> dict:
    return tiny("ksampler", **changes)


def levels_apart(one: Image.Image, other: Image.Image) -> int:
    return max(most for _, most in ImageChops.difference(one, other).getextrema())


@pytest.fixture(scope="module")
def drawn(server) -> Run:
    with Client(server.url) as client:
        return client.run(ksampler())


def test_euler_and_simple_draw_what_our_sampler_draws(client, drawn, first_run):
    ours = Image.frombytes("RGB", (SIDE, SIDE), first_run[1])
    assert levels_apart(client.images(drawn, SAVE)[0], ours) <= 1  # Save Image cuts fractions off


def test_comfyui_shows_steps_and_previews(drawn):
    assert [data["value"] for data in drawn.of("progress", KSAMPLER)][-STEPS:] == list(range(1, STEPS + 1))
    assert [preview.data["node_id"] for preview in drawn.previews] == [KSAMPLER] * STEPS


def test_another_sampler_reads_and_loads_nothing_anew(client, drawn):
    run = client.run(ksampler(KSampler={"sampler_name": "heun"}))
    assert run.executed == [KSAMPLER, DECODE, SAVE] and run.outcome == "execution_success"


def test_a_mask_keeps_the_picture_around_it(client):
    api = ksampler(
        KSampler={"latent_image": ["masked", 0], "denoise": 0.6}, ToComfyUI={"width": SMALL, "height": SMALL}
    )
    piece = {"image": ["photo", 0], "width": SMALL, "height": SMALL, "x": 8, "y": 8}
    left, top, right, bottom = BOX
    square = {"value": 1.0, "width": right - left, "height": bottom - top}
    api |= {
        "photo": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "piece": {"class_type": "ImageCrop", "inputs": piece},
        "encoded": {"class_type": "VAEEncode", "inputs": {"pixels": ["piece", 0], "vae": [BRIDGE, 4]}},
        "empty": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": SMALL, "height": SMALL}},
        "square": {"class_type": "SolidMask", "inputs": square},
        "mask": {
            "class_type": "MaskComposite",
            "inputs": {"destination": ["empty", 0], "source": ["square", 0], "x": left, "y": top, "operation": "add"},
        },
        "masked": {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["encoded", 0], "mask": ["mask", 0]}},
        "before": {"class_type": "SaveImage", "inputs": {"images": ["piece", 0], "filename_prefix": "before"}},
    }
    run = client.run(api)
    assert run.outcome == "execution_success"
    before, after = client.images(run, "before")[0], client.images(run, SAVE)[0]
    assert levels_apart(before.crop(BOX), after.crop(BOX)) > 20
    for picture in (before, after):
        picture.paste("black", BOX)
    assert levels_apart(before, after) == 0


def test_interruption_stops_within_one_step(client, drawn):
    sides = {"width": 1024, "height": 1024}
    long = ksampler(ToComfyUI=sides, KSampler={"steps": 600})
    run, later, _ = client.interrupted(long, lambda message: message.type == "progress" and message.data["value"] == 3)
    assert [message.data["value"] for message in later if message.type == "progress"] in ([], [4])  # 4: on its way
    [interruption] = run.of("execution_interrupted")
    assert interruption["node_id"] == KSAMPLER


def test_memory_comes_and_goes(client, drawn, server):
    before = client.images(drawn, SAVE)[0].tobytes()
    loads = server.log_text().count("Requested to load EngineModel")
    client.free(memory=True)
    run = client.run(ksampler())
    assert LOADER in run.executed and client.images(run, SAVE)[0].tobytes() == before
    assert server.log_text().count("Requested to load EngineModel") == loads + 1


def test_a_size_that_is_no_multiple_is_refused_at_the_node(client):
    run = client.run(ksampler(ToComfyUI={"width": 100, "height": 128}))
    assert run.error["node_id"] == BRIDGE
    assert "width is 100; this model draws multiples of 32" in run.error["exception_message"]
    assert "crop" not in run.error["exception_message"]


def test_every_output_has_a_tooltip(client):
    node = client.get("/object_info/SenseNovaCoreToComfyUI")["SenseNovaCoreToComfyUI"]
    assert len(node["output"]) == 6 and all(node["output_tooltips"])
