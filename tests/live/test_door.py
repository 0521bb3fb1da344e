"""Whatever an input of a node is given: the server and its worker live, and a sentence says what is wrong."""

import json
import re
import time
import urllib.error
from typing import Any

import pytest

from sensenova_core import DEMO
from tests.live.client import Client
from tests.live.odd_values import NODES, VALUES, graph
from tests.live.workflows import SAVE, text_to_image
from tests.support.loras import matrices, write_lora

SECONDS = 60  # for all values of one input
QUOTED = 100  # characters of a value that a message may hold
OURS = {"SettingsError", "PromptError", "CheckpointError", "SenseNovaError", "ValueError"}
# What Python says where nobody has looked at a value before it was used.
RAW = re.compile(
    r"Traceback|\w+Error\b|\w+Exception\b|object has no attribute|unhashable|NoneType|not supported between|codec"
    r"|positional argument|unexpected keyword|not subscriptable|not iterable|invalid literal|must be real number"
)


@pytest.fixture(scope="module", autouse=True)
def lora(models):
    folder = models / "loras"
    had = folder.exists()
    write_lora(folder / "tiny.safetensors", matrices(DEMO), seed=0)
    yield
    (folder / "tiny.safetensors").unlink()
    if not had:
        folder.rmdir()


@pytest.mark.parametrize("kind", NODES)
def test_every_value_in_every_input(client, server, kind):
    wrong = []
    for name in NODES[kind]:
        prompts = {named: graph(kind, name, value) for named, value in VALUES.items()}
        for named, said in answers(client, prompts).items():
            if problem := what_is_wrong_with(said, VALUES[named]):
                wrong.append(f"{kind}.{name}, {named}: {problem}: {said!r:.400}")
        assert server.process.poll() is None, f"{kind}.{name} ended the server"
    assert not wrong, "\n".join([f"{len(wrong)} answers:", *wrong])
    if "," not in kind:
        assert client.run(graph(kind)).outcome == "execution_success"


def test_a_good_prompt_draws_after_all_of_them(client):
    run = client.run(text_to_image())
    assert run.outcome == "execution_success" and client.images(run, SAVE)


def answers(client: Client, prompts: dict[str, Any]) -> dict[str, Any]:
    """Name -> what came of a prompt: None where it ran, ComfyUI's own words, or a node's error."""
    said: dict[str, Any] = {}
    queued: dict[str, str] = {}
    for name, prompt in prompts.items():
        try:
            answer = client.post("/prompt", {"prompt": prompt})
            if answer["node_errors"]:  # of one that shows something of itself; what it needs is run all the same
                said[name] = answer
            queued[name] = answer["prompt_id"]
        except urllib.error.HTTPError as error:
            said[name] = json.loads(error.read())
    deadline = time.monotonic() + SECONDS
    while queued:
        name, id = next(iter(queued.items()))
        history = client.get(f"/history/{id}")
        if id in history:
            messages = dict(history[id]["status"]["messages"])
            said[name] = messages.get("execution_error") or said.get(name)
            del queued[name]
        else:
            assert time.monotonic() < deadline, f"no answer to {name}: the worker is busy, or dead"
            time.sleep(0.02)
    client.post("/history", {"clear": True})
    return said


def what_is_wrong_with(said: Any, value: Any) -> str | None:
    """None for an answer in one sentence, and where ComfyUI itself has refused the value."""
    if said is None or "exception_message" not in said:
        return None
    words = said["exception_message"]
    if said["exception_type"].split(".")[-1] not in OURS:
        return f"a raw {said['exception_type']}"
    if "\n" in words.strip() or RAW.search(words):
        return "no sentence of ours"
    if isinstance(value, str) and len(value) > QUOTED and value[: QUOTED + 1] in words:
        return "more than 100 characters are quoted"
    if any("\ud800" <= letter <= "\udfff" or ord(letter) < 32 for letter in words.strip()):
        return "characters that no terminal prints"
    return None
