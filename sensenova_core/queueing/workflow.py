"""A workflow in ComfyUI's API form: {id: {"class_type", "inputs", "_meta"}}, and the inputs that a table changes."""

import json
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import SettingsError, quoted
from .node_types import NodeTypes

_EXPORT = "in ComfyUI's editor choose Workflow > Export (API) and give that file"
_NEAR = 0.5  # how alike a name must be to be offered


@dataclass(frozen=True)
class Target:
    """An input of a node. label: as people write it."""

    node: str
    input: str
    label: str


@dataclass(frozen=True)
class Workflow:
    """nodes: never changed; `changed` makes a copy."""

    path: Path
    nodes: dict[str, dict[str, Any]]

    def title(self, node: str) -> str:
        """What the editor calls a node, else its class; a node that is not the workflow's own by its id."""
        if node not in self.nodes:
            return node
        return str(self._meta_title(node) or self.nodes[node]["class_type"])

    def _meta_title(self, node: str) -> Any:
        meta = self.nodes[node].get("_meta")
        return meta.get("title") if isinstance(meta, dict) else None

    def classes(self) -> set[str]:
        return {node["class_type"] for node in self.nodes.values()}

    def value(self, target: Target) -> Any:
        """What the workflow has there; None for an input that it does not write."""
        return self.nodes[target.node]["inputs"].get(target.input)

    def changed(self, changes: dict[Target, Any]) -> dict[str, dict[str, Any]]:
        nodes = deepcopy(self.nodes)
        for target, value in changes.items():
            nodes[target.node]["inputs"][target.input] = value
        return nodes

    def named(self, text: str) -> str | None:
        """The node of an id, a title or a class, in this order; capitals count only where it matters.

        None if there is none. Raises SettingsError where several are called so.
        """
        if text in self.nodes:
            return text
        for same in (str, str.casefold):
            for called in (self._meta_title, lambda node: self.nodes[node]["class_type"]):
                found = [node for node in self.nodes if same(str(called(node))) == same(text)]
                if len(found) == 1:
                    return found[0]
                if found:
                    ids = ", ".join(f"{node} ({self.nodes[node]['class_type']})" for node in found)
                    raise SettingsError(f"{quoted(text)} is the name of several nodes: {ids}", "name it by its id")
        return None

    def target(self, text: str, types: NodeTypes) -> Target:
        """The input that NODE.input names, where both may have points in their names. Raises SettingsError."""
        parts = text.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            node, name = ".".join(parts[:cut]), ".".join(parts[cut:])
            if (id := self.named(node)) is None:
                continue
            if name in self.nodes[id]["inputs"] or types.knows(self.nodes[id]["class_type"], name):
                return Target(id, name, f"{self.title(id)}.{name}")
            inputs = ", ".join(self.nodes[id]["inputs"]) or "none"
            raise SettingsError(f"node {quoted(node)} has no input {quoted(name)}", f"its inputs are {inputs}")
        if len(parts) < 2:
            raise SettingsError(f"{quoted(text)} is no NODE.input", f"write for example {next(self._labels())}")
        names = [name for id in self.nodes for name in (id, self.title(id))]
        raise SettingsError(f"no node for {quoted(text)}", near(text.partition(".")[0], names, kind="nodes"))

    def target_of_column(self, column: str, types: NodeTypes) -> Target:
        """The input that a column changes by its name: NODE.input, or an input that only one node has.

        Raises SettingsError for a name that says nothing, or too much.
        """
        having = [id for id, node in self.nodes.items() if column in node["inputs"]]
        values = [id for id in having if not is_link(self.nodes[id]["inputs"][column])]
        found = values or having or [id for id, node in self.nodes.items() if types.takes(node["class_type"], column)]
        if len(found) == 1:
            return Target(found[0], column, f"{self.title(found[0])}.{column}")
        if found:
            say = f"say which: --set {found[0]}.{column}={column}"
            labels = ", ".join(f"{id}.{column} ({self.title(id)})" for id in found)
            raise SettingsError(f"column {quoted(column)} is an input of several nodes: {labels}", say)
        if "." in column:
            return self.target(column, types)
        inputs = {name for node in self.nodes.values() for name in node["inputs"]}
        offered = near(column, [*inputs, *self._labels()], kind="inputs")
        remedy = f"{offered}; map it with --set NODE.input={column}, or leave it out with --ignore {column}"
        raise SettingsError(f"column {quoted(column)} is no input of this workflow", remedy)

    def _labels(self) -> Iterator[str]:
        for id, node in self.nodes.items():
            yield from (f"{self.title(id)}.{name}" for name in node["inputs"])


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def near(name: str, names: Iterable[str], kind: str) -> str:
    """The names most like one that is not among them, in words; without regard to capitals."""
    lower = {each.casefold(): each for each in names}
    found = get_close_matches(name.casefold(), lower, n=3, cutoff=_NEAR)
    if found:
        return "did you mean " + " or ".join(lower[each] for each in found) + "?"
    return f"the {kind} are {', '.join(list(dict.fromkeys(lower.values()))[:12])}"


def read_workflow(path: Path) -> Workflow:
    """Raises SettingsError for what is no workflow in API form."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is no JSON file ({error})", _EXPORT) from error
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        raise SettingsError(f"{path} is a workflow as the editor saves it, which servers do not take", _EXPORT)
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        content = content["prompt"]  # what was sent to a server as a whole
    if not isinstance(content, dict) or not content or not all(map(_is_node, content.values())):
        raise SettingsError(f"{path} is no workflow in API form: {{id: {{class_type, inputs}}}}", _EXPORT)
    for id, node in content.items():
        node.pop("is_changed", None)  # a note of the server that drew the picture which the workflow was taken from
        try:
            check_sendable({id: node})
        except SettingsError as error:
            raise SettingsError(f"{path}, node {id}: {error.problem}", error.remedy) from error
    return Workflow(path, content)


def check_sendable(value: Any) -> None:
    """Raises SettingsError for what JSON in UTF-8, which servers take, has no way to say. The problem goes on after the
    name of a cell, or of a node."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = quoted(error.object[error.start : error.end])
        raise SettingsError(f"{half} is half a letter", "write the whole one, or take it out") from error
    except ValueError as error:
        raise SettingsError(f"{quoted(value)} is no finite number, or has one in it", "write a finite one") from error


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def mapped(
    workflow: Workflow, columns: Iterable[str], types: NodeTypes, *, sets: Iterable[str], ignored: Iterable[str]
) -> dict[str, list[Target]]:
    """Column -> the inputs that it changes. sets: NODE.input=column, of --set. Raises SettingsError."""
    columns, targets = list(columns), {}
    for text in sets:
        name, equals, column = text.rpartition("=")
        if not equals or not name or not column:
            raise SettingsError(f"--set {text}: expected NODE.input=column")
        with_flag(f"--set {text}", lambda: targets.setdefault(column, []).append(workflow.target(name, types)))  # noqa: B023
        if column not in columns:
            raise SettingsError(f"--set {text}: no column {quoted(column)}", near(column, columns, kind="columns"))
    for column in ignored:
        if column not in columns:
            raise SettingsError(f"--ignore {column}: no such column", near(column, columns, kind="columns"))
    for column in columns:
        if column not in targets and column not in ignored:
            targets[column] = [workflow.target_of_column(column, types)]
    by_input: dict[tuple[str, str], str] = {}
    for column, target in ((column, target) for column, found in targets.items() for target in found):
        other = by_input.setdefault((target.node, target.input), column)
        if other != column:
            problem = f"columns {quoted(other)} and {quoted(column)} both change {target.label}"
            raise SettingsError(problem, f"leave one out with --ignore {column}")
    return targets


def with_flag(flag: str, made: Callable[[], Any]) -> None:
    """Have an error name the flag that it came from."""
    try:
        made()
    except SettingsError as error:
        raise SettingsError(f"{flag}: {error.problem}", error.remedy) from error
