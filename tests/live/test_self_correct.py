"""Self-correction on a real server: shown while it goes on, counted, and what it goes on from."""

import re
from itertools import pairwise

import pytest

from nodes.pace import PER_STEP
from sensenova_core.memory.plan_text import IN_PLACE
from tests.live.client import Client, Rejected, Run
from tests.live.workflows import SIDE, changed, node_id, sampled, tiny

STEPS, ROUNDS = 3, 2
WRITE = sampled(seed=1) | {"steps": STEPS, "rounds": ROUNDS}
SIZE = {"width": SIDE, "height": SIDE}
GOING_ON = tiny(
    "self_correct", Loader={"checkpoint": "talkative"}, SelfCorrect=WRITE, FlowMatchSampler={"steps": STEPS}
)
NODE, ALL, TEXT = (node_id(GOING_ON, name) for name in ("SelfCorrect", "SaveImage", "PreviewAny"))
RESULT = "result"
GOING_ON[RESULT] = {"class_type": "PreviewImage", "inputs": {"images": [NODE, 0]}}
CORRECT = changed(GOING_ON, SelfCorrect=SIZE)  # draws its first picture too
del CORRECT[NODE]["inputs"]["image"]
CONTENT = {"checkpoint": "brief"}  # it ends its turn at once
STEP = re.compile(r"^picture \d+: step", re.MULTILINE)
STOPS_IN = 3  # seconds, on a busy machine


@pytest.fixture(scope="module")
def made(server) -> Run:
    with Client(server.url) as client:
        return client.run(CORRECT)


def going_on(batch_size: int = 1, side: int = SIDE, **changes: dict) -> dict:
    """The workflow, with a picture of ComfyUI's own to go on from."""
    api = changed(CORRECT, **changes)
    inputs = {"width": side, "height": side, "batch_size": batch_size, "color": 0x3366CC}
    api["given"] = {"class_type": "EmptyImage", "inputs": inputs}
    api[NODE]["inputs"]["image"] = ["given", 0]
    return api


def test_critiques_grow_on_the_node_and_are_handed_on(made):
    texts = [text for text in made.texts(NODE) if text != IN_PLACE and not STEP.search(text)]
    assert len(set(texts)) >= 2  # at most ten a second
    [text] = made.outputs[TEXT]["text"]
    assert texts[-1] == text and text.count("[revised]") == ROUNDS
    assert [number for number in range(1, 9) if f"Picture {number}:" in text] == [*range(1, ROUNDS + 2)]
    for one, other in pairwise(texts[:-1]):
        assert other.startswith(one)


def test_every_step_shows_and_one_bar_counts_them_all(made):
    assert len(made.previews) == (ROUNDS + 1) * STEPS
    whole = (ROUNDS + 1) * STEPS * PER_STEP + CORRECT[NODE]["inputs"]["max_tokens"]
    values = [data["value"] for data in made.of("progress", NODE)]
    assert values == sorted(values) and values[-1] == whole
    assert {data["max"] for data in made.of("progress", NODE)} == {whole}


def test_all_pictures_come_and_the_last_is_the_result(client, made):
    pictures = [image.tobytes() for image in client.images(made, ALL)]
    [result] = client.images(made, RESULT)
    assert len(set(pictures)) == ROUNDS + 1 and result.tobytes() == pictures[-1] and result.size == (SIDE, SIDE)


def test_a_picture_that_is_given_is_not_drawn_again(client):
    run = client.run(going_on())
    pictures = client.images(run, ALL)
    assert len(run.previews) == ROUNDS * STEPS and len(pictures) == ROUNDS + 1
    assert pictures[0].getcolors() == [(SIDE * SIDE, (0x33, 0x66, 0xCC))]
    last = run.of("progress", NODE)[-1]
    assert last["value"] == last["max"] == ROUNDS * STEPS * PER_STEP + CORRECT[NODE]["inputs"]["max_tokens"]


def test_nothing_wrong_passes_through_unchanged(client):
    run = client.run(going_on(Loader=CONTENT))
    [result], [only] = client.images(run, RESULT), client.images(run, ALL)
    assert result.tobytes() == only.tobytes() and result.getcolors() == [(SIDE * SIDE, (0x33, 0x66, 0xCC))]
    assert "[nothing to correct]" in run.outputs[TEXT]["text"][0] and not run.previews


def test_references_and_what_the_sampler_drew_of_them(client):
    api = going_on()
    read = {"images.image0": ["given", 0], "max_pixels": 4096}
    api["read"] = {"class_type": "SenseNovaCoreImageCondition", "inputs": read}
    api[NODE]["inputs"] |= {"images": ["read", 0], "image": GOING_ON[NODE]["inputs"]["image"], "rounds": 1}
    api[node_id(GOING_ON, "TextEncode")]["inputs"]["images"] = ["read", 0]
    run = client.run(api)
    assert [image.size for image in client.images(run, ALL)] == [(SIDE, SIDE)] * 2
    assert len(run.previews) == 2 * STEPS


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (going_on(batch_size=3), "image is a batch of 3; give one picture"),
        (going_on(side=70), "the picture to correct is 70 x 70, and this model draws multiples of"),
        (changed(CORRECT, SelfCorrect={"prompt": " "}), "the prompt is empty, and pictures are compared with it"),
    ],
    ids=["batch", "size", "prompt"],
)
def test_mistakes_are_told(client, api, message):
    run = client.run(api)
    assert run.error["node_id"] == NODE and message in run.error["exception_message"]


def test_no_rounds_are_refused_at_once(client):
    with pytest.raises(Rejected, match="rounds"):
        client.run(changed(CORRECT, SelfCorrect={"rounds": 0}))


def test_interruption(client, made):
    long = changed(CORRECT, SelfCorrect={"steps": 1000})
    run, _, seconds = client.interrupted(long, lambda message: message.type == "preview")
    assert run.of("execution_interrupted")[0]["node_id"] == NODE and seconds < STOPS_IN
    again = client.run(changed(CORRECT, SelfCorrect={"max_tokens": 61}))
    assert [image.tobytes() for image in client.images(again, RESULT)] == [
        image.tobytes() for image in client.images(made, RESULT)
    ]
