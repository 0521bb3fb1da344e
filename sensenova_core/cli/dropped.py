"""Pictures named in a line of chat: by /image, or by files dropped on the terminal, which writes their names."""

import re
import shlex

from ..system.paths import path_of

# A word as shells read it: quotes and escapes keep spaces inside.
_WORD = re.compile(r"""\s*((?:'[^']*'|"[^"]*"|\\.|[^\s'"\\])+)""", re.DOTALL)
_PATH = re.compile(r"""['"]?(/|~|\.{1,2}[/\\]|file:|[A-Za-z]:[/\\])""")
_PICTURE = re.compile(
    r"\.(png|apng|jpe?g|jfif|webp|gif|tiff?|bmp|ico|avif|hei[cf]|jxl|jp2|psd|svg|exr|hdr|dng|cr2|cr3|nef|arw)"
    r"""['"]?$""",
    re.IGNORECASE,
)


def named(text: str) -> list[str]:
    """The files that the text after /image names: one name, however it is written, or several that are all there."""
    text = _unquoted(text.strip())
    words = [_unquoted(word) for word in _WORD.findall(text)]
    if path_of(text).exists() or not all(path_of(word).is_file() for word in words):
        return [text]
    return words


def dropped(line: str) -> tuple[list[str], str]:
    """The picture files whose full names a line begins with, there or not, and what is said after them."""
    if _looks_dropped(line) and path_of(line).is_file():
        return [line], ""
    words, rest = [], line
    while (found := _WORD.match(rest)) and _looks_dropped(found[1]):
        words.append(_unquoted(found[1]))
        rest = rest[found.end() :]
    return words, rest.strip()


def _unquoted(word: str) -> str:
    """Without a shell's quotes where they stand inside, as of 'it'\\''s.png'; all else is left to `path_of`."""
    try:
        parts = shlex.split(word)
    except ValueError:
        return word
    inside = len(parts) == 1 and not path_of(word).exists() and path_of(parts[0]).exists()
    return parts[0] if inside else word


def _looks_dropped(word: str) -> bool:
    return bool(_PATH.match(word) and _PICTURE.search(word))
