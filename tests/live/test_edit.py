"""Reference images on a real server: batches, gaps, masks, sizes, and the mistakes that can be made with them."""

import shutil

import pytest

from sensenova_core.drawing.sizes import edit_size
from tests.live.client import Client
from tests.live.pictures import PHOTO
from tests.live.workflows import (
    BUILT_IN,
    BUILT_IN_SIDE,
    changed,
    node_id,
    text_to_image,
    tiny,
)

NAMES = ("photo", "twin", "tall", "holed", "filled", "drawn")
PICTURES = {name: {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}} for name in NAMES}
PAIR = {"class_type": "ImageBatch", "inputs": {"image1": ["photo", 0], "image2": ["twin", 0]}}
CONDITION, ENCODE, SAMPLER, SAVE = (
    node_id(tiny("edit_dual_guidance"), name)
    for name in ("ImageCondition", "TextEncode", "FlowMatchSampler", "SaveImage")
)
SEED = 7


def edit(images: dict[str, list], more: dict[str, dict] | None = None, **changes: dict) -> dict:
    """The edit at its image's size, guided by the instruction alone, with other links into Image Condition.

    PICTURES and `more` are nodes that may be named.
    """
    api = changed(tiny("edit_dual_guidance", FlowMatchSampler={"img_cfg": 1.0}), **changes) | PICTURES | (more or {})
    inputs = api[CONDITION]["inputs"]
    del inputs["images.image0"]
    inputs |= images
    return api


def drawn(client: Client, *arguments, **changes) -> tuple[tuple[int, int], bytes]:
    run = client.run(edit(*arguments, **changes))
    assert run.outcome == "execution_success", run.error
    [image] = client.images(run, SAVE)
    return image.size, image.tobytes()


def test_a_batch_counts_as_its_images(client):
    together = drawn(client, {"images.image0": ["pair", 0]}, {"pair": PAIR})
    assert together == drawn(client, {"images.image0": ["photo", 0], "images.image1": ["twin", 0]})
    assert together != drawn(client, {"images.image0": ["photo", 0]})


def test_gaps_between_images_are_closed(client):
    gap = drawn(client, {"images.image1": ["tall", 0], "images.image3": ["photo", 0], "images.image0": ["twin", 0]})
    inputs = {"images.image0": ["twin", 0], "images.image1": ["tall", 0], "images.image2": ["photo", 0]}
    assert gap == drawn(client, inputs)


def test_a_mask_whitens_its_own_image(client):
    masked = drawn(client, {"images.image0": ["twin", 0], "images.image2": ["holed", 0], "masks.mask2": ["holed", 1]})
    assert masked == drawn(client, {"images.image0": ["twin", 0], "images.image1": ["filled", 0]})
    assert masked != drawn(client, {"images.image0": ["twin", 0], "images.image1": ["holed", 0]})


def test_the_empty_mask_of_an_opaque_picture_changes_nothing(client):
    masked = drawn(client, {"images.image0": ["photo", 0], "masks.mask0": ["photo", 1]})
    assert masked == drawn(client, {"images.image0": ["photo", 0]})


def test_ten_images_and_no_more(client):
    def many(amount: int) -> tuple:
        repeated = {"class_type": "RepeatImageBatch", "inputs": {"image": ["photo", 0], "amount": amount}}
        return {"images.image0": ["many", 0], "images.image1": ["tall", 0]}, {"many": repeated}

    small = {"ImageCondition": {"max_pixels": 1024}, "FlowMatchSampler": {"steps": 1}}
    assert drawn(client, *many(9), **small)[0] == PHOTO
    run = client.run(edit(*many(10), **small))
    assert run.error["node_id"] == CONDITION
    assert "11 images are connected, batches counted; give at most 10" in run.error["exception_message"]


@pytest.mark.parametrize("kind, slot", [("images.image", 0), ("masks.mask", 1)])
def test_an_eleventh_input(client, kind, slot):
    run = client.run(edit({"images.image0": ["photo", 0], f"{kind}10": ["photo", slot]}))
    assert run.error["node_id"] == CONDITION
    assert f"{kind}10 is connected, but the inputs are images.image0 to images.image9" in run.error["exception_message"]


def test_a_mask_without_its_image(client):
    run = client.run(edit({"images.image0": ["photo", 0], "masks.mask3": ["holed", 1]}))
    assert run.error["node_id"] == CONDITION
    assert "mask3 is connected without image3; connect the image" in run.error["exception_message"]


def test_an_image_of_an_extreme_ratio_is_named(client):
    line = {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 201, "batch_size": 1, "color": 0}}
    run = client.run(edit({"images.image0": ["photo", 0], "images.image5": ["line", 0]}, {"line": line}))
    assert run.error["node_id"] == CONDITION
    assert "Image-2, from image5, of 1x201 is more than 200 times as long as wide" in run.error["exception_message"]


@pytest.mark.parametrize(
    "mode, size", [("its ratio, at full resolution", edit_size(*PHOTO)), ("the same as the image", PHOTO)]
)
def test_size_of_an_edit(client, mode, size):
    api = edit({"images.image0": ["photo", 0]})
    sizes = node_id(api, "EditSize")
    shown = {str(slot): {"class_type": "PreviewAny", "inputs": {"source": [sizes, slot]}} for slot in (0, 1)}
    needed = {id: api[id] for id in ("photo", CONDITION, sizes)}
    needed[sizes]["inputs"]["mode"] = mode
    run = client.run(needed | {f"side {slot}": node for slot, node in shown.items()})
    assert [run.outputs[f"side {slot}"]["text"] for slot in shown] == [[str(side)] for side in size]


@pytest.mark.parametrize("name, size", [("photo", PHOTO), ("tall", (64, 200))])
def test_an_edit_may_have_exactly_the_size_of_its_image(client, name, size):
    assert drawn(client, {"images.image0": [name, 0]})[0] == size


def test_automatic_size_keeps_the_ratio_of_the_first_image(client):
    wide = {"class_type": "EmptyImage", "inputs": {"width": 300, "height": 200, "batch_size": 1, "color": 0}}
    sizes = {"width": 0, "height": 0, "crop": False}
    images = {"images.image1": ["tall", 0], "images.image0": ["wide", 0]}
    size, _ = drawn(client, images, {"wide": wide}, Loader={"checkpoint": BUILT_IN}, FlowMatchSampler=sizes)
    assert size == edit_size(300, 200, BUILT_IN_SIDE**2) == (128, 96)


def test_that_size_needs_the_crop(client):
    run = client.run(edit({"images.image0": ["photo", 0]}, FlowMatchSampler={"crop": False}))
    assert run.error["node_id"] == SAMPLER
    assert "multiples of 32" in run.error["exception_message"]


def test_cfg_zero_star_is_refused(client):
    run = client.run(edit({"images.image0": ["photo", 0]}, FlowMatchSampler={"cfg_norm": "cfg_zero_star"}))
    assert run.error["node_id"] == SAMPLER
    assert "choose none, global or channel for an edit" in run.error["exception_message"]


def test_more_placeholders_than_images(client):
    run = client.run(edit({"images.image0": ["photo", 0]}, TextEncode={"prompt": "<image> like <image>"}))
    assert run.error["node_id"] == ENCODE
    assert "names 1 more <image> than there are images" in run.error["exception_message"]


@pytest.fixture(scope="module")
def own_picture(server) -> dict[str, dict]:
    """Nodes that give the same picture: drawn.png, saved by a workflow of ours, and `draw`, which draws it again."""
    with Client(server.url) as client:
        api = text_to_image(FlowMatchSampler={"seed": SEED})
        [file] = client.run(api).outputs[node_id(api, "SaveImage")]["images"]
    shutil.copy(server.base / "output" / file["subfolder"] / file["filename"], server.base / "input/drawn.png")
    sampler = api[node_id(api, "FlowMatchSampler")]
    encode = api[node_id(api, "TextEncode")]
    links = {"conditioning": ["words", 0], "width": 256, "height": 256}
    return {"words": encode, "draw": sampler | {"inputs": sampler["inputs"] | links}}


@pytest.mark.parametrize("source", ["drawn", "draw"])
def test_warning_where_noise_repeats(client, server, own_picture, source):
    def warnings(seed: int) -> list[str]:
        api = edit({"images.image0": [source, 0]}, own_picture)
        api[SAMPLER]["inputs"]["seed"] = seed
        run = client.run(api)
        assert run.outcome == "execution_success", run.error
        assert len({line for text in run.texts(SAMPLER) for line in text.split("\n") if "Warning" in line}) <= 1
        return [line for line in run.texts(SAMPLER)[-1].split("\n") if "Warning" in line]

    logged = server.log_text().count("also drew the image being edited")
    assert warnings(SEED + 1) == []
    [warning] = warnings(SEED)
    assert f"seed {SEED} at 256x256 also drew the image being edited" in warning
    assert server.log_text().count("also drew the image being edited") == logged + 1


def test_no_warning_at_another_size(client, own_picture):
    api = edit({"images.image0": ["drawn", 0]}, own_picture)
    api[SAMPLER]["inputs"] |= {"seed": SEED, "width": 128, "height": 128}
    assert not any("Warning" in text for text in client.run(api).texts(SAMPLER))
