"""Jobs of `sensenova queue` for servers that stand in for ComfyUI, and what must have come of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from sensenova_core.cli import main
from tests.support.stand_in import WORKFLOW, StandIn

ROOT = Path(__file__).parents[2]


class Batch:
    """A workflow and a table of so many jobs, and the folder that they go to."""

    def __init__(self, folder: Path, jobs: int):
        self.workflow, self.table, self.output = folder / "workflow.json", folder / "table.csv", folder / "out"
        self.workflow.write_text(json.dumps(WORKFLOW))
        self.jobs = [(f"prompt {number}", number) for number in range(jobs)]
        self.write(self.jobs)

    def write(self, jobs) -> None:
        self.table.write_text("prompt,seed\n" + "".join(f"{prompt},{seed}\n" for prompt, seed in jobs))

    def arguments(self, *servers: StandIn, **more) -> list[str]:
        flags = [text for name, value in more.items() for text in ("--" + name.replace("_", "-"), *value)]
        urls = [server.url for server in servers]
        return ["queue", str(self.workflow), str(self.table), "--output", str(self.output), *flags, "--server", *urls]

    def run(self, *servers: StandIn, **more) -> int:
        return main(self.arguments(*servers, **more))

    def started(self, *servers: StandIn) -> subprocess.Popen:
        command = [sys.executable, "-m", "sensenova_core", *self.arguments(*servers)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def record(self) -> list[dict]:
        path = self.output / "jobs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, jobs: int) -> None:
        until(lambda: len(self.record()) >= jobs)

    def check(self) -> None:
        """Every job has one result, of its own settings, and the folder has nothing else."""
        record = self.record()
        done = {line["line"]: line for line in record if not line["error"]}
        assert len(done) == len(self.jobs) == sum(not line["error"] for line in record)
        files = {"jobs.jsonl", ".sensenova-queue.lock"}
        for number, (prompt, seed) in enumerate(self.jobs, 2):
            picture, text = (self.output / name for name in done[number]["files"])
            with Image.open(picture) as made:
                nodes = json.loads(made.info["prompt"])
            assert (nodes["1"]["inputs"]["prompt"], nodes["2"]["inputs"]["seed"]) == (prompt, seed)
            assert picture.name.startswith(f"{number:04d}_") and text.read_text() == f"drew {prompt}"
            files |= {picture.name, text.name}
        assert {path.name for path in self.output.iterdir()} - {".sensenova-queue.jsonl"} == files


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that in 30 s"
        time.sleep(0.005)
