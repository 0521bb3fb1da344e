"""A ComfyUI in which something around the pack is wrong: the log and the Loader say what, in a line."""

import shutil

import pytest

from tests.live import comfyui
from tests.live.client import Client
from tests.live.odd_values import graph

SECOND = "sensenova-u1-second"
ABSENT = """raise ModuleNotFoundError("No module named 'PIL'", name="PIL")\n"""  # as Python says it


@pytest.fixture
def fresh(installation, tmp_path):
    comfyui.prepare_base(installation, tmp_path)
    return tmp_path


def test_a_second_copy_is_named(installation, fresh):
    packs = fresh / "custom_nodes"
    for name in ("nodes", "sensenova_core"):
        shutil.copytree(comfyui.REPOSITORY / name, packs / SECOND / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(comfyui.REPOSITORY / "__init__.py", packs / SECOND)
    with comfyui.Server(installation, fresh, packs=(comfyui.PACK, SECOND)) as server, Client(server.url) as client:
        said = [line for line in server.log_text().splitlines() if "this pack is there twice" in line]
        assert len(said) == 1 and SECOND in said[0] and "remove one of them" in said[0]
        shown = client.run(graph("Loader")).texts("tried")
    assert any("Warning: this pack is there twice" in text for text in shown)


def test_a_missing_requirement_at_the_door(installation, fresh):
    """Of a package that ComfyUI needs as well, so that only the pack's own import fails."""
    pack = fresh / "custom_nodes" / comfyui.PACK
    pack.unlink()
    (pack / "nodes").mkdir(parents=True)
    shutil.copy(comfyui.REPOSITORY / "__init__.py", pack)
    shutil.copy(comfyui.REPOSITORY / "nodes/host.py", pack / "nodes")
    shutil.copytree(comfyui.REPOSITORY / "sensenova_core", pack / "sensenova_core")
    (pack / "nodes/extension.py").write_text(ABSENT)
    with comfyui.Server(installation, fresh) as server:
        log = server.log_text()
    told = [line for line in log.splitlines() if "SenseNova U1 has no nodes now" in line]
    assert len(told) == 1
    assert f"the package pillow is missing; run {installation.python} -m pip install --upgrade pillow" in told[0]
    assert "Traceback" not in log
