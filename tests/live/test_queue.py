"""`sensenova queue` on a real ComfyUI that is killed, and killed itself: every job's result once, with its settings."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.live import comfyui
from tests.live.pictures import PHOTO
from tests.live.workflows import node_id, tiny

JOBS = 100
COLOURS = ("red", "green", "blue", "yellow", "white")
SECONDS = 120
BUILT_IN = {"checkpoint": "built-in demo"}


@pytest.fixture
def own_server(installation: comfyui.Installation, tmp_path: Path) -> comfyui.Server:
    """One of its own, to kill; not started."""
    comfyui.prepare_base(installation, tmp_path / "base")
    return comfyui.Server(installation, tmp_path / "base")


def drawing() -> dict:
    """A workflow that takes a few hundredths of a second."""
    size = {"size": "custom", "size.width": 64, "size.height": 64}
    return tiny("text_to_image", Loader=BUILT_IN, FlowMatchSampler={"steps": 2}, Resolution=size)


class Queue:
    def __init__(self, folder: Path, workflow: dict, *arguments: str):
        self.output = folder / "out"
        (folder / "workflow.json").write_text(json.dumps(workflow))
        self._command = [sys.executable, "-m", "sensenova_core", "queue", folder / "workflow.json", *arguments]

    def start(self) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(comfyui.REPOSITORY)}
        return subprocess.Popen(
            [*self._command, "--output", self.output],
            cwd=comfyui.REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self) -> str:
        client = self.start()
        said, errors = client.communicate(timeout=SECONDS)
        assert client.returncode == 0, said + errors
        return said

    def record(self) -> list[dict]:
        path = self.output / "jobs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it has not come to that in {SECONDS} s"
        time.sleep(0.002)


def test_100_jobs_through_three_kills_of_the_server_and_one_of_the_client(own_server, tmp_path):
    api = drawing()
    prompts = [f"a {COLOURS[number % 5]} circle, number {number}" for number in range(JOBS)]
    table = tmp_path / "table.csv"
    table.write_text("prompt,seed\n" + "".join(f'"{prompt}",{7 * n}\n' for n, prompt in enumerate(prompts)))
    queue = Queue(tmp_path, api, str(table), "--server", own_server.url)
    with own_server:
        client = queue.start()
        until(lambda: len(queue.record()) >= 15)
    with own_server:
        until(lambda: len(queue.record()) >= 40)
        client.kill()
        client.communicate()
        client = queue.start()
        until(lambda: len(queue.record()) >= 55)
    with own_server:
        until(lambda: len(queue.record()) >= 75)
    with own_server:
        said, errors = client.communicate(timeout=SECONDS)
    assert client.returncode == 0, said + errors

    record = queue.record()
    assert sorted(line["line"] for line in record) == list(range(2, JOBS + 2))
    assert not any(line["error"] for line in record)
    files = {line["line"]: line["files"] for line in record}
    for number, prompt in enumerate(prompts):
        [name] = files[number + 2]
        with Image.open(queue.output / name) as picture:
            sent = json.loads(picture.info["prompt"])
            picture.load()
        assert name.startswith(f"{number + 2:04d}_") and picture.size == (64, 64)
        assert sent[node_id(api, "TextEncode")]["inputs"]["prompt"] == prompt
        assert sent[node_id(api, "FlowMatchSampler")]["inputs"]["seed"] == 7 * number
    assert {path.name for path in queue.output.iterdir() if path.suffix == ".png"} == {
        name for [name] in files.values()
    }
    # A job that runs as its server is killed is drawn again, and no other.
    assert len(list((own_server.base / "output").glob("*.png"))) <= JOBS + 3


def test_pictures_are_sent_and_texts_come_back(server, client, tmp_path):
    photo = Image.effect_noise(PHOTO, 80).convert("RGB")
    photo.save(tmp_path / "mine.png")
    table = tmp_path / "questions.jsonl"
    table.write_text('{"LoadImage.image": "mine.png", "question": "What is it?"}\n')
    workflow = tiny("understand", Loader=BUILT_IN)
    queue = Queue(tmp_path, workflow, str(table), "--server", server.url)
    queue.run()
    [line] = queue.record()
    sent = client.get(f"/history/{line['prompt_id']}")[line["prompt_id"]]["prompt"][2]
    assert sent[node_id(workflow, "Understand")]["inputs"]["question"] == "What is it?"
    with Image.open(server.base / "input" / sent[node_id(workflow, "LoadImage")]["inputs"]["image"]) as received:
        assert received.tobytes() == photo.tobytes()
    assert any(name.endswith(".txt") and (queue.output / name).read_text() for name in line["files"])


def example(folder: Path, workflow: dict, url: str, *, prompts: list[str]) -> list[object]:
    """The command that runs it."""
    (folder / "workflow.json").write_text(json.dumps(workflow))
    return [
        sys.executable,
        comfyui.REPOSITORY / "docs/examples/queue_batch.py",
        folder / "workflow.json",
        url,
        *prompts,
    ]


def test_the_example_draws_each_prompt_once(server, tmp_path):
    command = example(tmp_path, drawing(), server.url, prompts=["a red ring", "like <image>", "a blue heart"])
    for steps in (["step 2 of 2"] * 2, []):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        assert [line.strip() for line in done.stdout.splitlines() if "step 2" in line] == steps
        assert "2: like <image>\n  failed: " in done.stdout and "more <image> than there are images" in done.stdout
    for number, prompt in {1: "a red ring", 3: "a blue heart"}.items():
        with Image.open(tmp_path / f"{number:04d}_1.png") as picture:
            assert json.loads(picture.info["prompt"])["2"]["inputs"]["prompt"] == prompt


def test_the_example_started_again_while_its_job_runs_follows_it(server, client, tmp_path):
    workflow = drawing()
    workflow[node_id(workflow, "FlowMatchSampler")]["inputs"]["steps"] = 400
    command = example(tmp_path, workflow, server.url, prompts=["a green ring"])
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    until(lambda: "step" in first.stdout.readline())
    first.kill()
    first.communicate()
    [job] = client.get("/queue")["queue_running"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0 and "step 400 of 400" in done.stdout, done.stderr
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert client.get(f"/history/{job[1]}")[job[1]]["prompt"][0] == job[0]  # what was sent first, and nothing since
    assert (tmp_path / "0001_1.png").is_file()


def test_a_document_comes_with_its_pictures(server, tmp_path):
    table = tmp_path / "stories.csv"
    table.write_text("SenseNovaCoreInterleave.prompt\nTell a story about a red circle in three pictures.\n")
    small = {"max_images": 2, "max_tokens": 300, "steps": 1, "size": "automatic"}
    workflow = tiny("interleave", Loader=BUILT_IN, Interleave=small)
    queue = Queue(tmp_path, workflow, str(table), "--server", server.url)
    queue.run()
    [page] = [queue.output / name for name in queue.record()[0]["files"] if name.endswith("/document.md")]
    named = re.findall(r"\((image_\d+\.png)\)", page.read_text())
    assert named and all((page.parent / name).is_file() for name in named)
