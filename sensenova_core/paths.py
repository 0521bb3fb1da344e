"""What people write for a file, as a path: the one place for quotes, ~, file://, escapes and Windows' backslashes."""

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes
from urllib.request import url2pathname

_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "`": "`"}
_URL = re.compile(r"file:(?://)?(?P<host>[^/\\]*)(?P<path>/.*)", re.IGNORECASE | re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)  # as shells and terminals write a space of a file that is dropped on them


def path_of(given: str | bytes | os.PathLike) -> Path:
    """The path that is meant. A name that is there as it was written is taken so; nothing else is asked of the disk
    but whether a reading is there. One that is nowhere stays as written, for a message to name."""
    if not isinstance(given, str):
        return _expanded(os.fsdecode(given))
    if _there(given):
        return Path(given)
    text = given.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if found := _URL.fullmatch(text):
        return _of_url(found["host"], found["path"])
    readings = [text]
    if os.name != "nt" and "\\" in text:
        readings += [_ESCAPED.sub(r"\1", text), text.replace("\\", "/")]
    expanded = [_expanded(reading) for reading in readings]
    return next((path for path in expanded if _there(str(path))), expanded[0])


def _of_url(host: str, path: str) -> Path:
    """Of file:///a%20b, file://localhost/a and, of another machine on Windows, file://host/a."""
    if os.name == "nt":
        away = f"//{host}" if host and host.lower() != "localhost" else ""
        return Path(url2pathname(away + path))
    return Path(os.fsdecode(unquote_to_bytes(path.encode("utf-8", "surrogateescape"))))


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # of a user that this machine does not have
        return Path(text)


def _there(text: str) -> bool:
    try:
        return bool(text) and os.path.lexists(text)
    except (OSError, ValueError):  # what no file can be called
        return False
