"""Chinese: nothing is missing, nothing is left over, and the editor shows it."""

import json

import pytest

from tests.live import browser
from tools.translations import strings
from tools.translations.__main__ import nodes_of

WALL = {"width": 2800, "height": 2000}
REMEDY = "run python -m tools.translations"
ADD_ALL = """ids => {
    app.rootGraph.clear();
    ids.forEach((id, index) => {
        const node = LiteGraph.createNode(id);
        node.pos = [450 * (index % 5), 550 * Math.floor(index / 5)];
        app.rootGraph.add(node);
    });
}"""
# Node -> its title, its inputs' names (widgets' where there are any), its outputs' names. Slots that grow have a label
# of their own, which the editor makes of their ids.
SHOWN = """() => Object.fromEntries(app.rootGraph.nodes.map(node => [node.type, [
    node.title,
    Object.fromEntries([
        ...node.inputs.map(input => [input.name, input.localized_name]),
        ...(node.widgets ?? []).map(widget => [widget.name, widget.label]),
    ]),
    node.outputs.map(output => output.localized_name),
]]))"""


@pytest.fixture
def nodes(server) -> strings.Nodes:
    return nodes_of(server.url)


@pytest.fixture(scope="module")
def chinese_editor(server, chromium):
    with browser.editor(chromium, server.url, language="zh-CN") as opened:
        yield opened


def test_every_string_has_its_chinese(nodes):
    known = strings.chinese()
    missing = {text: "" for text in strings.english(nodes) if text not in known}
    assert not missing, f"{REMEDY}:\n{strings.written(missing)}"


def test_no_chinese_string_is_left_of_an_english_one_that_is_gone(nodes):
    assert strings.chinese().keys() - {*strings.english(nodes)} == set(), REMEDY


def test_the_files_are_as_the_nodes_are_now(client, nodes):
    known = strings.chinese()
    made = strings.files(nodes, lambda text: known.get(text, text))
    for name, contents in made.items():
        assert (strings.LOCALE / name).read_text(encoding="utf-8") == strings.written(contents), REMEDY
    assert client.get("/i18n")["zh"] == made["main.json"] | {"nodeDefs": made["nodeDefs.json"]}


def test_the_editor_shows_them(chinese_editor, nodes, screenshot):
    page = chinese_editor.page
    page.evaluate(ADD_ALL, [*nodes])
    shown = page.evaluate(SHOWN)
    _photograph(chinese_editor, screenshot)
    wanted = json.loads((strings.LOCALE / "nodeDefs.json").read_text(encoding="utf-8"))
    assert shown.keys() == wanted.keys()
    for id, (title, inputs, outputs) in shown.items():
        assert title == wanted[id]["display_name"]
        assert outputs == [entry["name"] for entry in wanted[id]["outputs"].values()]
        named = {name.replace(".", "_"): text for name, text in inputs.items() if name != "control_after_generate"}
        assert named == {name: wanted[id]["inputs"][name]["name"] for name in named}


def _photograph(editor, screenshot) -> None:
    """All nodes in a window so large that their words are drawn."""
    editor.page.set_viewport_size(WALL)
    editor.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    editor.page.wait_for_timeout(1000)
    screenshot(editor.page, "chinese")
    editor.page.set_viewport_size(browser.WINDOW)


def test_a_node_s_help_is_chinese(chinese_editor, screenshot):
    page = chinese_editor.page
    page.evaluate(ADD_ALL, ["SenseNovaCoreFlowMatchSampler"])
    page.evaluate("app.canvas.selectNode(app.rootGraph.nodes[0])")
    page.get_by_test_id("info-button").click()
    page.get_by_text("直接在像素空间绘制图像，每一步都显示当前的预测").wait_for()
    screenshot(page, "chinese_help")
    assert page.get_by_text("translated from").count() == 0
