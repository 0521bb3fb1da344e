"""What a user did wrong is said at the node where it was done, before or instead of a run."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.live.client import Rejected
from tests.live.workflows import REDRAW, SAVE, node_id, text_to_image, tiny

# name -> (class of the node that says so, what is wrong, a part of what it says), in text to image
REFUSED = {
    "unknown norm": ("FlowMatchSampler", {"cfg_norm": "local"}, "local"),
    "no steps": ("FlowMatchSampler", {"steps": 0}, "steps"),
}
FAILS = {
    "reversed interval": (
        "FlowMatchSampler",
        {"cfg_start": 0.8, "cfg_end": 0.2},
        "cfg_start and cfg_end 0.8 to 0.2 is not an interval",
    ),
    "unknown size": (
        "Resolution",
        {"size": "5:1 3200x640"},
        "size '5:1 3200x640' is unknown; choose one of 'automatic', 'custom', '1:1 2048x2048', '16:9 2720x1536', ",
    ),
    "no width": (
        "FlowMatchSampler",
        {"width": 0, "height": 512},
        "width is 0 and height is 512; give both, or 0 for both",
    ),
    "no height": ("FlowMatchSampler", {"width": 512, "height": 0}, "width is 512 and height is 0; give both"),
    "image in the prompt": ("TextEncode", {"prompt": "like <image>"}, "names 1 more <image> than there are images"),
    "long prompt": ("TextEncode", {"prompt": 9000 * "x"}, "over the model's 8,192; shorten it"),
    "unknown checkpoint": ("Loader", {"checkpoint": "not-there"}, "checkpoint 'not-there' is not there. Put a "),
    "download of another": (
        "Loader",
        {"checkpoint": "not-there", "download": True},
        "'not-there' is not there, and SenseNova/SenseNova-U1-8B-MoT, which download would fetch, is another one",
    ),
    "damaged checkpoint": ("Loader", {"checkpoint": "damaged"}, "truncated or damaged"),
    "no flash-attn": ("Loader", {"attention": "flash"}, "install flash-attn, or choose"),
    "unreadable limit": ("Loader", {"max_memory": "lots"}, "cannot read 'lots'; write a size such as 13GiB"),
}
# name -> the same with the workflow in front
FAILS_ELSEWHERE = {
    "image in the question": ("understand", "Understand", {"question": "<image> or <image>?"}, "names 1 more <image>"),
    "image in the subject": ("interleave", "Interleave", {"prompt": "more of <image>"}, "names 1 more <image>"),
    "unknown size of pictures": (
        "interleave",
        "Interleave",
        {"size": "5:1"},
        "size '5:1' is unknown; choose one of 'automatic', 'custom', '1:1 1536x1536', ",
    ),
    "unknown decoding": ("think", "Think", {"decoding": "beam"}, "take greedy or sample"),
    "odd size of pictures": ("interleave", "Interleave", {"size.width": 260}, "width is 260"),
}
ODD = {"Interleave": {"size.width": 260}}


@pytest.fixture(scope="module", autouse=True)
def damaged(models):
    folder = models / "damaged"
    shutil.copytree(models / "demo", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    yield
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pruned(models):
    """The model without its output head."""
    folder = models / "pruned"
    shutil.copytree(models / "demo", folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    yield
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_run(client, case):
    kind, wrong, text = REFUSED[case]
    prompt = text_to_image(**{kind: wrong})
    with pytest.raises(Rejected) as refusal:
        client.queue(prompt)
    assert list(refusal.value.errors) == [node_id(prompt, kind)]
    assert text in str(refusal.value.errors)


@pytest.mark.parametrize("case", FAILS)
def test_reported_by_the_node(client, case):
    kind, wrong, text = FAILS[case]
    _check_reported(client, text_to_image(**{kind: wrong}), kind, text)


def test_odd_size_is_reported_by_the_sampler(client):
    prompt = text_to_image(Resolution={"size.width": 260})
    _check_reported(client, prompt, "FlowMatchSampler", "width is 260; this model draws multiples of 32, such as 256")


@pytest.mark.parametrize("case", FAILS_ELSEWHERE)
def test_reported_by_the_node_of_another_task(client, case):
    name, kind, wrong, text = FAILS_ELSEWHERE[case]
    _check_reported(client, tiny(name, **{kind: wrong}), kind, text)


@pytest.mark.parametrize("name, kind", [("think", "Think"), ("understand", "Understand"), ("interleave", "Interleave")])
def test_what_a_file_for_drawing_cannot_do(client, pruned, name, kind):
    _check_reported(
        client, tiny(name, Loader={"checkpoint": "pruned"}), kind, "this file is for drawing only: it lacks "
    )


def test_what_a_file_for_drawing_can_do(client, pruned, first_run):
    run = client.run(text_to_image(Loader={"checkpoint": "pruned"}))
    assert client.images(run, SAVE)[0].tobytes() == first_run[1]
    prompt = tiny("memory_plan", Loader={"checkpoint": "pruned"}, MemoryPlan={"task": "understand"})
    _check_reported(
        client, prompt, "MemoryPlan", "for reasoning, answers, chat, documents and self-correction take a file"
    )


def test_a_hint_is_of_what_the_node_has(client):
    """The sampler can cut a picture back to any size, a document's pictures cannot be."""
    for prompt, cropped in (text_to_image(Resolution={"size.width": 260}), True), (tiny("interleave", **ODD), False):
        assert ("crop" in client.run(prompt).error["exception_message"]) == cropped


@pytest.mark.parametrize("kind", ["Think", "FlowMatchSampler"])
def test_a_prompt_for_another_model(client, kind):
    prompt = tiny("think")
    other = prompt[node_id(prompt, "Loader")]
    prompt["other"] = other | {"inputs": other["inputs"] | {"checkpoint": "tiny-u15"}}
    prompt[node_id(prompt, kind)]["inputs"]["model"] = ["other", 0]
    _check_reported(client, prompt, kind, "encoded for another model")


def test_the_next_run_is_fine(client, first_run):
    run = client.run(text_to_image(FlowMatchSampler=REDRAW))
    assert client.images(run, SAVE)[0].tobytes() == first_run[1]


def _check_reported(client, prompt: dict, kind: str, text: str) -> None:
    run = client.run(prompt)
    assert run.outcome == "execution_error"
    assert run.error["node_id"] == node_id(prompt, kind)
    assert text in run.error["exception_message"]
