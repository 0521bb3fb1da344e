"""What installers and the registry read of the pack, what importing it costs, and what is left when it goes."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.archive import files
from tools import node_list, pack_pictures

ROOT = Path(__file__).parents[1]
HEAVY = ("accelerate", "huggingface_hub", "matplotlib", "tokenizers", "torch._dynamo", "transformers")
ICON_MOST, BANNER_RATIO = (400, 400), 21 / 9  # of the registry


def of_comfy(key: str) -> str:
    return re.search(rf'^{key} = "(.+?)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]


def test_node_list_is_that_of_the_nodes():
    """Or run python -m tools.node_list."""
    assert node_list.FILE.read_text(encoding="utf-8") == node_list.written()
    ids = re.findall(r'node_id="(\w+)"', "".join(path.read_text("utf-8") for path in (ROOT / "nodes").glob("*.py")))
    assert sorted(ids) == [*node_list.nodes()] and len(ids) >= 15


def test_icon_and_banner_are_of_the_registry_s_sizes():
    with Image.open(ROOT / of_comfy("Icon")) as icon, Image.open(ROOT / of_comfy("Banner")) as banner:
        assert icon.size <= ICON_MOST and icon.width == icon.height
        assert banner.width / banner.height == pytest.approx(BANNER_RATIO)


@pytest.mark.parametrize("name", ["icon", "banner"])
def test_icon_and_banner_are_what_the_script_draws(name):
    """Or run python -m tools.pack_pictures docs. Another release of Pillow may round an edge otherwise."""
    with Image.open(ROOT / f"docs/{name}.png") as there:
        apart = np.abs(np.asarray(there, np.float32) - np.asarray(getattr(pack_pictures, name)(), np.float32))
    assert apart.mean() < 0.5


def test_the_archive_holds_what_users_need_and_no_more():
    kept = files()
    needed = {"__init__.py", "LICENSE", "README.md", "node_list.json", "pyproject.toml", "requirements.txt"}
    assert needed <= kept and not {path.split("/")[0] for path in kept} & {"tests", "tools", "typings", ".github"}
    linked = re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert linked and {path for path in linked if not (ROOT / path).is_dir()} <= kept


def imports_of_nodes() -> str:
    """What importing all nodes imports of the engine, as statements."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "nodes").glob("*.py"))]
    found = [node for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 2]
    found = [node for node in found if node.module]
    for node in found:
        node.level = 0
    return "\n".join(map(ast.unparse, found))


def test_importing_the_nodes_imports_nothing_heavy():
    """Beside torch, numpy and PIL, which ComfyUI has imported by then."""
    script = f"import sys, torch\n{imports_of_nodes()}\n"
    script += f"print([name for name in {HEAVY} if name in sys.modules], 'sensenova_core.engine' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[] True"


@pytest.mark.parametrize("named", [True, False])
def test_uninstalling_takes_the_example_pictures_along(tmp_path, named):
    pack, folder = tmp_path / "custom_nodes/sensenova-u1", tmp_path / "input"
    shutil.copytree(ROOT / "workflows/pictures", pack / "workflows/pictures")
    shutil.copy(ROOT / "uninstall.py", pack)
    shutil.copytree(ROOT / "workflows/pictures", folder)
    first, second, *_ = sorted(folder.iterdir())
    first.write_bytes(b"changed by its user")
    (folder / "mine.png").write_bytes(second.read_bytes())
    arguments = [str(folder)] if named else []
    for _again in range(2):
        subprocess.run([sys.executable, "uninstall.py", *arguments], cwd=pack, check=True, capture_output=True)
        assert sorted(path.name for path in folder.iterdir()) == sorted([first.name, "mine.png"])
