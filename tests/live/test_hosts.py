"""A ComfyUI in which something around the pack is wrong: the log and the Loader say what, in a line."""

import json
import shutil
import subprocess

import pytest

from tests.live import comfyui
from tests.live.client import Client
from tests.live.odd_values import graph
from tests.live.workflows import SAVE, read
from tests.support.archive import files
from tools.node_list import FILE

SECOND = "sensenova-u1-second"
EXAMPLES = ("sensenova_scene_1.png", "sensenova_scene_1_masked.png", "sensenova_scene_2.png")
ABSENT = """raise ModuleNotFoundError("No module named 'PIL'", name="PIL")\n"""  # as Python says it


@pytest.fixture
def fresh(installation, tmp_path):
    comfyui.prepare_base(installation, tmp_path)
    return tmp_path


def copied(packs, name: str) -> None:
    """A copy of the pack, of the files that the registry's archive holds."""
    for path in files():
        (packs / name / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(comfyui.REPOSITORY / path, packs / name / path)


def test_a_second_copy_is_named_and_the_first_goes_on(installation, fresh):
    packs = fresh / "custom_nodes"
    copied(packs, SECOND)
    with comfyui.Server(installation, fresh, packs=(comfyui.PACK, SECOND)) as server, Client(server.url) as client:
        said = [line for line in server.log_text().splitlines() if "this pack is there twice" in line]
        owners = {node["python_module"].removeprefix("custom_nodes.") for node in ours(client)}
        [used] = owners  # whichever ComfyUI came to first
        [other] = {comfyui.PACK, SECOND} - owners
        words = (
            f"this pack is there twice: in {packs / used}, which is used, and in {packs / other}; remove one of them"
        )
        assert len(said) == 1 and said[0].endswith(f"SenseNova U1 has no nodes here: {words}")
        assert client.run(graph("Loader")).texts("tried")[-1].endswith(f"Warning: {words}")
        run = client.run(read("api/text_to_image.json"))
        assert run.outcome == "execution_success" and client.images(run, SAVE)


def ours(client: Client) -> list[dict]:
    return [node for id, node in client.get("/object_info").items() if id.startswith("SenseNovaCore")]


def test_the_archive_alone_draws_and_leaves_nothing_behind(installation, fresh):
    """In the server's folders stay ComfyUI's own files and what was asked for; the examples go with uninstall.py."""
    pack = fresh / "custom_nodes" / comfyui.PACK
    pack.unlink()
    copied(fresh / "custom_nodes", comfyui.PACK)
    before = outside(fresh)
    with comfyui.Server(installation, fresh) as server, Client(server.url) as client:
        assert {node["name"]: node["description"] for node in ours(client)} == json.loads(FILE.read_text("utf-8"))
        for name in ("edit_one_image", "interleave", "understand"):
            assert client.run(read(f"api/{name}.json")).outcome == "execution_success"
    new = outside(fresh) - before
    assert {path for path in new if path.startswith("input/")} == {"input/" + name for name in EXAMPLES}
    subprocess.run([installation.python, "uninstall.py"], cwd=pack, check=True)
    shutil.rmtree(pack)
    new = outside(fresh) - before
    assert {path.split("/")[0] for path in new} <= {"output", "temp", "user", "server.log"}
    made = [path for path in new if path.startswith("output/")]
    assert made and all(path.endswith((".png", "/document.md")) for path in made)
    assert not [path for path in new if path.startswith("user/") and "sensenova" in path.lower()]


def outside(base) -> set[str]:
    """What lies in a base directory, without the packs."""
    paths = {path.relative_to(base) for path in base.rglob("*") if path.is_file()}
    return {path.as_posix() for path in paths if path.parts[0] != "custom_nodes"}


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
    assert f'File "{pack}' not in log  # no traceback of ours; a ComfyUI without torchaudio may have its own
