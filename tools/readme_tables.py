"""Write README's tables of settings, in English and in Chinese: python -m tools.readme_tables.

Each stands between <!-- its name --> and <!-- end -->.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from sensenova_core.cli.jobs import KEYS
from sensenova_core.cli.options import flag, help_of, shown
from sensenova_core.settings import (
    MAX_DOCUMENT_TOKENS,
    CritiqueSettings,
    DecodingSettings,
    DocumentSettings,
    ForecastSettings,
    LoadSettings,
    ReasoningSettings,
    SamplingSettings,
    Setting,
    settings_of,
)

ROOT = Path(__file__).parents[1]
README, README_CN = ROOT / "README.md", ROOT / "README_CN.md"
CHINESE = ROOT / "tools/translations/zh.json"
TABLE = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.DOTALL)
Said = Callable[[str], str]  # English -> the words of another language


def table(settings: Iterable[Setting], said: Said) -> str:
    rows = [
        f"| `{flag(setting.option)}` | {default_of(setting, said)} | {said(help_of(setting))} |" for setting in settings
    ]
    return "\n".join([f"| {said('option')} | {said('default')} | |", "|---|---|---|", *rows])


def default_of(setting: Setting, said: Said) -> str:
    if setting.automatic:
        return said("what the model draws best")
    if setting.kind is bool:
        return said("on") if setting.default else said("off")
    return "" if setting.default in (None, "") else shown(setting.default)


def of(kind: type) -> list[Setting]:
    return [*settings_of(kind).values()]


LIMIT = settings_of(DecodingSettings)["max_tokens"]
LIMITS = [settings_of(ReasoningSettings)["max_think_tokens"], settings_of(CritiqueSettings)["max_critique_tokens"]]


def tables(said: Said = str) -> dict[str, str]:
    return {
        "drawing": table(of(SamplingSettings), said),
        "writing": table([*LIMITS, *of(DecodingSettings)], said),
        "running": table(of(LoadSettings), said),
        "document": table([*of(DocumentSettings), replace(LIMIT, default=MAX_DOCUMENT_TOKENS)], said),
        "plan": table(of(ForecastSettings), said),
        "keys": said("Keys: ") + ", ".join(f"`{key}`" for key in KEYS) + ".",
    }


def in_chinese(text: str) -> str:
    return json.loads(CHINESE.read_text(encoding="utf-8")).get(text, text)


def written(text: str, said: Said = str) -> str:
    """README's text with its tables as the settings are now."""
    made = tables(said)
    return TABLE.sub(lambda found: f"<!-- {found[1]} -->\n{made[found[1]]}\n<!-- end -->", text)


def write() -> None:
    for path, said in ((README, str), (README_CN, in_chinese)):
        path.write_text(written(path.read_text(encoding="utf-8"), said), encoding="utf-8")


if __name__ == "__main__":
    write()
