"""What nodes say while they run, in the classic editor and with Nodes 2.0: it can be read where it stands."""

import pytest

from tests.live import browser
from tests.live.browser import NODES_2, SAID
from tests.live.workflows import node_id, read

SETTINGS = "/settings"  # of the editor, which the server keeps
EDITORS = {"classic": "auto", "Nodes 2.0": "float32"}  # with another dtype, so that nothing is kept from the first
HIGHEST = 7 * 16  # pixels of lines in the classic editor, where a box scrolls from there on
# The smallest elements in sight that hold a text: [what is seen of it, what there is, its lines].
BOXES = """start => [...document.querySelectorAll("div")]
    .filter(box => box.checkVisibility() && box.innerText.trim().startsWith(start))
    .filter(box => ![...box.querySelectorAll("div")].some(inner => inner.innerText.trim().startsWith(start)))
    .map(inner => {
        let box = inner;  // up to what cuts it
        const cuts = one => /auto|scroll|hidden|clip/.test(getComputedStyle(one).overflowY);
        while (box.parentElement && !cuts(box)) box = box.parentElement;
        return [box.clientHeight, box.scrollHeight, inner.innerText.trim().split("\\n")];
    })"""

WHOLE_WORDS = """start => [...document.querySelectorAll(".dom-widget .break-all")]
    .some(box => box.innerText.startsWith(start) && getComputedStyle(box).wordBreak === "normal")"""
# How many pictures a node shows with "Nodes 2.0".
PICTURES = 'id => document.querySelectorAll(`[data-node-id="${id}"] img`).length'


@pytest.fixture(params=EDITORS)
def shown(request, server, client, chromium):
    """(which editor, it with its page)."""
    client.post(SETTINGS, {NODES_2: request.param != "classic"})
    try:
        with browser.editor(chromium, server.url) as opened:
            yield request.param, opened
    finally:
        client.post(SETTINGS, {NODES_2: False})


def test_text_is_read_on_its_node(shown, screenshot):
    kind, editor = shown
    api = read("api/understand.json")
    editor.open(read("understand.json"), f"understand {kind}")
    loader, ask = node_id(api, "Loader"), node_id(api, "Understand")
    editor.put(loader, checkpoint="talkative", dtype=EDITORS[kind])
    editor.put(ask, max_tokens=900)
    editor.run()
    editor.wait_for(ask, f"{SAID}.includes('cut by max_tokens')")
    editor.page.wait_for_timeout(1000)
    screenshot(editor.page, f"text_{kind.replace(' ', '_')}")
    [(seen, there, lines)] = editor.page.evaluate(BOXES, "Model: talkative")
    assert seen >= there, "the Loader's text is cut"
    assert "Config: config.json" in lines and lines[-1] == "Tokenizer: in the same folder"
    answer = editor.node(ask, SAID)
    [(seen, there, lines)] = editor.page.evaluate(BOXES, answer[:40])
    assert seen >= min(there, HIGHEST), "the answer is cut"
    assert "".join(lines).split()[:20] == answer.split()[:20]
    if kind == "classic":  # with Nodes 2.0 so long an answer makes its node longer
        assert editor.overlaps() == [] and editor.outside() == []


def test_heights_stay_as_they_were_saved(editor):
    """Menus that show further widgets give their node the least height that it can have."""
    saved = read("understand.json")
    editor.open(saved, "understand, heights")
    for node in saved["nodes"]:
        assert editor.node(node["id"], "node.size[1]") == pytest.approx(node["size"][1], abs=1), node["type"]


def test_words_are_not_broken(editor):
    """Of what a node says in the classic editor; the editor itself breaks lines anywhere."""
    api = read("api/understand.json")
    editor.open(read("understand.json"), "understand, words")
    editor.put(node_id(api, "Loader"), checkpoint="built-in demo")
    editor.run()
    editor.wait_for(node_id(api, "Understand"), f"{SAID}.length > 0")
    editor.page.wait_for_function(WHOLE_WORDS, arg="Model: built-in demo", timeout=browser.SECONDS * 1000)


def test_a_page_is_shown_once_in_nodes_2(server, client, chromium, screenshot):
    """The last live preview and the picture of a node that has one are of the same."""
    client.post(SETTINGS, {NODES_2: True})
    try:
        with browser.editor(chromium, server.url) as editor:
            api = read("api/interleave.json")
            document = node_id(api, "Interleave")
            editor.open(read("interleave.json"), "interleave, Nodes 2.0")
            editor.put(node_id(api, "Loader"), checkpoint="built-in demo")
            editor.put(document, steps=4)
            editor.run()
            editor.wait_for(node_id(api, "SaveDocument"), f"{SAID}.endsWith('document.md')")
            editor.page.wait_for_timeout(1500)  # until the preview has gone
            screenshot(editor.page, "page_in_nodes_2")
            assert editor.page.evaluate(PICTURES, document) == 1
            assert editor.overlaps() == [] and editor.outside() == []
    finally:
        client.post(SETTINGS, {NODES_2: False})
