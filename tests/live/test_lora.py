"""The LoRA node on a real server: as nothing at strength 0, adding up, gone without a trace; presets."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.live.client import Client
from tests.live.workflows import ENCODE, LOADER, SAMPLER, SAVE, text_to_image
from tests.support.loras import matrices, write_lora

FIRST, SECOND, TWIN = "u1_first.safetensors", "second.safetensors", "twin.safetensors"
EIGHT = "SenseNova-U1.5-8step.safetensors"


@pytest.fixture(scope="module", autouse=True)
def files(models: Path, base: Path) -> None:
    """In both folders: LoRAs of demo, one of another model, and a text."""
    ours, theirs, shapes = models / "loras", base / "models/loras", matrices(models / "demo")
    write_lora(ours / FIRST, shapes, seed=0)
    write_lora(theirs / SECOND, shapes, seed=1)
    shutil.copyfile(ours / FIRST, theirs / TWIN)
    write_lora(ours / EIGHT, {name: shape for name, shape in shapes.items() if "_mot_gen" in name}, seed=2)
    write_lora(ours / "foreign.safetensors", {"double_blocks.0.img_attn.qkv.weight": (64, 64)})
    (ours / "notes.txt").write_text("hello")


def with_loras(*loras: tuple[str, float], preset: bool = False, **changes) -> dict:
    """text_to_image with LoRA nodes L0, L1, ... between the Loader and the others."""
    api, model = text_to_image(**changes), [LOADER, 0]
    for index, (name, strength) in enumerate(loras):
        inputs = {"model": model, "lora_name": name, "strength": strength}
        api[f"L{index}"] = {"class_type": "SenseNovaCoreLora", "inputs": inputs}
        model = [f"L{index}", 0]
    for id in (ENCODE, SAMPLER):
        api[id]["inputs"]["model"] = model
    if preset:
        api[SAMPLER]["inputs"]["preset"] = [model[0], 1]
    return api


def drawn(client: Client, *loras: tuple[str, float]) -> Image.Image:
    return client.images(client.run(with_loras(*loras)), SAVE)[0]


def most_levels_apart(one: Image.Image, other: Image.Image) -> int:
    return max(most for _, most in ImageChops.difference(one, other).getextrema())


def test_both_folders_are_listed(client):
    node = client.get("/object_info/SenseNovaCoreLora")["SenseNovaCoreLora"]
    kind, options = node["input"]["required"]["lora_name"]
    names = options.get("options", kind)
    assert {FIRST, SECOND, TWIN, EIGHT} <= set(names) and "notes.txt" not in names


def test_strength_0_is_none(client, first_run):
    assert drawn(client, (FIRST, 0.0)).tobytes() == first_run[1]


def test_on_and_off_again(client, first_run):
    on = drawn(client, (FIRST, 1.0))
    assert on.tobytes() != first_run[1]
    assert drawn(client, (FIRST, 0.5)).tobytes() not in (on.tobytes(), first_run[1])
    assert drawn(client, (SECOND, 1.0)).tobytes() != first_run[1]
    assert drawn(client, (FIRST, 0.0), (SECOND, 0)).tobytes() == first_run[1]
    assert drawn(client, (FIRST, 1.0)).tobytes() == on.tobytes()


def test_stacked_twice_is_twice_the_strength(client):
    twice = drawn(client, (FIRST, 1.0))
    assert drawn(client, (FIRST, 0.5), (FIRST, 0.5)).tobytes() == twice.tobytes()
    assert most_levels_apart(drawn(client, (FIRST, 0.5), (TWIN, 0.5)), twice) <= 1


def test_branches_of_a_graph_have_their_own_and_one_model(client, first_run):
    api = with_loras((FIRST, 1.0))
    plain, other = deepcopy(api[SAMPLER]), deepcopy(api[SAMPLER])
    plain["inputs"]["model"] = [LOADER, 0]
    api["L1"] = {"class_type": "SenseNovaCoreLora", "inputs": api["L0"]["inputs"] | {"lora_name": SECOND}}
    other["inputs"]["model"] = ["L1", 0]
    save = api[SAVE]
    for id, node in (("plain", plain), ("other", other)):
        api[id] = node
        api[f"save {id}"] = save | {"inputs": save["inputs"] | {"images": [id, 0]}}
    run = client.run(api)
    pictures = {id: client.images(run, id)[0].tobytes() for id in (SAVE, "save plain", "save other")}
    assert run.executed.count(LOADER) <= 1 and len(set(pictures.values())) == 3
    assert pictures["save plain"] == first_run[1]
    assert pictures[SAVE] == drawn(client, (FIRST, 1.0)).tobytes()
    assert pictures["save other"] == drawn(client, (SECOND, 1.0)).tobytes()


def test_a_preset_replaces_the_widgets(client):
    run = client.run(with_loras((EIGHT, 1.0), preset=True))
    said = "8 steps, cfg 1, shift 3 (8 steps by its file name)"
    assert {data["max"] for data in run.of("progress", SAMPLER)} == {8}
    assert run.texts(SAMPLER)[0] == f"Preset: {said}" and f"Preset: {said}" in run.texts("L0")[-1]
    by_hand = client.run(with_loras((EIGHT, 1.0), FlowMatchSampler={"steps": 8, "cfg": 1.0, "shift": 3.0}))
    assert client.images(run, SAVE)[0].tobytes() == client.images(by_hand, SAVE)[0].tobytes()


def test_without_one_the_widgets_count(client):
    run = client.run(with_loras((EIGHT, 0.0), (FIRST, 1.0), preset=True))
    assert {data["max"] for data in run.of("progress", SAMPLER)} == {4}
    assert "Preset" not in run.texts("L1")[-1]


def test_a_wrong_base_is_warned_of_and_runs(client, models):
    pixel_head = json.loads((models / "demo/config.json").read_text()).get("use_pixel_head", False)
    name = f"SenseNova-{'U1' if pixel_head else 'U1.5'}-style.safetensors"
    write_lora(models / "loras" / name, matrices(models / "demo"), seed=9)
    run = client.run(with_loras((name, 0.9)))
    assert run.outcome == "execution_success"
    assert run.texts("L0")[-1].startswith(f"Warning: {name} seems to be made for ")


def test_what_does_not_fit_is_said_at_the_node(client):
    run = client.run(with_loras(("foreign.safetensors", 1.0)))
    assert run.error["node_id"] == "L0"
    assert "1 for parameters that this model lacks: diffusion_model.double_blocks" in run.error["exception_message"]


def test_a_replaced_file_is_read_anew(client, models):
    name = "replaced.safetensors"
    shapes = matrices(models / "demo")
    write_lora(models / "loras" / name, shapes, seed=7)
    first = drawn(client, (name, 1.0))
    write_lora(models / "loras" / name, shapes, seed=8, rank=5)
    assert drawn(client, (name, 1.0)).tobytes() != first.tobytes()
