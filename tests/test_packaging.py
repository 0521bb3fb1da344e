"""The promises that installing makes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sensenova_core

ROOT = Path(__file__).parents[1]


def _names(lines: list[str]) -> set[str]:
    return {line for raw in lines if (line := raw.strip()) and not line.startswith("#")}


def _pyproject_dependencies() -> set[str]:
    block = re.search(r"^dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M).group(1)
    return set(re.findall(r'"([^"]+)"', block))


def test_requirements_are_the_dependencies_without_torch():
    requirements = _names((ROOT / "requirements.txt").read_text().splitlines())
    dependencies = _pyproject_dependencies()
    assert requirements == {name for name in dependencies if not name.startswith("torch")}
    assert any(name.startswith("torch>=2.5") for name in dependencies)


def test_the_version_is_the_same_wherever_it_is_read():
    """ComfyUI's Manager reads pyproject.toml as it stands; inside ComfyUI the package runs without being installed."""
    version = re.search(r'^version = "(\d+\.\d+\.\d+)"$', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
    released = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert sensenova_core.__version__ == version == released[0]


def test_types_of_the_package_are_for_those_who_install_it():
    assert (ROOT / "sensenova_core/py.typed").is_file()
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("module", ["sensenova_core", "sensenova_core.cli", "sensenova_core.queueing.running"])
def test_import_costs_nothing_heavy(module):
    script = f"import {module}, sys; print([name for name in ('torch', 'transformers', 'PIL') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_loading_and_drawing_do_not_import_torch_s_compiler():
    """It and sympy take a second or more, and nothing here is compiled."""
    script = "import sys, sensenova_core as core; engine = core.load(core.DEMO); "
    script += "list(engine.sample(engine.encode('a star'), width=64, height=64, steps=1)); "
    script += "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_pack_s_door_imports_nothing():
    script = "import sys, importlib.util as u; s = u.spec_from_file_location('pack', '__init__.py'); "
    script += "m = u.module_from_spec(s); before = set(sys.modules); s.loader.exec_module(m); "
    script += "print(sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_demo_checkpoint_without_layers_is_refused(tmp_path):
    command = [sys.executable, "-m", "tools.tiny_checkpoint", str(tmp_path / "demo"), "--layers", "0"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2 and "error: --layers is 0; give a whole number from 1" in ran.stderr
    assert "Traceback" not in ran.stderr and not list(tmp_path.iterdir())


def test_the_package_holds_every_module_and_the_protocol():
    modules = (ROOT / "sensenova_core").rglob("*.py")
    assert all((path.parent / "__init__.py").is_file() for path in modules)
    assert (ROOT / "sensenova_core/reading/protocol.json").is_file() and '"reading/*.json"' in (
        ROOT / "pyproject.toml"
    ).read_text()


def test_comfyui_takes_no_other_folder_for_the_workflows():
    """It serves the first of these folders that is there, and no other."""
    others = ("example_workflows", "example", "examples", "workflow")
    assert (ROOT / "workflows").is_dir() and not [name for name in others if (ROOT / name).exists()]


def test_the_core_never_imports_comfyui():
    pattern = re.compile(r"^\s*(from|import) (comfy|nodes|folder_paths|server|execution)\b", re.M)
    assert not [path for path in (ROOT / "sensenova_core").rglob("*.py") if pattern.search(path.read_text())]


def test_no_file_of_the_package_reads_pickles():
    pattern = re.compile(r"torch\.load\(|import pickle|weights_only")
    assert not [path for path in (ROOT / "sensenova_core").rglob("*.py") if pattern.search(path.read_text())]
