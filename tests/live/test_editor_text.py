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
    assert editor.overlaps() == [] or kind != "classic"
