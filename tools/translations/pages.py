"""Pages in Chinese: the help pages and README. The first line of each says which English text it was made from.

Of README's text the tables of settings do not count: they are written from the settings in either language.
"""

import hashlib
import re
import subprocess
from pathlib import Path

from tools import readme_tables

ROOT = Path(__file__).parents[2]
HELP = ROOT / "web/docs"
FIRST_LINE = re.compile(r"<!-- translated from (\S+), text (\w+) -->\n")


def pages() -> dict[Path, Path]:
    """English page -> where its Chinese one is."""
    named = {path: HELP / path.stem / "zh.md" for path in sorted(HELP.glob("*.md"))}
    return {readme_tables.README: readme_tables.README_CN} | named


def digest(text: str) -> str:
    """Of a page's text without what is written by itself."""
    prose = readme_tables.TABLE.sub(r"<!-- \1 -->", text)
    return hashlib.sha256(prose.encode()).hexdigest()[:12]


def first_line(page: Path) -> str:
    return f"<!-- translated from {page.relative_to(ROOT).as_posix()}, text {digest(_read(page))} -->\n"


def told_by(translated: Path) -> str | None:
    """The digest of the English text that a Chinese page was made from."""
    found = FIRST_LINE.match(_read(translated)) if translated.exists() else None
    return found and found[2]


def stale() -> dict[str, str]:
    """English page whose Chinese one is missing or of another text -> what to do."""
    wrong = {}
    for page, translated in pages().items():
        if (told := told_by(translated)) != digest(_read(page)):
            name = page.relative_to(ROOT).as_posix()
            found = f"python -m tools.translations changed {name}" if told else f"{name} has no translation"
            mended = f"mend {translated.relative_to(ROOT).as_posix()}, then python -m tools.translations accept {name}"
            wrong[name] = f"{found}; {mended}"
    return wrong


def strays() -> list[Path]:
    """Chinese help pages of no English one."""
    return sorted({*HELP.glob("*/zh.md")} - {*pages().values()})


def accept(page: Path) -> None:
    """Have a Chinese page say that it is made from the English one as it is now."""
    translated = pages()[page]
    text = FIRST_LINE.sub("", _read(translated), count=1)
    translated.write_text(first_line(page) + text, encoding="utf-8")


def changed(page: Path) -> str:
    """What changed in an English page since its Chinese one was made, as git shows it; "" where git never had that."""
    name, told = page.relative_to(ROOT).as_posix(), told_by(pages()[page])
    for commit in _git("log", "--format=%H", "--", name).split():
        if digest(_git("show", f"{commit}:{name}")) == told:
            return _git("diff", "--word-diff", commit, "--", name)
    return ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8").stdout


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
