"""The shipped workflows in the real graph editor: they open as they were saved, and run."""

import urllib.request

import pytest

from tests.live import comfyui
from tests.live.browser import WINDOW
from tests.live.workflows import (
    FOLDER,
    LOADER,
    NAMES,
    PREFIX,
    RESOLUTION,
    SAMPLER,
    SAVE,
    file_of,
    inputs,
    read,
)
from tools.workflows import wires

LARGE = {"compare_norms", "self_correct_any_model"}  # several samplers in two rows
DRAWN_SIDE, DRAWN_STEPS = 768, 20  # long enough for a look at the node while it draws


def test_each_workflow_is_there_in_both_forms():
    assert [file_of(f"api/{name}.json") for name in NAMES] == sorted(FOLDER.glob("api/*.json"))


@pytest.fixture(scope="module", params=NAMES)
def opened(request, editor) -> tuple[str, dict]:
    """A workflow's name and file, open in the editor."""
    workflow = read(f"{request.param}.json")
    editor.open(workflow, request.param)
    return request.param, workflow


def test_opens_as_saved(editor, opened, screenshot):
    name, saved = opened
    screenshot(editor.page, f"opened_{name}")
    assert editor.page.get_by_test_id("error-overlay").count() == 0
    assert editor.page.get_by_role("dialog").count() == 0
    for node in saved["nodes"]:
        assert editor.node(node["id"], "node.type in LiteGraph.registered_node_types"), node["type"]
        if named := node.get("widgets_values_named"):
            assert editor.values(node["id"]) == named
    assert inputs(editor.prompt()) == inputs(read(f"api/{name}.json"))


def test_no_node_lies_on_another(editor, opened):
    assert editor.overlaps() == []


def test_all_of_it_can_be_read_at_once(editor, opened):
    """Templates open with everything in view; the editor leaves out text of less than 8 pixels, which has 14."""
    editor.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    editor.page.wait_for_timeout(500)
    least = 0.45 if opened[0] in LARGE else 8 / 14
    assert editor.page.evaluate("app.canvas.ds.scale") > least


def test_wires_run_where_the_saved_workflow_says(editor, opened):
    """tests/test_workflows.py takes the places of sockets from what is saved."""
    _, saved = opened
    for link, points in wires.routes(saved).items():
        _, source, output, target, slot, _ = next(one for one in saved["links"] if one[0] == link)
        begin = editor.node(source, f"[...node.getOutputPos({output})]")
        end = editor.node(target, f"[...node.getInputPos({slot})]")
        widget = editor.node(target, f"Boolean(node.inputs[{slot}].widget)")  # whose row is known once it is drawn
        assert begin == pytest.approx(points[0], abs=1)
        assert end[0] == pytest.approx(points[-1][0], abs=1)
        assert widget or end[1] == pytest.approx(points[-1][1], abs=1)


def test_template_browser_offers_the_workflows(editor, server, screenshot):
    page = editor.page
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_role("dialog").get_by_text(comfyui.PACK, exact=True).click()
    page.mouse.move(WINDOW["width"] / 2, WINDOW["height"] / 2)
    for name in NAMES:
        template = page.get_by_test_id(f"template-workflow-{PREFIX}{name}")
        if not template.count():
            page.mouse.wheel(0, WINDOW["height"] * 2)  # the rest comes when it is scrolled to
        template.wait_for()
        with urllib.request.urlopen(f"{server.url}/api/workflow_templates/{comfyui.PACK}/{PREFIX}{name}.json") as file:
            assert file.status == 200
    screenshot(page, "templates")
    page.mouse.wheel(0, -WINDOW["height"] * 9)
    page.get_by_test_id(f"template-workflow-{PREFIX}{NAMES[0]}").click()
    page.get_by_role("dialog").wait_for(state="hidden")
    assert inputs(editor.prompt()) == inputs(read(f"api/{NAMES[0]}.json"))


def test_run_without_the_checkpoint_says_so(editor, screenshot):
    editor.open(read("text_to_image.json"), "text_to_image")
    editor.put(LOADER, checkpoint="SenseNova-U1-8B-MoT")
    editor.run()
    overlay = editor.page.get_by_test_id("error-overlay")
    overlay.wait_for()
    overlay.get_by_text("View details").click()
    said = editor.page.get_by_text("checkpoint 'SenseNova-U1-8B-MoT' is not there").first
    said.wait_for()
    screenshot(editor.page, "no_checkpoint")
    assert "SenseNovaCoreLoader" in said.inner_text()


def test_tooltips(editor, screenshot):
    editor.open(read("text_to_image.json"), "text_to_image")
    editor.hover(RESOLUTION, "size")
    tooltip = editor.page.get_by_text("Ratio and width x height in pixels")
    tooltip.wait_for()
    screenshot(editor.page, "tooltip")


def test_draws(editor, screenshot):
    editor.open(read("text_to_image.json"), "text_to_image")
    editor.choose(LOADER, "checkpoint", "demo")
    editor.choose(RESOLUTION, "size", "custom")
    for side in ("size.width", "size.height"):
        editor.type_number(RESOLUTION, side, DRAWN_SIDE)
    editor.type_number(SAMPLER, "steps", DRAWN_STEPS)
    size = {"size": "custom", "size.width": DRAWN_SIDE, "size.height": DRAWN_SIDE}
    assert editor.prompt()[RESOLUTION]["inputs"] == size

    editor.run()
    editor.wait_for(SAMPLER, "node.imgs?.length && node.progress > 0.2")
    screenshot(editor.page, "drawing")
    assert editor.node(SAMPLER, "node.imgs[0].naturalWidth") == 512
    assert editor.node(SAVE, "node.imgs?.length ?? 0") == 0

    editor.wait_for(SAVE, "node.imgs?.[0]?.naturalWidth")
    screenshot(editor.page, "drawn")
    assert editor.node(SAVE, "node.imgs[0].naturalWidth") == DRAWN_SIDE
    assert editor.node(SAMPLER, "node.progress ?? null") is None
