"""The graph editor in a headless Chromium."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
)
SECONDS = 60  # to wait for anything
WINDOW = {"width": 1600, "height": 1000}
NODES_2 = "Comfy.VueNodes.Enabled"  # the setting, and how the server is told it: a POST to /settings
# Without the first, a fresh editor covers itself with the template browser; previews are off unless asked for.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Execution.PreviewMethod": "auto"}
# The editor opens a workflow of its own when it starts; one opened before that would be replaced by it.
READY = "() => window.app?.rootGraph?.nodes.length && window.app.extensionManager.workflow?.activeWorkflow"

MIDDLE_OF_WIDGET = """([id, name]) => {
    app.canvas.draw(true, true);  // widgets may have moved since the last frame
    const node = app.rootGraph.getNodeById(id);
    const widget = node.widgets.find(widget => widget.name === name);
    const middle = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
    const [x, y] = app.canvas.ds.convertOffsetToCanvas(middle);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return [canvas.left + x, canvas.top + y];
}"""
PUT = """([id, name, value]) => {
    const widget = app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
}"""
# [title, x, y, width, height] of each node with its title bar, in the graph's units: with "Nodes 2.0" as it is drawn.
BOXES = """() => app.rootGraph.nodes.map(node => {
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`);
    if (!LiteGraph.vueNodesMode || !drawn)
        return [node.title, node.pos[0], node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT,
            node.size[0], node.size[1] + LiteGraph.NODE_TITLE_HEIGHT];
    const { left, top, width, height } = drawn.getBoundingClientRect(), scale = app.canvas.ds.scale;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = app.canvas.ds.convertCanvasToOffset([left - canvas.left, top - canvas.top]);
    return [node.title, x, y, width / scale, height / scale];
})"""
GROUPS = "() => app.rootGraph.groups.map(group => [...group.pos, ...group.size])"
# What a node says while it runs, as an expression for `Editor.node`; the editor takes its value for HTML, and Markdown.
SAID = """(node.widgets?.find(widget => widget.name === "$$node-text-preview")?.value ?? "")
    .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&").replaceAll("  \\n", "\\n")"""


def missing() -> str | None:
    """Why no browser can be started, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None if _executable() else f"no browser found on the PATH: {', '.join(NAMES)}"


def _executable() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def write_settings(base: Path, **more: Any) -> None:
    """Set the editor up in a base directory, before its server starts."""
    (base / "user/default/comfy.settings.json").write_text(json.dumps(SETTINGS | more), encoding="utf-8")


@contextlib.contextmanager
def launched() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_executable(), args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def editor(browser: "Browser", url: str, language: str = "en-US") -> Iterator["Editor"]:
    """The editor of the server at `url`, ready for work, in the language of whose browser it is."""
    context = browser.new_context(viewport=WINDOW, locale=language)
    try:
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(url)
        page.wait_for_function(READY, timeout=SECONDS * 1000)
        yield Editor(page)
    finally:
        context.close()


class Editor:
    """What a user does in the graph editor. Nodes are named by id, widgets by name."""

    def __init__(self, page: "Page"):
        self.page = page

    def open(self, workflow: dict[str, Any], name: str) -> None:
        self.page.evaluate("([workflow, name]) => app.loadGraphData(workflow, true, true, name)", [workflow, name])
        self.page.wait_for_timeout(1000)  # for anything that it may have to say about the workflow

    def saved(self) -> dict[str, Any]:
        """The workflow as File > Export writes it."""
        return json.loads(self.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).workflow)"))

    def prompt(self) -> dict[str, Any]:
        """What Run would send, in API form."""
        return json.loads(self.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))

    def node(self, id: str, expression: str) -> Any:
        """The value of a JavaScript expression about `node`."""
        return self.page.evaluate(
            f"id => {{ const node = app.rootGraph.getNodeById(id); return {expression} }}", int(id)
        )

    def values(self, id: str) -> dict[str, Any]:
        """Widget -> value, without what the editor shows on the node by itself ($$...)."""
        widgets = self.node(id, "Object.fromEntries(node.widgets.map(widget => [widget.name, widget.value]))")
        return {name: value for name, value in widgets.items() if not name.startswith("$$")}

    def wait_for(self, id: str, expression: str) -> Any:
        """Until an expression about `node` is true; returns its value at that moment."""
        condition = f"id => {{ const node = app.rootGraph.getNodeById(id); return {expression} }}"
        return self.page.wait_for_function(condition, arg=int(id), timeout=SECONDS * 1000, polling=20).json_value()

    def overlaps(self) -> list[tuple[str, str]]:
        """Pairs of nodes of which one covers a part of the other."""
        return [(one, other) for (one, *box), (other, *under) in combinations(self._boxes(), 2) if _overlap(box, under)]

    def outside(self) -> list[str]:
        """Nodes of which a part is in no group."""
        groups = self.page.evaluate(GROUPS)
        return [title for title, *box in self._boxes() if not any(_within(box, group) for group in groups)]

    def _boxes(self) -> list[list]:
        return self.page.evaluate(BOXES)

    def hover(self, id: str, widget: str) -> tuple[float, float]:
        x, y = self.page.evaluate(MIDDLE_OF_WIDGET, [int(id), widget])
        self.page.mouse.move(x, y)
        return x, y

    def choose(self, id: str, widget: str, option: str) -> None:
        """Pick from a combo's menu."""
        self.page.mouse.click(*self.hover(id, widget))
        self.page.locator(".litecontextmenu .litemenu-entry").get_by_text(option, exact=True).click()

    def put(self, id: str, **values: Any) -> None:
        """Set widgets that have no others depending on them."""
        for name, value in values.items():
            self.page.evaluate(PUT, [int(id), name, value])

    def type_number(self, id: str, widget: str, value: int) -> None:
        self.page.mouse.click(*self.hover(id, widget))
        field = self.page.locator(".graphdialog input")
        field.fill(str(value))
        field.press("Enter")

    def drop(self, title: str) -> str:
        """Find a node by its name as a user does, on an empty graph; the id of what is put down."""
        page = self.page
        page.evaluate("app.rootGraph.clear()")
        page.wait_for_timeout(500)  # for the canvas to be drawn without what was there
        page.mouse.dblclick(800, 500)
        page.locator("input:focus").fill(title)
        page.get_by_text(title, exact=True).first.wait_for()
        page.keyboard.press("Enter")
        page.wait_for_function("app.rootGraph.nodes.length === 1")
        page.wait_for_timeout(500)
        page.mouse.move(900, 400, steps=5)  # until it is put down, it hangs at the pointer
        page.mouse.click(900, 400, delay=100)
        page.wait_for_function("!app.rootGraph.nodes[0].flags.ghost")
        return str(page.evaluate("app.rootGraph.nodes[0].id"))

    def run(self) -> None:
        self.page.get_by_test_id("queue-button").click()


def _overlap(one: list[float], other: list[float]) -> bool:
    """Boxes as (x, y, width, height)."""
    (x, y, width, height), (u, v, columns, rows) = one, other
    return x < u + columns and u < x + width and y < v + rows and v < y + height


def _within(one: list[float], other: list[float]) -> bool:
    (x, y, width, height), (u, v, columns, rows) = one, other
    return u <= x and x + width <= u + columns and v <= y and y + height <= v + rows
