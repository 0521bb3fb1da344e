"""A real ComfyUI with this pack and tiny checkpoints, started once, and clients and browsers that use it."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live import browser, checkpoints, comfyui, pictures
from tests.live.client import Client, Run
from tests.live.workflows import SIDE, text_to_image

GOLDEN = comfyui.REPOSITORY / "tests/golden/checkpoints/tiny-u15"


@pytest.fixture(scope="session", autouse=True)
def terminated_as_interrupted():
    """SIGTERM ends the tests as Ctrl-C does, so that no server is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def installation() -> comfyui.Installation:
    found = comfyui.find()
    if found is None:
        pytest.skip(comfyui.NOT_FOUND)
    return found


@pytest.fixture(scope="session")
def models(installation: comfyui.Installation, base: Path) -> Path:
    """The server's models/sensenova: demo; tiny-u15, which has the other kind of head, and three like it; deep."""
    folder = base / "models/sensenova"
    comfyui.run_python(installation, "-m", "tools.tiny_checkpoint", folder / "demo")
    shutil.copytree(GOLDEN, folder / GOLDEN.name)
    checkpoints.talkative(GOLDEN, folder / "talkative")
    checkpoints.modest(folder / "talkative", folder / "modest", SIDE)
    checkpoints.brief(GOLDEN, folder / "brief")
    checkpoints.deep(folder / "deep")
    return folder


@pytest.fixture(scope="session")
def base(installation: comfyui.Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comfyui")
    comfyui.prepare_base(installation, folder)
    browser.write_settings(folder)
    pictures.write(folder / "input")
    return folder


@pytest.fixture(scope="session")
def server(installation: comfyui.Installation, base: Path, models: Path) -> Iterator[comfyui.Server]:
    with comfyui.Server(installation, base) as running:
        yield running


@pytest.fixture
def client(server: comfyui.Server) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def first_run(server: comfyui.Server) -> tuple[Run, bytes]:
    """The tiny text-to-image run that others are compared with, and its pixels."""
    with Client(server.url) as client:
        run = client.run(text_to_image())
        return run, client.images(run, "5")[0].tobytes()


@pytest.fixture(scope="session")
def chromium():
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.launched() as running:
        yield running


@pytest.fixture(scope="module")
def editor(server: comfyui.Server, chromium) -> Iterator[browser.Editor]:
    with browser.editor(chromium, server.url) as opened:
        yield opened


@pytest.fixture(scope="session")
def screenshot(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """(page, name) keeps a picture of the page, in LIVE_SCREENSHOTS if that is set."""
    folder = Path(os.environ.get("LIVE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=folder / f"{name}.png")
