"""A real editor of a ComfyUI of its own, for tools that have it make or draw workflows."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live import browser, comfyui


@contextmanager
def opened_editor() -> Iterator[browser.Editor]:
    """Ends the program, saying why, where ComfyUI, playwright or Chromium is missing."""
    installation = comfyui.find()
    if reason := (None if installation else comfyui.NOT_FOUND) or browser.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        comfyui.prepare_base(installation, base)
        browser.write_settings(base)
        with (
            comfyui.Server(installation, base) as server,
            browser.launched() as chromium,
            browser.editor(chromium, server.url) as editor,
        ):
            yield editor
