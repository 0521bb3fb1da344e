"""Write README's tables of settings: python -m tools.readme_tables.

Each stands between <!-- its name --> and <!-- end -->.
"""

import re
from collections.abc import Iterable
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

README = Path(__file__).parents[1] / "README.md"


def table(settings: Iterable[Setting]) -> str:
    rows = [f"| `{flag(setting.option)}` | {default_of(setting)} | {help_of(setting)} |" for setting in settings]
    return "\n".join(["| option | default | |", "|---|---|---|", *rows])


def default_of(setting: Setting) -> str:
    if setting.automatic:
        return "what the model draws best"
    if setting.kind is bool:
        return "on" if setting.default else "off"
    return "" if setting.default in (None, "") else shown(setting.default)


def of(kind: type) -> list[Setting]:
    return [*settings_of(kind).values()]


LIMIT = settings_of(DecodingSettings)["max_tokens"]
LIMITS = [settings_of(ReasoningSettings)["max_think_tokens"], settings_of(CritiqueSettings)["max_critique_tokens"]]
TABLES = {
    "drawing": table(of(SamplingSettings)),
    "writing": table([*LIMITS, *of(DecodingSettings)]),
    "running": table(of(LoadSettings)),
    "document": table([*of(DocumentSettings), replace(LIMIT, default=MAX_DOCUMENT_TOKENS)]),
    "plan": table(of(ForecastSettings)),
    "keys": "Keys: " + ", ".join(f"`{key}`" for key in KEYS) + ".",
}


def written(text: str) -> str:
    """README's text with its tables as the settings are now."""
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- end -->",
        lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]]}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
