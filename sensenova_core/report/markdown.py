"""Text -> Markdown that shows it as it is: nothing in it is markup, a link, a picture or HTML for any common reader."""

import re

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Signs with a meaning anywhere in CommonMark, in GitHub's tables, mentions and formulas, or in other readers' notes.
_ANYWHERE = re.compile(r"[\\`*_{}\[\]()#|~$^=!@]|%(?=%)|(?<=%)%")
# What makes addresses of words: a colon or a dot inside of one.
_IN_WORDS = re.compile(r"(?<=\w):(?=\S)|(?<=\w)\.(?=\w)|:(?=\w+:)")
# What makes lists, rules and definitions of lines.
_AT_START = re.compile(r"^( {0,3})(?:([-+:])|(\d+)(\.))", re.MULTILINE)
_ADDRESS = re.compile(r"@(?=\w)")  # GitHub links it, escaped or not; a sign of no width makes it none
_INDENTED = re.compile(r"^(?: {4,}| {0,3}\t)[ \t]*", re.MULTILINE)  # makes code of a line


def escaped(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    text = _INDENTED.sub("   ", text)
    text = _IN_WORDS.sub(r"\\\g<0>", _ANYWHERE.sub(r"\\\g<0>", text))
    text = _AT_START.sub(lambda found: f"{found[1]}{found[3] or ''}\\{found[2] or found[4]}", text)
    text = re.sub("[&<>]", lambda found: _HTML[found[0]], text)
    return _ADDRESS.sub("@&#8288;", text)
