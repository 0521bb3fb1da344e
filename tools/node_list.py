"""Write node_list.json, in which ComfyUI-Manager finds whose a missing node is: python -m tools.node_list.

Read from the source, for the nodes themselves need ComfyUI; a live test holds it to what a server has.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "node_list.json"


def nodes() -> dict[str, str]:
    """Id of every node -> its description."""
    files = sorted((ROOT / "nodes").glob("*.py"))
    return dict(sorted(node for file in files for node in _schemas(ast.parse(file.read_text(encoding="utf-8")))))


def _schemas(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema":
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            yield ast.literal_eval(given["node_id"]), ast.literal_eval(given["description"])


def written() -> str:
    return json.dumps(nodes(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
