"""A job: a workflow with the values of a line, under an id that its content decides."""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SenseNovaError, SettingsError, quoted
from ..system.paths import path_of
from .node_types import Declared, NodeTypes, converted
from .table import Line, Table
from .workflow import Target, Workflow, check_sendable, is_link

UPLOADED = "sensenova-queue-"  # begins the names of files that were sent to a server


@dataclass(frozen=True)
class Job:
    """nodes: what is sent, but for the names that a server gives to `uploads`: input -> the file to send."""

    id: str
    line: int
    values: dict[str, Any]  # column -> cell
    changes: dict[Target, Any]
    nodes: dict[str, dict[str, Any]]
    uploads: dict[Target, Path]

    def prompt_id(self, attempt: int) -> str:
        """What ComfyUI knows an attempt at it by: the first by the job's own id."""
        return str(uuid.uuid5(uuid.UUID(self.id), str(attempt))) if attempt else self.id

    @property
    def stem(self) -> str:
        """What names of its results begin with."""
        return f"{self.line:04d}_{self.id[:8]}"

    def is_made_by(self, nodes: Any, node: str) -> bool:
        """Whether what that node saved is of the job's settings, going by these nodes, whatever a server calls uploads.

        Only it and what leads to it count: what a server has saved once it shows again for every job that changes
        nothing there, and the file tells of the first of these jobs. A node that another has made as it ran is not
        among the job's, and what leads to it is not known: then all count.
        """
        uploads = {(target.node, target.input) for target in self.uploads}
        try:
            found, own = (_before(node, each) if node in self.nodes else each for each in (nodes, self.nodes))
            return _content(found, uploads) == _content(own, uploads)
        except (TypeError, KeyError, AttributeError):  # what the file tells of is nothing of ComfyUI's
            return False


def make_jobs(workflow: Workflow, table: Table, types: NodeTypes, *, columns: dict[str, list[Target]]) -> list[Job]:
    """A job for each line. columns: see `mapped`. Raises SettingsError naming line and column."""
    jobs: list[Job] = []
    seen: Counter[str] = Counter()
    sums: dict[Path, str] = {}
    for line in table.lines:
        changes, uploads = {}, {}
        for column, target, value in _cells(line, columns):
            declared = types.declared(workflow.nodes[target.node]["class_type"], target.input)
            try:
                check_sendable(value)
                if file := _file(value, declared, table.path.parent):
                    uploads[target] = file
                    changes[target] = f"{UPLOADED}{_sum(file, sums)}{file.suffix.lower()}"
                else:
                    changes[target] = _value(value, workflow, target, declared=declared)
                check_sendable(changes[target])  # again: a cell of JSON may have become what it says
            except (SenseNovaError, OSError) as error:
                raise table.error(line.number, str(error), column) from error
        nodes = workflow.changed(changes)
        content = _content(nodes)
        seen[content] += 1
        id = _id(f"{seen[content]} {content}")
        values = {column: value for column, value in line.values.items() if column in columns}
        jobs.append(Job(id=id, line=line.number, values=values, changes=changes, nodes=nodes, uploads=uploads))
    return jobs


def _cells(line: Line, columns: dict[str, list[Target]]) -> Iterator[tuple[str, Target, Any]]:
    for column, targets in columns.items():
        if column in line.values:
            yield from ((column, target, line.values[column]) for target in targets)


def _value(value: Any, workflow: Workflow, target: Target, *, declared: Declared | None) -> Any:
    if is_link(value):
        if value[0] not in workflow.nodes:
            raise SettingsError(f"there is no node {quoted(value[0])} to link to")
        return value
    return converted(value, present=workflow.value(target), declared=declared)


def _file(value: Any, declared: Declared | None, beside: Path) -> Path | None:
    """The file on this machine that a cell names, looked for beside the table first; None for one of the server's."""
    if declared is None or not declared.uploads or not isinstance(value, str):
        return None
    path = path_of(value)
    found = next((each for each in (beside / path, path) if each.is_file()), None)
    if found is None and value not in declared.options and " [" not in value:
        raise SettingsError(f"no file {quoted(value)}, here or in the server's input folder")
    return found


def _sum(file: Path, sums: dict[Path, str]) -> str:
    if file not in sums:
        sums[file] = hashlib.sha256(file.read_bytes()).hexdigest()[:20]
    return sums[file]


def _before(node: str, nodes: dict[str, Any]) -> dict[str, Any]:
    """A node, and those that its inputs come from, directly and by others."""
    found: dict[str, Any] = {}
    to_see = [node]
    while to_see:
        if (id := to_see.pop()) in nodes and id not in found:
            found[id] = nodes[id]
            to_see += [value[0] for value in nodes[id]["inputs"].values() if is_link(value)]
    return found


def _content(nodes: dict[str, Any], but: Collection[tuple[str, str]] = ()) -> str:
    """All that a result depends on. Titles are not; nor is it another job for 4.0 being written as 4.

    but: (node, input) of inputs to leave out.
    """
    bare = {
        id: [node["class_type"], {name: value for name, value in node["inputs"].items() if (id, name) not in but}]
        for id, node in nodes.items()
    }
    return json.dumps(_plain(bare), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _id(text: str) -> str:
    """A UUID, as ComfyUI wants it of a prompt's id."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))
