"""The English strings of the nodes and of README's tables, and the files in which ComfyUI's editor finds the Chinese.

/object_info says what the nodes are. In the editor's files an input of a dynamic input is called by both, with _ for
the dot between them: size.width is size_width.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools import readme_tables

CHINESE = readme_tables.CHINESE
LOCALE = Path(__file__).parents[2] / "locales/zh"
SPECIAL = "{}@|"  # mean something in names and descriptions: they are patterns to the editor

Said = Callable[[str], str]
Nodes = dict[str, dict[str, Any]]


def chinese() -> dict[str, str]:
    """English -> Chinese."""
    return json.loads(CHINESE.read_text(encoding="utf-8"))


def english(nodes: Nodes) -> list[str]:
    """All that is to be said in Chinese, in the order of the nodes."""
    found: dict[str, None] = {}
    files(nodes, lambda text: found.setdefault(text) or text)
    return [*found, *(text for text in english_of_tables() if text not in found)]


def english_of_tables() -> list[str]:
    """What README's tables say in words."""
    found: dict[str, None] = {}
    readme_tables.tables(lambda text: found.setdefault(text) or text)
    return [*found]


def files(nodes: Nodes, said: Said) -> dict[str, dict[str, Any]]:
    """The editor's files of a language, by their names. said: English -> what stands there."""
    categories = sorted({part for node in nodes.values() for part in node["category"].split("/")})
    return {
        "main.json": {"nodeCategories": {part: said(part) for part in categories}},
        "nodeDefs.json": {id: _node(nodes[id], said) for id in sorted(nodes)},
    }


def _node(node: dict[str, Any], said: Said) -> dict[str, Any]:
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": said(node["display_name"]),
        "description": said(node["description"]),
        "inputs": dict(_inputs(node["input"], said)),
        "outputs": {str(index): _entry(said(name), tooltip, said) for index, (name, tooltip) in enumerate(outputs)},
    }


def _inputs(inputs: dict[str, Any], said: Said, prefix: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    for group in ("required", "optional"):
        for name, (_, *more) in inputs.get(group, {}).items():
            told = more[0] if more else {}
            yield prefix + name, _entry(said(told.get("display_name") or name), told.get("tooltip"), said)
            for option in told.get("options", []):
                if isinstance(option, dict):
                    yield from _inputs(option["inputs"], said, f"{prefix}{name}_")
            if template := told.get("template"):
                yield from _slots(template, said, f"{prefix}{name}_")


def _slots(template: dict[str, Any], said: Said, prefix: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Those that grow as they are connected: image0, image1, ..."""
    [(_, *more)] = [each for group in template["input"].values() for each in group.values()]
    tooltip = more[0].get("tooltip") if more else None
    for index in range(template["max"]):
        yield f"{prefix}{template['prefix']}{index}", _entry(f"{said(template['prefix'])}{index}", tooltip, said)


def _entry(name: str, tooltip: str | None, said: Said) -> dict[str, str]:
    return {"name": name, "tooltip": said(tooltip)} if tooltip else {"name": name}


def written(contents: dict[str, Any]) -> str:
    """A file's text."""
    return json.dumps(contents, ensure_ascii=False, indent=1) + "\n"


def patterns(file: dict[str, Any]) -> Iterator[str]:
    """The names and descriptions of nodeDefs.json, which the editor reads as patterns."""
    for node in file.values():
        yield from (node["display_name"], node["description"])
        yield from (entry["name"] for kind in ("inputs", "outputs") for entry in node[kind].values())
