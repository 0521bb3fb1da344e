"""Weights come and go as ComfyUI asks, and nothing stays behind."""

import json
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.live import comfyui
from tests.live.workflows import LOADER, REDRAW, SAVE, text_to_image

LOADED = "Requested to load Engine"  # what ComfyUI logs when a model's weights are to come to the device
MOST_GROWTH = 50 * 2**20


def test_unloading_gives_weights_back_and_the_next_run_brings_them_again(client, server, first_run):
    loads = server.log_text().count(LOADED)
    client.run(text_to_image(FlowMatchSampler={"seed": 10}))
    assert server.log_text().count(LOADED) == loads  # a loaded model stays

    client.post("/free", {"unload_models": True})
    time.sleep(1)  # the worker thread does it when it next looks
    run = client.run(text_to_image(FlowMatchSampler=REDRAW))
    assert server.log_text().count(LOADED) == loads + 1
    assert _pixels(client, run) == first_run[1]


def test_weights_come_and_go_as_memory_management_asks(installation, models):
    script = "tests/live/patcher.py"
    seen = json.loads(comfyui.run_python(installation, script, installation.folder, models / "demo"))
    away, there, there_and_read = [False, False, False], [True, True, False], [True, True, True]
    assert seen == {
        "made": away,
        "ready": there_and_read,
        "ready again": there_and_read,
        "same weights": True,
        "freed all": True,
        "making room": away,
        "back": there,
        "unloaded": away,
        "known when dropped": 0,
    }


def test_a_replaced_checkpoint_is_loaded_anew(client, models, first_run):
    folder = models / "replaced"
    shutil.copytree(models / "demo", folder)
    prompt = text_to_image(Loader={"checkpoint": folder.name})
    assert _pixels(client, client.run(prompt)) == first_run[1]
    assert LOADER in client.run(prompt).cached

    _replace_weights(folder / "model.safetensors")
    run = client.run(prompt)
    assert LOADER in run.executed
    assert _pixels(client, run) != first_run[1]


def test_memory_does_not_creep(client, server):
    used = {}
    for number in range(1, 11):
        client.run(
            text_to_image(
                Resolution={"size.width": 512, "size.height": 512}, FlowMatchSampler={"seed": 100 + number, "steps": 3}
            )
        )
        used[number] = server.resident_bytes()
    assert used[10] - used[3] < MOST_GROWTH, {number: size // 2**20 for number, size in used.items()}


def _replace_weights(file: Path) -> None:
    """As a download does: a new file takes the place of the old one, which may still be mapped."""
    tensors = load_file(file)
    head = next(name for name in tensors if name.startswith("fm_modules.fm_head") and tensors[name].dim() > 1)
    tensors[head] = torch.flip(tensors[head], (0,)).contiguous()
    new = file.with_suffix(".new")
    save_file(tensors, new)
    os.replace(new, file)


def _pixels(client, run) -> bytes:
    return client.images(run, SAVE)[0].tobytes()
