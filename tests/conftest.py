"""What all tests share: engines on the tiny checkpoints, and copies of checkpoints to break."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core.system.cache import FOLDER
from tests.support.golden_set import checkpoint

REPOSITORY = Path(__file__).parent.parent
# Files that take long together: `make live` runs them, `make test` does not.
LONG = {
    *("live/test_blueprints", "live/test_core_samplers", "live/test_door", "live/test_editor", "live/test_editor_runs"),
    *("live/test_editor_text", "live/test_fresh", "live/test_hosts", "live/test_importing", "live/test_ksampler"),
    *("live/test_listing", "live/test_memory", "live/test_painting", "live/test_patcher", "live/test_pretended_card"),
    *("live/test_queue", "live/test_streaming", "live/test_translations", "live/test_widgets", "live/test_workflows"),
    *("cli/test_streams", "demo/test_demo_model", "hub/test_download"),
    *("memory/test_changed_files", "model/test_compiled"),
}


class RepositoryIsAFolder:
    """The `__init__.py` at the root is ComfyUI's door into the pack; pytest would import it as a package of tests."""

    @pytest.hookimpl
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == REPOSITORY else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How several processes share the tests: what needs the running ComfyUI goes to one of them, which starts it, and
    first, as it takes longest; the other files go to whoever is free."""
    for item in items:
        if f"{item.path.parent.name}/{item.path.stem}" in LONG:
            item.add_marker(pytest.mark.long)
    live = {item.path for item in items if "server" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in live)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ComfyUI" if item.path in live else str(item.path)))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RepositoryIsAFolder())
    config.addinivalue_line("markers", "cuda: needs a real card, and is skipped without one")
    config.addinivalue_line("markers", "long: run by `make live`, and not by `make test`")
    config.addinivalue_line("markers", "cuda: needs a real card")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models are tiny, and two threads on a busy machine wait for each other: 20 times slower was measured."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """What tests find out about this machine is not remembered for its user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def engines() -> Callable[[str], sensenova_core.Engine]:
    """Name of a tiny checkpoint -> its engine in float32, loaded once. Tests leave its weights as they are."""
    loaded: dict[str, sensenova_core.Engine] = {}

    def engine(name: str) -> sensenova_core.Engine:
        if name not in loaded:
            loaded[name] = sensenova_core.load(checkpoint(name))
        return loaded[name]

    return engine


@pytest.fixture
def engine() -> sensenova_core.Engine:
    """An engine of its own, to break."""
    return sensenova_core.load(checkpoint("tiny-u15"))


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[..., Path]:
    """(name, config=edit, weights=edit) -> a writable copy of a tiny checkpoint, changed by these functions."""

    def copy(name: str = "tiny-u15", config=None, weights=None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in checkpoint(name).iterdir():
            shutil.copyfile(file, folder / file.name)
        if config:
            edit_json(folder / "config.json", config)
        if weights:
            tensors = load_file(folder / "model.safetensors")
            weights(tensors)
            save_file(tensors, folder / "model.safetensors")
        return folder

    return copy


def edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
