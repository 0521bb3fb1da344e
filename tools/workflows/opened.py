"""A real editor of a ComfyUI of its own, for tools that have it make or draw workflows."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.live import browser, comfyui

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@contextmanager
def opened_server(**settings: Any) -> Iterator[tuple[comfyui.Server, "Browser"]]:
    """A server, with settings of its editor, and a browser to look at it.

    Ends the program, saying why, where ComfyUI, playwright or Chromium is missing.
    """
    installation = comfyui.find()
    if reason := (None if installation else comfyui.NOT_FOUND) or browser.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        comfyui.prepare_base(installation, base)
        browser.write_settings(base, **settings)
        with comfyui.Server(installation, base) as server, browser.launched() as chromium:
            yield server, chromium


@contextmanager
def opened_editor() -> Iterator[browser.Editor]:
    """The editor of such a server."""
    with opened_server() as (server, chromium), browser.editor(chromium, server.url) as editor:
        yield editor
