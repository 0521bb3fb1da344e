"""The graph editor in a headless Chromium."""

import contextlib
import json
import shutil
from collections.abc import Iterator
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
WINDOW = {"width": 1600, "height": 1000}
# Without the first, a fresh editor covers itself with the template browser; previews are off unless asked for.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Execution.PreviewMethod": "auto"}
READY = "() => window.app?.vueAppReady && window.app.rootGraph && window.LiteGraph.registered_node_types.SaveImage"


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
def editor(browser: "Browser", url: str) -> Iterator["Page"]:
    """The editor of the server at `url`, ready for work."""
    context = browser.new_context(viewport=WINDOW)
    try:
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(url)
        page.wait_for_function(READY, timeout=60_000)
        yield page
    finally:
        context.close()
