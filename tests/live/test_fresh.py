"""A ComfyUI in which nothing but this pack has been installed: everything shipped works, with the built-in demo."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensenova_core import DEMO
from tests.live import browser, comfyui
from tests.live.browser import SAID
from tests.live.client import Client
from tests.live.conftest import GOLDEN
from tests.live.workflows import (
    AUTOMATIC,
    BUILT_IN,
    BUILT_IN_SIDE,
    FOLDER,
    LOADER,
    NAMES,
    SAMPLER,
    SAVE,
    changed,
    node_id,
    read,
    text_to_image,
)
from tools.demo.detect import seen

NO_LORA = "none there yet"
# What the workflows ask for: background and shapes of their first picture, and what is told of pictures.
TWO = {("circle", "red"), ("star", "blue")}
SHOWN = {
    "text_to_image": ("blue", {("star", "yellow"), ("circle", "red")}),
    "think": ("white", {("star", "green"), ("ring", "orange")}),
    "think_edited": ("white", {("star", "green"), ("ring", "orange")}),
    "edit_one_image": ("white", {("circle", "purple"), ("star", "blue")}),
    "edit_two_references": ("green", TWO),
    "edit_dual_guidance": ("yellow", TWO),
    "caption_then_redraw": ("white", TWO),
    "generate_then_understand": ("red", {("heart", "white")}),
    "understand_then_generate": ("white", {("circle", "red")}),
    "interleave": ("white", {("circle", "red")}),
    "low_memory": ("blue", {("star", "yellow"), ("circle", "red")}),
    "seeds_batch": ("blue", {("star", "yellow"), ("circle", "red")}),
    "inpaint": ("white", {("square", "green"), ("star", "blue")}),
    "image_to_image": ("white", {("heart", "green"), ("star", "yellow")}),
    "outpaint": ("white", TWO),
}
GRIDS = {"compare_norms": (1032, 1032)}  # of several pictures
TALLER = {"outpaint": 2 * 24}  # than what the demo draws best
TOO_LARGE = {"large_4k": {"Resolution": {"size": AUTOMATIC}}}  # for a test: minutes
TOLD = {
    "understand": ["a big red circle on the left and a big blue star on the right on a white background"],
    "chat_two_turns": ["two", "red"],
    "generate_then_understand": ["heart"],
}


@pytest.fixture(scope="module")
def fresh(installation, tmp_path_factory) -> Iterator[comfyui.Server]:
    base = tmp_path_factory.mktemp("fresh")
    comfyui.prepare_base(installation, base)
    browser.write_settings(base)
    (base / "models/sensenova").rmdir()
    with comfyui.Server(installation, base) as running:
        yield running


@pytest.fixture
def client(fresh) -> Iterator[Client]:
    with Client(fresh.url) as connected:
        yield connected


def test_the_first_workflow_draws_at_the_press_of_run(fresh, chromium, screenshot):
    with browser.editor(chromium, fresh.url) as editor:
        editor.open(read("text_to_image.json"), "text_to_image")
        editor.run()
        editor.wait_for(LOADER, f"{SAID}.startsWith('Model: {BUILT_IN}')")
        editor.wait_for(SAVE, "node.imgs?.[0]?.naturalWidth")
        screenshot(editor.page, "fresh")
        sides = editor.node(SAVE, "[node.imgs[0].naturalWidth, node.imgs[0].naturalHeight]")
        assert sides == [BUILT_IN_SIDE, BUILT_IN_SIDE]
        assert editor.overlaps() == []


def test_example_pictures_can_be_chosen(client, fresh):
    examples = sorted((FOLDER / "pictures").glob("*.png"))
    assert len(examples) == 3
    for example in examples:
        assert (fresh.base / "input" / example.name).read_bytes() == example.read_bytes()
        assert example.name in _options(client, "LoadImage", "image")


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_runs_as_it_is(client, name):
    api = changed(read(f"api/{name}.json"), **TOO_LARGE.get(name, {}))
    run = client.run(api)
    assert run.outcome == "execution_success", run.error
    told, size = [], (BUILT_IN_SIDE, BUILT_IN_SIDE + TALLER.get(name, 0))
    for id, node in api.items():
        if node["class_type"] == "SaveImage":
            images = client.images(run, id)
            assert {image.size for image in images} == {GRIDS.get(name, size)}
            found = seen(images[0])
            shapes = {(shape.kind, shape.colour) for shape in found.shapes}
            assert name not in SHOWN or SHOWN[name] == (found.background, shapes)
        elif node["class_type"] == "PreviewAny":
            told.append(run.outputs[id]["text"][0].strip())
    assert all(told) and told == TOLD.get(name, told)
    if saved := node_id(api, "SaveDocument"):
        assert Path(run.outputs[saved]["text"][0]).is_file()


def test_list_of_checkpoints(client, server, models):
    assert _options(client, "SenseNovaCoreLoader", "checkpoint") == [AUTOMATIC, BUILT_IN]
    with Client(server.url) as other:
        listed = _options(other, "SenseNovaCoreLoader", "checkpoint")
    assert listed == [AUTOMATIC, *sorted(folder.name for folder in models.iterdir()), BUILT_IN]


def test_a_list_without_loras_says_so(client):
    assert _options(client, "SenseNovaCoreLora", "lora_name") == [NO_LORA]
    api = text_to_image(Loader={"checkpoint": BUILT_IN})
    given = {"model": [LOADER, 0], "lora_name": NO_LORA, "strength": 1.0}
    api["lora"] = {"class_type": "SenseNovaCoreLora", "inputs": given}
    api[SAMPLER]["inputs"]["model"] = ["lora", 0]
    run = client.run(api)
    assert run.error["node_id"] == "lora" and "no LoRA is there. Put a .safetensors file into" in str(run.error)


def test_automatic_follows_what_is_there(client, fresh):
    """A checkpoint of the user's goes before the built-in demo from the run on in which it is found."""
    mine = fresh.base / "models/sensenova/by me/mine"
    automatic = text_to_image(Loader={"checkpoint": AUTOMATIC})

    def draw() -> tuple[list[str], bytes]:
        run = client.run(automatic)
        assert run.outcome == "execution_success", run.error
        return [_model_of(text) for text in run.texts(LOADER)], client.images(run, SAVE)[0].tobytes()

    said, by_demo = draw()
    assert said == [BUILT_IN]
    shutil.copytree(GOLDEN, mine)
    said, by_mine = draw()
    assert said == ["by me/mine"] and by_mine != by_demo
    assert draw() == ([], by_mine)  # kept as it was
    shutil.rmtree(mine)
    shutil.copytree(DEMO, mine)
    assert draw() == (["by me/mine"], by_demo)
    shutil.rmtree(mine)
    assert draw() == ([BUILT_IN], by_demo)


def _model_of(text: str) -> str:
    """The first line of what the Loader says it found; the others say what that is."""
    model, found, *_ = lines = text.splitlines()
    if model == f"Model: {BUILT_IN}":
        assert found.startswith("This is the demo: it knows ") and "models/sensenova" in found and len(lines) == 2
        return BUILT_IN
    _, _, config, tokenizer = lines
    assert re.search(r": U1(\.5 or later \(pixel head\))?, \d layers, (F32|BF16), 1 file in ", found)
    assert (config, tokenizer) == ("Config: config.json", "Tokenizer: in the same folder")
    return model.removeprefix("Model: ")


def _options(client: Client, node: str, input: str) -> list[str]:
    """What a list offers when the graph editor asks."""
    kind, *rest = client.get(f"/object_info/{node}")[node]["input"]["required"][input]
    return kind if isinstance(kind, list) else rest[0]["options"]
