"""Photograph the real editor after it has run the shipped workflows, for docs/gallery.md.

    python -m tools.workflows.gallery                 the pictures of the page, into docs/gallery
    python -m tools.workflows.gallery --all FOLDER    every workflow in both editors instead, to be looked at

All is drawn by the built-in demo model. Needs ComfyUI (COMFYUI_PATH), playwright and Chromium.
"""

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.live import browser, comfyui
from tests.live.client import Client
from tests.live.workflows import AUTOMATIC, NAMES, PREFIX, node_id, read
from tools.workflows.blueprints import BLUEPRINTS
from tools.workflows.opened import opened_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = comfyui.REPOSITORY / "docs/gallery"
CLASSIC, NODES_2 = "classic", "nodes2"
ENGLISH, CHINESE = "en-US", "zh-CN"
QUALITIES = (80, 75, 70, 65, 60)  # the first that makes a file no larger than
MOST_BYTES = 120_000
RUN_SECONDS = 600
SETTLE = 1500  # milliseconds, until pictures have come and all is drawn
CORNER = 1590, 990  # where the pointer is over nothing
END = """() => {
    window.ended = null;
    for (const type of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(type, event => { window.ended = [type, event.detail?.exception_message ?? ""]; });
}"""
CLOSE_OTHERS = """async () => {
    const opened = app.extensionManager.workflow;
    for (const one of [...opened.openWorkflows]) if (one !== opened.activeWorkflow) await opened.closeWorkflow(one);
}"""
ADD_SAVE = """id => {
    const node = app.rootGraph.getNodeById(id), saved = LiteGraph.createNode("SaveImage");
    app.rootGraph.add(saved);
    saved.pos = [node.pos[0] + node.size[0] + 60, node.pos[1]];
    saved.setSize([380, 438]);
    node.connect(0, saved, 0);
}"""
SETTINGS = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}  # nothing but the workflow
EMPTY = {"nodes": [], "links": [], "groups": [], "extra": {}, "last_node_id": 0, "last_link_id": 0, "version": 0.4}
NOTICES = '[data-testid="queue-notification-banner"] { display: none }'  # which would be gone in a moment
FIT = "app.extensionManager.command.execute('Comfy.Canvas.FitView')"


@dataclass(frozen=True)
class Picture:
    """name: of a workflow that is run, or of one of `OTHERS`. values: class of a node -> widgets to change before."""

    name: str
    editor: str = CLASSIC
    language: str = ENGLISH
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        ends = [end for end, wanted in (("nodes2", self.editor == NODES_2), ("zh", self.language == CHINESE)) if wanted]
        return "_".join([self.name, *ends]) + ".jpg"


PICTURES = (
    Picture("text_to_image"),
    Picture("edit_one_image"),
    Picture("understand"),
    Picture("self_correct"),
    Picture("ksampler"),
    Picture("outpaint"),
    Picture("low_memory", values={"Loader": {"max_memory": "14MiB"}}),
    Picture("blueprint"),
    Picture("templates"),
    Picture("edit_dual_guidance", language=CHINESE),
    Picture("think", NODES_2),
    Picture("inpaint", NODES_2),
    Picture("interleave", NODES_2),
    Picture("compare_norms", NODES_2),
    Picture("seeds_batch", NODES_2),
    Picture("memory_plan", NODES_2, values={"MemoryPlan": {"card": "12MiB"}}),
)


@contextmanager
def opened(server: comfyui.Server, chromium: "Browser", kind: str, language: str) -> Iterator[browser.Editor]:
    with Client(server.url) as client:
        client.post("/settings", {browser.NODES_2: kind == NODES_2})
    with browser.editor(chromium, server.url, language) as editor:
        yield editor


def run(editor: browser.Editor, picture: Picture) -> None:
    """Open a shipped workflow, at a size that the demo model draws well, and run it to its end."""
    api = read(f"api/{picture.name}.json")
    editor.open(read(f"{picture.name}.json"), f"{PREFIX}{picture.name}")
    editor.page.evaluate(CLOSE_OTHERS)
    for kind, values in ({"Resolution": {"size": AUTOMATIC}} | picture.values).items():
        if id := node_id(api, kind):
            editor.put(id, **values)
    finish(editor)


def blueprint(editor: browser.Editor, picture: Picture) -> None:
    """A whole workflow as one node, found by its name, and its result."""
    editor.open(EMPTY, BLUEPRINTS[0].title)
    editor.page.evaluate(CLOSE_OTHERS)
    id = editor.drop(BLUEPRINTS[0].title)
    editor.page.evaluate(ADD_SAVE, int(id))
    finish(editor)


def templates(editor: browser.Editor, picture: Picture) -> None:
    """The workflows as ComfyUI offers them."""
    page = editor.page
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_role("dialog").get_by_text(comfyui.PACK, exact=True).click()
    page.get_by_test_id(f"template-workflow-{PREFIX}{NAMES[0]}").wait_for()


OTHERS = {"blueprint": blueprint, "templates": templates}


def finish(editor: browser.Editor) -> None:
    page = editor.page
    page.evaluate(END)
    editor.run()
    page.wait_for_function("() => window.ended", timeout=RUN_SECONDS * 1000)
    outcome, reason = page.evaluate("window.ended")
    if outcome != "execution_success":
        raise RuntimeError(f"{outcome}: {reason}")
    page.wait_for_timeout(SETTLE)


def photograph(editor: browser.Editor, target: Path) -> None:
    editor.page.add_style_tag(content=NOTICES)
    editor.page.evaluate("app.canvas.deselectAll()")  # else only what is selected is fitted in
    editor.page.evaluate(FIT)
    editor.page.mouse.move(*CORNER)
    editor.page.wait_for_timeout(SETTLE)
    picture = Image.open(io.BytesIO(editor.page.screenshot())).convert("RGB")
    for quality in QUALITIES:
        picture.save(target, "JPEG", quality=quality, optimize=True, progressive=True)
        if target.stat().st_size <= MOST_BYTES:
            break
    print(target, f"{target.stat().st_size / 1000:.0f} kB", flush=True)


def tell_faults(editor: browser.Editor) -> None:
    """Print what can be told without looking at a picture."""
    for one, other in editor.overlaps():
        print(f"  {one} lies on {other}")
    for title in editor.outside():
        print(f"  {title} is not all in a group")


def main(pictures: list[Picture], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with opened_server(**SETTINGS) as (server, chromium):
        for (kind, language), alike in groupby(pictures, lambda picture: (picture.editor, picture.language)):
            with opened(server, chromium, kind, language) as editor, Client(server.url) as client:
                for picture in alike:
                    client.free(memory=True)  # what is not run anew says nothing on its node
                    OTHERS.get(picture.name, run)(editor, picture)
                    photograph(editor, folder / picture.file)
                    if picture.name not in OTHERS:
                        tell_faults(editor)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every workflow in both editors, into this folder")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these pictures alone")
    given = parser.parse_args()
    wanted = [Picture(name, kind) for kind in (CLASSIC, NODES_2) for name in NAMES] if given.all else PICTURES
    main([one for one in wanted if not given.only or Path(one.file).stem in given.only], given.all or FOLDER)
