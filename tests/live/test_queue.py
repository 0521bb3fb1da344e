"""`sensenova queue` on a real ComfyUI that is killed, and killed itself: every job's result once, with its settings."""

import json
import os
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
TINY = {"Loader": {"checkpoint": "built-in demo"}, "FlowMatchSampler": {"steps": 2}}


@pytest.fixture
def server(installation: comfyui.Installation, tmp_path: Path) -> comfyui.Server:
    """One of its own, to kill; not started."""
    comfyui.prepare_base(installation, tmp_path / "base")
    return comfyui.Server(installation, tmp_path / "base")


def drawing() -> dict:
    """A workflow that takes a few hundredths of a second."""
    size = {"size": "custom", "size.width": 64, "size.height": 64}
    return tiny("text_to_image", Loader=TINY["Loader"], FlowMatchSampler=TINY["FlowMatchSampler"], Resolution=size)


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


def test_100_jobs_through_three_kills_of_the_server_and_one_of_the_client(server, tmp_path):
    api = drawing()
    prompts = [f"a {COLOURS[number % 5]} circle, number {number}" for number in range(JOBS)]
    table = tmp_path / "table.csv"
    table.write_text("prompt,seed\n" + "".join(f'"{prompt}",{7 * n}\n' for n, prompt in enumerate(prompts)))
    queue = Queue(tmp_path, api, str(table), "--server", server.url)
    with server:
        client = queue.start()
        until(lambda: len(queue.record()) >= 15)
    for jobs in (40, 70):
        with server:
            until(lambda jobs=jobs: len(queue.record()) >= jobs)
            if jobs == 40:
                client.kill()
                client.communicate()
                client = queue.start()
                until(lambda: len(queue.record()) >= 55)
    with server:
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
    assert {path.name for path in queue.output.iterdir() if path.suffix == ".png"} == {name for [name] in files.values()}
    # A job that runs as its server is killed is drawn again, and no other.
    assert len(list((server.base / "output").glob("*.png"))) <= JOBS + 3


def test_pictures_are_sent_and_texts_and_documents_come_back(server, tmp_path):
    photo = Image.effect_noise(PHOTO, 80).convert("RGB")
    photo.save(tmp_path / "mine.png")
    (tmp_path / "questions.jsonl").write_text('{"LoadImage.image": "mine.png", "question": "What is it?"}\n')
    workflow = tiny("understand", Loader=TINY["Loader"])
    loader = node_id(workflow, "LoadImage")
    with server:
        target = f"{node_id(workflow, 'Understand')}.{'question' if 'question' in str(workflow) else 'prompt'}=question"
        queue = Queue(tmp_path, workflow, str(tmp_path / "questions.jsonl"), "--set", target, "--server", server.url)
        queue.run()
        [line] = queue.record()
        assert any(name.endswith(".txt") for name in line["files"])
        history = json.loads(json.dumps(server_history(server)))[line["prompt_id"]]
        sent = history["prompt"][2][loader]["inputs"]["image"]
        assert Image.open(server.base / "input" / sent).tobytes() == photo.tobytes()

        story = tiny("interleave", Loader=TINY["Loader"], Interleave={"max_images": 1, "size.width": 128, "size.height": 128})
        (tmp_path / "stories.csv").write_text("Interleave.prompt\nHow to draw a star\n".replace(
            "Interleave", node_id(story, "Interleave")))
        queue = Queue(tmp_path, story, str(tmp_path / "stories.csv"), "--server", server.url)
        queue.run()
        files = queue.record()[-1]["files"]
        [page] = [name for name in files if name.endswith(("document.html", "document.md"))]
        assert (queue.output / page).read_bytes()


def server_history(server: comfyui.Server) -> dict:
    import urllib.request

    with urllib.request.urlopen(server.url + "/history") as answer:
        return json.load(answer)
