"""What this machine has found out about itself, remembered on disk between runs: small JSON files in a cache folder."""

import contextlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = "SENSENOVA_CACHE"  # names another folder
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where this user's caches of ours are; it need not exist."""
    if given := os.environ.get(FOLDER):
        return Path(given)
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "sensenova"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "sensenova"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "sensenova"


def remembered(name: str) -> dict[str, Any]:
    """What a file holds. Empty where there is none, or none that can be read: it is found out anew."""
    try:
        found = json.loads((cache_folder() / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(name: str, key: str, value: Any) -> None:
    """Add to a file, which is replaced as a whole. Where it cannot be written, nothing is remembered.

    Of two processes that add at once, one may lose what it added, and finds it out anew.
    """
    text = json.dumps(remembered(name) | {key: value}, indent=1)
    path = cache_folder() / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as part:
            part.write(text)
        try:
            os.replace(part.name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(part.name)
            raise
    except OSError as error:
        log.info("%s cannot be written, and what was found out is not remembered: %s", path, error)
