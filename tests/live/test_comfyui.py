"""A ComfyUI that cannot start skips what needs it; one that fails because of this pack does not."""

import sys
from pathlib import Path

import pytest

from tests.live import comfyui

LACKING = "import a_package_that_is_not_there"
FAILING_WITH_THE_PACK = "import sys\nassert '--whitelist-custom-nodes' not in sys.argv, 'the pack is to blame'"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """(text of main.py) -> the ComfyUI found in a folder with that alone."""

    def made(main: str) -> comfyui.Installation:
        folder = tmp_path / "ComfyUI"
        folder.mkdir()
        (folder / "main.py").write_text(main, encoding="utf-8")
        monkeypatch.setenv("COMFYUI_PATH", str(folder))
        monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
        return comfyui.find()

    return made


def start(installation: comfyui.Installation, base: Path) -> None:
    with comfyui.Server(installation, base):
        pass


def test_what_a_comfyui_lacks_is_the_reason_to_skip(fake, tmp_path):
    installation = fake(LACKING)
    with pytest.raises(pytest.skip.Exception, match="No module named 'a_package_that_is_not_there'") as skipped:
        start(installation, tmp_path)
    assert str(installation.folder) in str(skipped.value) and "\n" not in str(skipped.value)
    with pytest.raises(pytest.skip.Exception, match="a_package_that_is_not_there"):
        comfyui.run_python(installation, "-c", "import a_package_that_is_not_there")


def test_a_comfyui_that_starts_without_the_pack_only_fails(fake, tmp_path):
    with pytest.raises(RuntimeError, match="the pack is to blame"):
        start(fake(FAILING_WITH_THE_PACK), tmp_path)


def test_a_script_that_fails_in_a_whole_comfyui_fails(fake):
    with pytest.raises(RuntimeError, match="No module named 'another_package'"):
        comfyui.run_python(fake(""), "-c", "import another_package")


def test_other_reasons_not_to_start_fail(fake, tmp_path):
    with pytest.raises(RuntimeError, match="out of order"):
        start(fake("raise SystemExit('out of order')"), tmp_path)
