"""Shipped workflows run from the graph editor with its own button: what the nodes show on the way and at the end."""

import pytest

from tests.live.browser import SAID
from tests.live.workflows import STORY, node_id, read

SIDE, EXAMPLE_SIDE = 512, 768
PAGE_WIDTH = 768


@pytest.fixture
def start(editor):
    """Open a workflow with a checkpoint and one after another set what is given; returns class -> node id."""

    def opened(name: str, checkpoint: str):
        api = read(f"api/{name}.json")
        editor.open(read(f"{name}.json"), name)
        editor.choose(node_id(api, "Loader"), "checkpoint", checkpoint)
        return lambda kind: node_id(api, kind)

    return opened


def test_edit_of_one_image(editor, start, screenshot):
    node = start("edit_dual_guidance", "demo")
    editor.choose(node("EditSize"), "mode", "the same as the image")
    editor.put(node("LoadImage"), image="example.png")
    editor.wait_for(node("LoadImage"), f"node.imgs?.[0]?.naturalWidth === {EXAMPLE_SIDE}")
    editor.put(node("FlowMatchSampler"), steps=12, crop=True)
    editor.run()
    editor.wait_for(node("FlowMatchSampler"), "node.imgs?.length && node.progress > 0.2")
    screenshot(editor.page, "editing")
    editor.wait_for(node("SaveImage"), "node.imgs?.[0]?.naturalWidth")
    screenshot(editor.page, "edited")
    size = "[node.imgs[0].naturalWidth, node.imgs[0].naturalHeight]"
    assert editor.node(node("SaveImage"), size) == editor.node(node("LoadImage"), size)
    assert editor.overlaps() == []


def test_think(editor, start, screenshot):
    node = start("think", "talkative")
    editor.choose(node("Resolution"), "size", "custom")
    editor.put(node("Resolution"), **{"size.width": SIDE, "size.height": SIDE})
    editor.put(node("Think"), max_tokens=1500)
    editor.put(node("FlowMatchSampler"), steps=4)
    editor.run()
    partial = editor.wait_for(node("Think"), f"{SAID}.length > 200 && node.progress > 0 && {SAID}")
    screenshot(editor.page, "thinking")
    editor.wait_for(node("SaveImage"), "node.imgs?.[0]?.naturalWidth")
    screenshot(editor.page, "thought")
    thought = editor.node(node("Think"), SAID)
    assert thought.startswith(partial) and len(thought) > len(partial)
    assert thought.startswith(_previewed(editor, node("PreviewAny")))
    assert len(_previewed(editor, node("PreviewAny"))) > len(partial)
    assert editor.overlaps() == []


def test_interleave(editor, start, screenshot):
    node = start("interleave", "talkative")
    document = node("Interleave")
    editor.choose(document, "size", "custom")
    editor.choose(document, "decoding", "sample")
    small = {"size.width": SIDE, "size.height": SIDE, "decoding.temperature": 0.5, "decoding.text_seed": 1}
    editor.put(document, prompt=STORY, steps=8, max_images=3, max_tokens=80, **small)
    editor.run()
    editor.wait_for(document, f"{SAID}.includes('<image>') && node.imgs?.[0]?.naturalWidth && node.progress > 0.2")
    screenshot(editor.page, "document_begun")
    editor.wait_for(document, f"node.imgs?.[0]?.naturalWidth === {PAGE_WIDTH}")
    editor.wait_for(node("SaveImage"), "node.imgs?.[0]?.naturalWidth")
    editor.wait_for(node("SaveDocument"), f"{SAID}.endsWith('document.md')")
    editor.wait_for(node("PreviewAny"), "node.widgets.some(widget => String(widget.value).includes('<image>'))")
    screenshot(editor.page, "document")
    written = _previewed(editor, node("PreviewAny"))
    assert editor.node(document, SAID).startswith(written)
    assert editor.node(node("SaveImage"), "node.imgs.length") == written.count("<image>") == 3
    assert editor.overlaps() == []


def test_memory_plan(editor, start, screenshot):
    node = start("memory_plan", "deep")
    plan = node("MemoryPlan")
    editor.choose(node("Loader"), "vram_mode", "balanced")
    editor.put(plan, card="10GiB", images=1, think_tokens=100)
    editor.run()
    editor.wait_for(plan, f"{SAID}.includes('an edit of')")
    editor.wait_for(node("PreviewAny"), "node.widgets.some(widget => String(widget.value).includes('an edit of'))")
    screenshot(editor.page, "memory_plan")
    said = editor.node(plan, SAID)
    assert said == _previewed(editor, node("PreviewAny"))
    assert "balanced, 10.00 GiB to use" in said and "stream through 3 buffers" in said
    assert editor.overlaps() == []


def test_too_little_memory_is_said_at_the_sampler(editor, start, screenshot):
    node = start("text_to_image", "deep")
    editor.put(node("Loader"), max_memory="1MiB")
    editor.run()
    editor.page.get_by_test_id("error-overlay").get_by_text("View details").click()
    editor.page.get_by_text("the smallest that works is").first.wait_for()
    screenshot(editor.page, "too_little_memory")


def _previewed(editor, node: str) -> str:
    """What Preview as Text shows."""
    return max(filter(lambda value: isinstance(value, str), editor.values(node).values()), key=len)
