"""A ComfyUI that is installed on this machine, and servers of it for tests."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
PACK = "sensenova-u1"
DEFAULT_FOLDER = Path("~/comfy/ComfyUI")  # where comfy-cli puts it
START_SECONDS = 180
LOG_TAIL = 4000
# What Python says where a package or the right release of it is missing, and ComfyUI of its own packages.
LACKING = re.compile(r"^(?:ModuleNotFoundError|ImportError): (.+)$|^(\S+ is not installed)\.$", re.MULTILINE)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # tiny models gain nothing from more, and lose much on a busy machine
NOT_FOUND = (
    "no ComfyUI found: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its interpreter if that is elsewhere)"
)


@dataclass(frozen=True)
class Installation:
    folder: Path
    python: Path


def run_python(installation: Installation, *arguments: str | Path, text: str = "") -> str:
    """Run ComfyUI's interpreter from the root of the repository; returns what it prints."""
    done = subprocess.run(
        [installation.python, *arguments],
        cwd=REPOSITORY,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": str(REPOSITORY)},
        input=text,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        _failed(installation, f"{arguments[0]} ended with status {done.returncode}:\n{done.stderr[-LOG_TAIL:]}")
    return done.stdout


def _failed(installation: Installation, message: str) -> NoReturn:
    """Something could not run in ComfyUI: that skips the test where ComfyUI is at fault, and fails it where we are."""
    if reason := what_it_lacks(installation):
        pytest.skip(reason)
    raise RuntimeError(message)


@cache
def what_it_lacks(installation: Installation) -> str | None:
    """Why this ComfyUI does not even start without this pack, in a line; None if it does, or fails otherwise."""
    with tempfile.TemporaryDirectory() as base:
        (Path(base) / "custom_nodes").mkdir()
        arguments = ["--cpu", "--quick-test-for-ci", "--base-directory", base, "--disable-all-custom-nodes"]
        done = subprocess.run(
            [installation.python, "main.py", *arguments, "--database-url", "sqlite:///:memory:"],
            cwd=installation.folder,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
        )
    lacking = LACKING.findall(done.stdout)
    if not done.returncode or not lacking:
        return None
    return f"the ComfyUI in {installation.folder} does not start, with this pack or without: {''.join(lacking[-1])}"


def shown_alone(installation: Installation, base: Path, workflows: dict[str, dict[str, Any]]) -> dict[str, dict]:
    """What workflows in API form (name -> workflow) give without ComfyUI: name -> node -> texts or pictures."""
    arguments = ("tests/live/reference.py", base / "models/sensenova", base / "input")
    return json.loads(run_python(installation, *arguments, text=json.dumps(workflows)))


def find() -> Installation | None:
    """The ComfyUI of COMFYUI_PATH, else the one at comfy-cli's default place."""
    folder = Path(os.environ.get("COMFYUI_PATH") or DEFAULT_FOLDER).expanduser()
    if not (folder / "main.py").is_file():
        return None
    candidates = (folder / ".venv/bin/python", folder / "venv/bin/python", Path(sys.executable))
    python = os.environ.get("COMFYUI_PYTHON") or next(path for path in candidates if path.exists())
    return Installation(folder, Path(python).expanduser())


def prepare_base(installation: Installation, base: Path) -> None:
    """Make `base` a base directory that holds nothing but this pack and the picture that ComfyUI comes with."""
    for name in ("custom_nodes", "models/sensenova", "user/default", "input"):
        (base / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(installation.folder / "input/example.png", base / "input")
    (base / "custom_nodes" / PACK).symlink_to(REPOSITORY)


class Server:
    """A running server on a free port, for a `with` block; it is killed at the end whatever happens."""

    def __init__(self, installation: Installation, base: Path, packs: tuple[str, ...] = (PACK,)):
        self.installation, self.base, self.packs = installation, base, packs
        self.log = base / "server.log"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        arguments = ["--cpu", "--base-directory", str(self.base), "--disable-all-custom-nodes"]
        arguments += ["--whitelist-custom-nodes", *self.packs, "--disable-api-nodes", "--port", str(self.port)]
        arguments += ["--database-url", "sqlite:///:memory:"]  # its default lies in ComfyUI's own folder
        arguments += ["--cache-classic"]  # its default forgets results while other programs fill the memory
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.installation.python, "main.py", *arguments],
                cwd=self.installation.folder,
                env=os.environ | ONE_THREAD,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def resident_bytes(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def threads(self) -> int:
        return psutil.Process(self.process.pid).num_threads()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None:
                ended = f"ComfyUI ended with status {self.process.returncode}"
                _failed(self.installation, f"{ended}:\n{self.log_text()[-LOG_TAIL:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"ComfyUI is not ready after {START_SECONDS} s:\n{self.log_text()[-LOG_TAIL:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/system_stats", timeout=10):
                return True
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
