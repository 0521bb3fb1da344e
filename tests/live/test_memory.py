"""Weights come and go as ComfyUI asks, and nothing stays behind."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.live.workflows import (
    LOADER,
    REDRAW,
    SAVE,
    changed,
    node_id,
    sampled,
    text_to_image,
    tiny,
)

LARGE = {"size.width": 384, "size.height": 384}
TALKATIVE = {"Loader": {"checkpoint": "talkative"}}
DOCUMENT = tiny("interleave", **TALKATIVE, Interleave=LARGE | sampled(seed=1))
del DOCUMENT[node_id(DOCUMENT, "SaveDocument")]  # saves elsewhere every time
TASKS = {
    "draw": tiny("text_to_image", Resolution=LARGE),
    "edit": tiny("edit_two_references"),
    "think": tiny("think", **TALKATIVE, Think={"max_tokens": 200}),
    "chat": tiny("chat_two_turns", **TALKATIVE, Understand={"max_tokens": 200}),
    "interleave": DOCUMENT,
}
LOADED = "Requested to load Engine"  # what ComfyUI logs when a model's weights are to come to the device
MOST_GROWTH = 50 * 2**20


def test_unloading_gives_weights_back_and_the_next_run_brings_them_again(client, server, first_run):
    loads = server.log_text().count(LOADED)
    client.run(text_to_image(FlowMatchSampler={"seed": 10}))
    assert server.log_text().count(LOADED) == loads  # a loaded model stays

    client.free()
    run = client.run(text_to_image(FlowMatchSampler=REDRAW))
    assert server.log_text().count(LOADED) == loads + 1
    assert _pixels(client, run) == first_run[1]


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


def test_what_a_link_may_mean_is_loaded_anew_when_it_changed(client, models):
    prompt = text_to_image()
    values = {"switch": True, "on_true": "demo", "on_false": "brief"}
    prompt["link"] = {"class_type": "ComfySwitchNode", "inputs": values}
    prompt[LOADER]["inputs"]["checkpoint"] = ["link", 0]
    client.run(prompt)
    assert not client.run(prompt).executed
    os.utime(models / "brief/model.safetensors")
    assert LOADER in client.run(prompt).executed


@pytest.mark.parametrize("task", TASKS)
def test_every_task_goes_on_after_all_was_freed(client, server, task):
    before = client.shown(client.run(TASKS[task]))
    loads = server.log_text().count(LOADED)
    client.free(memory=True)
    run = client.run(TASKS[task])
    assert not run.cached
    assert server.log_text().count(LOADED) == loads + 1
    assert client.shown(run) == before


def test_memory_does_not_creep_over_mixed_tasks(client, server):
    used = []
    for seed in range(3):
        for prompt in TASKS.values():
            other = {"seed": 100 + seed}, {"repetition_penalty": 1 + seed / 10}
            client.run(changed(prompt, FlowMatchSampler=other[0], Interleave=other[0], Understand=other[1]))
            used.append(server.resident_bytes())
    assert used[-1] - used[len(TASKS) - 1] < MOST_GROWTH, [size // 2**20 for size in used]


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
