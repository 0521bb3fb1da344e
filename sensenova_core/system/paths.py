"""What people write for a file, as a path: the one place for quotes, ~, file://, escapes and Windows' backslashes."""

import errno
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes
from urllib.request import url2pathname

from ..errors import SenseNovaError

_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "`": "`"}
_URL = re.compile(r"file:(?://)?(?P<host>[^/\\]*)(?P<path>/.*)", re.IGNORECASE | re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)  # as shells and terminals write a space of a file that is dropped on them


def path_of(given: str | bytes | os.PathLike) -> Path:
    """The path that is meant. What is there as it was written means itself; what is nowhere stays so, to be named.

    Asks the disk for nothing but which reading is there. Raises SenseNovaError for what no path can be.
    """
    text = os.fsdecode(given)
    if is_there(text):
        return Path(text)
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if found := _URL.fullmatch(text):
        return _of_url(found["host"], found["path"])
    readings = [text]
    if os.name != "nt" and "\\" in text:
        readings += [_ESCAPED.sub(r"\1", text), text.replace("\\", "/")]
    expanded = [_expanded(reading) for reading in readings]
    path = next((path for path in expanded if is_there(str(path))), expanded[0])
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SenseNovaError(
                f"{str(path)[:100]!r}... is no path: no file has so long a name; give a shorter one"
            ) from None
    except ValueError:  # letters that no name has
        pass
    return path


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


def is_there(text: str) -> bool:
    try:
        return bool(text) and os.path.lexists(text)
    except (OSError, ValueError):  # what no file can be called
        return False
