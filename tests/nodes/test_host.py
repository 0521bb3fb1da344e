"""A host that is too old for the pack: one line says which part, and what to do. Other programs stand in for it."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAILS = "raise AttributeError('HiDreamO1Pixel')"  # as an import does that needs a later ComfyUI
WORKS = "class SenseNovaCoreExtension: pass"
HOST = """
import asyncio, importlib.util, logging, sys, types
from importlib import metadata
comfyui, torch, python, modules = {comfyui!r}, {torch!r}, {python!r}, {modules!r}
for name in ("comfyui_version", *modules):
    sys.modules[name] = types.ModuleType(name)
sys.modules["comfyui_version"].__version__ = comfyui
metadata.version = lambda package: torch
logging.basicConfig(format="%(message)s", stream=sys.stdout)
spec = importlib.util.spec_from_file_location("pack", "__init__.py")
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
sys.version_info = python or sys.version_info
spec.loader.exec_module(pack)
if "comfy_api.latest" in modules:
    try:
        print(type(asyncio.run(pack.comfy_entrypoint())).__name__)
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""
MODULES = ("folder_paths", "comfy_api.latest")  # of every ComfyUI that knows nodes of this kind


@pytest.fixture
def pack(tmp_path) -> Path:
    """What of the pack is there before its nodes."""
    for name in ("__init__.py", "nodes/host.py", "sensenova_core/__init__.py", "sensenova_core/errors.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def said(pack: Path, nodes: str, **host) -> str:
    host = {"comfyui": "0.33.0", "torch": "2.13.0+cu130", "python": None, "modules": MODULES} | host
    (pack / "nodes/extension.py").write_text(nodes)
    command = [sys.executable, "-c", HOST.format(**host)]
    ran = subprocess.run(command, cwd=pack, capture_output=True, text=True, check=True)
    assert ran.stderr == "" and ran.stdout.count("\n") == 1
    return ran.stdout.strip()


def test_what_is_needed_is_what_pyproject_says():
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    here = re.search(r"^NEEDED = (.+)$", (ROOT / "nodes/host.py").read_text(encoding="utf-8"), re.M)[1]
    needed = {name: ".".join(map(str, version)) for name, version in ast.literal_eval(here).items()}
    assert f'requires-comfyui = ">={needed["ComfyUI"]}.0"' in told and f'"torch>={needed["torch"]}"' in told
    oldest = re.search(r"^OLDEST_PYTHON = \((\d+), (\d+)\)", (ROOT / "__init__.py").read_text(), re.M)
    assert f'requires-python = ">={oldest[1]}.{oldest[2]},' in told


@pytest.mark.parametrize("nodes", [FAILS, "import a_module_that_is_not_there"])
@pytest.mark.parametrize(
    "host, words",
    [
        ({"comfyui": "0.18.1"}, r"ComfyUI 0\.18\.1 is too old, this pack needs 0\.22 or later; update ComfyUI"),
        ({"torch": "2.4.1+cu121"}, r"torch 2\.4\.1\+cu121 is too old, this pack needs 2\.5 or later; update it as .*"),
        ({"comfyui": "0.3.75", "torch": "2.3.0"}, r"ComfyUI 0\.3\.75 .*; torch 2\.3\.0 .*"),
    ],
)
def test_too_old(pack, nodes, host, words):
    assert re.fullmatch(f"RuntimeError: SenseNova U1 has no nodes now: {words}", said(pack, nodes, **host))


def test_too_old_a_python_reads_no_other_file(pack):
    (pack / "nodes/host.py").write_text("raise SyntaxError")
    told = said(pack, "raise SyntaxError", python=(3, 9, 18, "final", 0))
    assert told.startswith(
        "RuntimeError: SenseNova U1 has no nodes now: Python 3.9.18 is too old, this pack needs 3.10 "
    )


@pytest.mark.parametrize("python", [None, (3, 9, 18, "final", 0)])
def test_a_comfyui_that_asks_for_no_nodes_of_this_kind(pack, python):
    told = said(pack, FAILS, comfyui="0.3.47", modules=("folder_paths",), python=python)
    assert told.startswith("SenseNova U1 has no nodes now: ") and ("0.3.47" if python is None else "3.9.18") in told


def test_what_is_not_the_host_s_fault_is_not_put_on_it(pack):
    assert said(pack, FAILS) == "AttributeError: HiDreamO1Pixel"
    assert said(pack, WORKS) == said(pack, WORKS, comfyui="0.22.0", torch="2.5.0") == "SenseNovaCoreExtension"
