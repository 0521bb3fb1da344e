"""What the server says about the pack: its nodes, and the Inspect node at work."""

from dataclasses import replace

import pytest

from sensenova_core import inspect
from tests.live import comfyui

MODULE = "custom_nodes." + comfyui.PACK
PREFIX = "SenseNovaCore"


@pytest.fixture
def nodes(client) -> dict[str, dict]:
    return {id: node for id, node in client.get("/object_info").items() if node["python_module"] == MODULE}


def test_ids_start_alike(nodes):
    assert len(nodes) >= 11
    assert all(id.startswith(PREFIX) for id in nodes)


def test_every_node_is_described(nodes):
    assert [id for id, node in nodes.items() if not node["description"]] == []


def test_every_input_has_a_tooltip(nodes):
    assert [
        (id, name) for id, node in nodes.items() for name, options in _inputs(node) if not options.get("tooltip")
    ] == []


def _inputs(node: dict):
    """(name, options) of the visible inputs, those of a dynamic combo's options too."""
    for group in ("required", "optional"):
        for name, (_, *options) in node["input"].get(group, {}).items():
            options = options[0] if options else {}
            yield name, options
            for option in options.get("options", []):
                if isinstance(option, dict):
                    yield from _inputs({"input": option["inputs"]})


def test_inspect_gives_a_report_and_a_picture(client, models):
    run = client.run(
        {
            "1": {
                "class_type": PREFIX + "Inspect",
                "inputs": {"checkpoint": "demo", "dtype": "bfloat16", "show_groups": "shared"},
            },
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        }
    )
    inspection = replace(inspect.inspect(models / "demo"), model="demo")
    assert run.outputs["2"]["text"] == [inspect.report(inspection, "bfloat16", ("shared",))]
    [picture] = client.images(run, "1")
    assert min(picture.size) > 100
    assert len(picture.getcolors(2**24)) > 2
