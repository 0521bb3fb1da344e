"""The subgraph blueprints: ComfyUI offers them, and each is a node that does what its workflow does."""

from typing import Any

import pytest

from tests.live.comfyui import PACK
from tests.live.workflows import BUILT_IN_SIDE, changed, node_id, read
from tools.workflows.blueprints import BLUEPRINTS, OUTSIDE

ADD_PICTURE = """([id, name]) => {
    const loaded = LiteGraph.createNode("LoadImage");
    app.rootGraph.add(loaded);
    loaded.widgets.find(widget => widget.name === "image").value = name;
    loaded.connect(0, app.rootGraph.getNodeById(id), 0);
}"""


def test_the_server_lists_them(client):
    listed = [one for one in client.get("/global_subgraphs").values() if one["info"]["node_pack"].endswith(PACK)]
    assert {one["name"] for one in listed} == {blueprint.title for blueprint in BLUEPRINTS}


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda blueprint: blueprint.workflow)
def test_what_is_dropped_does_what_its_workflow_does(editor, blueprint, screenshot):
    workflow = read(f"api/{blueprint.workflow}.json")
    id = editor.drop(blueprint.title)
    if picture := node_id(workflow, "LoadImage"):
        editor.page.evaluate(ADD_PICTURE, [int(id), workflow[picture]["inputs"]["image"]])
    screenshot(editor.page, f"blueprint_{blueprint.workflow}")
    shown = set(editor.values(id))
    assert shown >= {name for _, name in blueprint.promoted}
    assert _work(editor.prompt()) == _work(workflow)


def test_the_first_one_draws(editor, client):
    editor.drop(BLUEPRINTS[0].title)
    prompt = changed(editor.prompt(), Loader={"checkpoint": "built-in demo"}, FlowMatchSampler={"steps": 2})
    saved = {"images": [node_id(prompt, "FlowMatchSampler"), 0], "filename_prefix": "blueprint"}
    run = client.run(prompt | {"save": {"class_type": "SaveImage", "inputs": saved}})
    assert run.outcome == "execution_success"
    assert client.images(run, "save")[0].size == (BUILT_IN_SIDE, BUILT_IN_SIDE)


def _work(prompt: dict[str, Any]) -> set[str]:
    """What nodes do, whatever their ids are; those that only show or save are left out."""

    def told(id: str) -> str:
        node = prompt[id]
        given = sorted(
            (name, f"{told(value[0])} {value[1]}" if isinstance(value, list) else plain(value))
            for name, value in node["inputs"].items()
        )
        return f"{node['class_type']}({given})"

    def plain(value: Any) -> Any:
        return float(value) if isinstance(value, int) else value  # 4 and 4.0 are one number in JavaScript

    left_out = set(OUTSIDE) - {"LoadImage"}
    return {told(id) for id, node in prompt.items() if node["class_type"] not in left_out}
