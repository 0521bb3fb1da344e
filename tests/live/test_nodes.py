"""What the server says about the pack: its nodes, and the Inspect node at work."""

import re
from dataclasses import replace

import pytest

from sensenova_core.report import inspect
from tests.live import comfyui

MODULE = "custom_nodes." + comfyui.PACK
PREFIX = "SenseNovaCore"


@pytest.fixture
def nodes(client) -> dict[str, dict]:
    return {id: node for id, node in client.get("/object_info").items() if node["python_module"] == MODULE}


def test_ids_start_alike(nodes):
    assert len(nodes) >= 12
    assert all(id.startswith(PREFIX) for id in nodes)


def test_every_node_is_described(nodes):
    assert [id for id, node in nodes.items() if not node["description"]] == []


def test_every_node_has_a_help_page(client, nodes):
    for id, node in nodes.items():
        assert client.text(f"/extensions/{comfyui.PACK}/docs/{id}.md").startswith(f"# {node['display_name']}\n")


def test_every_input_has_a_tooltip(nodes):
    assert [
        (id, name) for id, node in nodes.items() for name, options in _inputs(node) if not options.get("tooltip")
    ] == []


def test_every_output_has_a_tooltip(nodes):
    told = {id: node.get("output_tooltips") or [None] * len(node["output"]) for id, node in nodes.items()}
    assert [
        (id, name)
        for id, node in nodes.items()
        for name, tip in zip(node["output_name"], told[id], strict=True)
        if not tip
    ] == []


def test_tooltips_are_looked_for_in_what_grows_and_unfolds(nodes):
    names = {name for node in nodes.values() for name, _ in _inputs(node)}
    assert {"images", "image", "masks", "mask", "width", "text_seed"} <= names


def test_what_web_has_is_served(client):
    script = f"/extensions/{comfyui.PACK}/js/text_on_nodes.js"
    assert script in client.get("/extensions")
    assert "registerExtension" in client.text(script)


def _inputs(node: dict):
    """(name, options) of the visible inputs, those of a dynamic combo's options and of inputs that grow too."""
    for group in ("required", "optional"):
        for name, (_, *options) in node["input"].get(group, {}).items():
            options = options[0] if options else {}
            yield name, options
            if "template" in options:
                yield from _inputs(options["template"])
            for option in options.get("options", []):
                if isinstance(option, dict):
                    yield from _inputs({"input": option["inputs"]})


def test_inspect_gives_a_report_and_a_picture(client, models):
    run = client.run(_inspect("demo"))
    inspection = replace(inspect.inspect(models / "demo"), model="demo")
    assert run.outputs["2"]["text"] == [inspect.report(inspection, "bfloat16", ("shared",))]
    [picture] = client.images(run, "1")
    assert min(picture.size) > 100
    assert len(picture.getcolors(2**24)) > 2


def test_inspect_names_what_is_automatic(client, models):
    run = client.run(_inspect("automatic"))
    first = min(folder.name for folder in models.iterdir())
    inspection = replace(inspect.inspect(models / first), model=first)
    assert run.outputs["2"]["text"] == [inspect.report(inspection, "bfloat16", ("shared",))]


def test_memory_plan_says_what_a_card_will_hold(client):
    run = client.run(_plan(card="10GiB", guided=False))
    [text] = run.outputs["2"]["text"]
    assert run.texts("2")[-1] == run.outputs["3"]["text"][0] == text
    rows = dict(re.split(r"\s*: ", line, maxsplit=1) for line in text.splitlines())
    assert rows["task"] == "a picture of 256 x 256, batch of 1, 50 steps"
    assert rows["mode"] == "auto: both experts stay, 10.00 GiB to use"
    assert rows.keys() == {"task", "mode", "reading", "drawing", "device", "system", "assumed"}


def test_memory_plan_with_reasoning_has_two_parts(client):
    [text] = client.run(_plan(card="10GiB", images=2, think_tokens=100)).outputs["2"]["text"]
    thinking, drawing = text.split("\n\n")
    assert thinking.startswith("task     : reasoning of up to 100 tokens")
    assert drawing.startswith("task     : an edit of 2 images")


def test_memory_plan_goes_by_the_loader(client):
    [text] = client.run(_plan({"vram_mode": "low"}, card="10GiB")).outputs["2"]["text"]
    assert "mode     : low, 10.00 GiB to use" in text and "stream through 2 buffers" in text
    [text] = client.run(_plan({"max_memory": "2GiB"}, card="10GiB")).outputs["2"]["text"]
    assert "2.00 GiB to use" in text


def test_memory_plan_on_the_cpu_asks_for_a_card(client):
    [text] = client.run(_plan()).outputs["2"]["text"]
    assert "none was named" in text and "mapped from their files" in text


@pytest.mark.parametrize(
    "inputs, planned",
    [
        ({"task": "understand", "images": 1, "max_tokens": 9}, "an answer of up to 9 tokens after 4496"),
        ({"task": "interleave"}, "picture 8 of a document, 256 x 256"),
    ],
)
def test_memory_plan_of_text(client, inputs, planned):
    [text] = client.run(_plan(card="10GiB", **inputs)).outputs["2"]["text"]
    assert text.startswith(f"task     : {planned}") and "assumed  : a prompt of 400 tokens" in text
    [text] = client.run(_plan(card="10GiB", prompt_tokens=50, **inputs)).outputs["2"]["text"]
    assert "assumed  : a prompt of 50 tokens" in text


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"card": "lots"}, "cannot read 'lots'"),
        ({"card": "0=1GiB,1=1GiB"}, "write one size"),
        ({"card": "1MiB"}, "the smallest that works is"),
        ({"width": 260}, "width is 260"),
    ],
)
def test_memory_plan_says_what_cannot_be(client, wrong, said):
    run = client.run(_plan(**wrong))
    assert run.error["node_id"] == "2"
    assert said in run.error["exception_message"]


def _inspect(checkpoint: str) -> dict:
    """An Inspect node 1, and a preview 2 of its report."""
    inputs = {"checkpoint": checkpoint, "dtype": "bfloat16", "show_groups": "shared"}
    return {
        "1": {"class_type": PREFIX + "Inspect", "inputs": inputs},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def _plan(loader: dict | None = None, **inputs) -> dict:
    """A Loader, a Memory Plan node 2, and a preview 3 of what it hands on."""
    loading = {"checkpoint": "demo", "dtype": "auto", "vram_mode": "auto", "max_memory": "auto", "attention": "auto"}
    picture = {"width": 256, "height": 256, "batch_size": 1, "guided": True, "images": 0, "think_tokens": 0, "card": ""}
    return {
        "1": {"class_type": PREFIX + "Loader", "inputs": loading | (loader or {})},
        "2": {"class_type": PREFIX + "MemoryPlan", "inputs": picture | {"model": ["1", 0]} | inputs},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
