"""A setting that is new in settings.py is a widget of its nodes, and reaches the engine, with no edit in nodes/."""

import json
import shutil

import pytest

from tests.live import comfyui

# What a copy of the pack gains: before which line of settings.py -> the lines.
GAINED = {
    "    norm: str = _setting(": '    look: float = _setting(0.5, "How.", usual=(0.0, 1.0), step=0.1)\n',
    "    shift: float = _setting(": '    swing: int = _setting(3, "How far.", low=0, usual=(0, 9))\n',
}


@pytest.fixture(scope="module")
def seen(installation, tmp_path_factory) -> dict[str, dict]:
    pack = tmp_path_factory.mktemp("pack")
    shutil.copy(comfyui.REPOSITORY / "__init__.py", pack)
    for name in ("nodes", "sensenova_core"):
        shutil.copytree(comfyui.REPOSITORY / name, pack / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = pack / "sensenova_core/settings.py"
    text = file.read_text(encoding="utf-8")
    for line, gained in GAINED.items():
        assert text.count(line) == 1
        text = text.replace(line, gained + line)
    file.write_text(text, encoding="utf-8")
    return json.loads(comfyui.run_python(installation, "tests/live/widgets.py", installation.folder, pack))


@pytest.mark.parametrize("node, before", [("sampler", "feather"), ("document", "system_message")])
def test_new_widgets_follow_those_that_workflows_have_saved(seen, node, before):
    names = list(seen[node])
    assert names[names.index(before) + 1 :] == ["look", "swing"]
    assert seen[node]["look"] == [0.5, True] and seen[node]["swing"] == [3, True]


def test_they_reach_the_engine(seen):
    assert (seen["set"]["look"], seen["set"]["swing"], seen["set"]["cfg_interval"]) == (0.25, 7, [0.0, 0.5])


def test_a_workflow_without_them_draws_by_their_defaults(seen):
    assert (seen["left out"]["look"], seen["left out"]["swing"]) == (0.5, 3)
