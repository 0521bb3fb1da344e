"""`sensenova queue`: a workflow's jobs, one for each line of a table, on ComfyUI servers."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingsError, quoted
from ..system.paths import path_of
from .options import check_folder

if TYPE_CHECKING:
    from ..queueing.jobs import Job
    from ..queueing.node_types import NodeTypes
    from ..queueing.running import Ended
    from ..queueing.server import Server
    from ..queueing.workflow import Workflow

DEFAULT_SERVER = "http://127.0.0.1:8188"
INTERRUPTED = 130
_DESCRIPTION = """\
Runs a workflow on ComfyUI servers once for each line of a table, and saves every result with a record of its settings.
Started again with the same arguments, it goes on where it was ended, in whatever way: no job is done twice."""


def add_parser(commands) -> None:
    parser = commands.add_parser("queue", help="run a workflow for each line of a table", description=_DESCRIPTION)
    parser.add_argument("workflow", metavar="WORKFLOW.json", help="in API form: Workflow > Export (API) in the editor")
    parser.add_argument(
        "table", metavar="TABLE", help="a .csv or .tsv file whose first line names the columns, or .jsonl"
    )
    parser.add_argument(
        "--server",
        nargs="+",
        action="extend",
        metavar="URL",
        help=f"servers that share the jobs: each gets one as it is free (default: {DEFAULT_SERVER})",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NODE.input=column",
        help="the input that a column changes, by its node's title, id or class. A column that is called so, or like "
        "an input that only one node has (prompt, seed), needs no --set",
    )
    parser.add_argument(
        "--ignore", nargs="+", action="extend", default=[], metavar="COLUMN", help="columns that are no inputs"
    )
    parser.add_argument("--output", default=".", metavar="FOLDER", help="where the results go (default: .)")
    parser.add_argument(
        "--wait", type=float, default=600, metavar="SECONDS", help="how long a server may be away (default: 600)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="try jobs again that have failed before")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and write nothing")
    parser.set_defaults(run=run)


def run(options) -> int:
    from ..queueing.server import Server, one_server, url_of

    if not options.wait >= 0 or math.isinf(options.wait):
        raise SettingsError(f"--wait {options.wait}: {quoted(options.wait)} is no time; give seconds from 0")
    urls = [url_of(text) for text in options.server or [DEFAULT_SERVER]]
    if double := one_server(urls):
        raise SettingsError(f"--server {' '.join(double)} is one server, given twice; leave one out")
    folder = path_of(options.output)
    if not options.dry_run:
        check_folder(folder)
    servers = [Server(url) for url in urls]
    try:
        return _dry(options, servers) if options.dry_run else _real(options, servers, folder)
    finally:
        for server in servers:
            server.close()


def _jobs(options, types: "NodeTypes | None", servers: "list[Server]") -> "tuple[list[Job], Workflow, NodeTypes]":
    """types: None to wait for a server that tells them; files are read before."""
    from ..queueing.jobs import make_jobs
    from ..queueing.running import node_types
    from ..queueing.table import read_table
    from ..queueing.workflow import mapped, read_workflow

    workflow, table = read_workflow(path_of(options.workflow)), read_table(path_of(options.table))
    types = node_types(servers, options.wait) if types is None else types
    if lacking := sorted(workflow.classes() - types.classes.keys()) if types.classes else []:
        problem = f"the server has no node {', '.join(lacking)}"
        raise SettingsError(problem, "install the packs that have them there, or take another server")
    columns = mapped(workflow, table.columns, types, sets=options.set, ignored=options.ignore)
    return make_jobs(workflow, table, types, columns=columns), workflow, types


def _dry(options, servers: "list[Server]") -> int:
    from ..queueing.node_types import NodeTypes
    from ..queueing.server import Away

    types, reached = NodeTypes(), None
    for server in servers:
        try:
            types, reached = NodeTypes(server.node_types()), server
            break
        except Away as away:
            print(f"sensenova: {server.url} does not answer ({away})", file=sys.stderr)
    jobs, workflow, _ = _jobs(options, types, servers)
    for job in jobs:
        print(f"line {job.line}:" + ("" if job.changes else " the workflow as it is"))
        for target, value in job.changes.items():
            if target in job.uploads:
                shown = f"{job.uploads[target]}, sent as {value}"
            else:
                shown = json.dumps(value, ensure_ascii=False)
            print(f"  {target.label} = {shown} (was {json.dumps(workflow.value(target), ensure_ascii=False)})")
    checked = f"checked with {reached.url}" if reached else "not checked: no server answers"
    print(f"{len(jobs)} jobs, {checked}; nothing was sent")
    return 0


def _real(options, servers: "list[Server]", folder: Path) -> int:
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..queueing.record import held
    from ..queueing.running import run_jobs

    jobs, workflow, _ = _jobs(options, None, servers)
    with held(folder), logging_redirect_tqdm():
        ended = run_jobs(
            jobs, servers, workflow,
            folder=folder, wait=options.wait, retry_failed=options.retry_failed, interrupted=_stopping,
        )  # fmt: skip
    return _told(ended, len(jobs))


def _stopping() -> None:
    print("\nsensenova: stopping; Ctrl-C again does not wait for the servers", file=sys.stderr)


def _told(ended: "Ended", total: int) -> int:
    """Say how it ended; returns the exit status."""
    done = total - ended.left - len(ended.failed)
    print(f"{done} of {total} jobs are done")
    for reason in ended.gone:
        print(f"sensenova: {reason}", file=sys.stderr)
    if ended.failed:
        print(f"sensenova: {len(ended.failed)} have failed; --retry-failed tries them again:", file=sys.stderr)
        for line, error in ended.failed:
            print(f"  line {line}: {error}", file=sys.stderr)
    if ended.left:
        print(f"sensenova: {ended.left} are left; run the same command to go on", file=sys.stderr)
    if ended.stopped:
        return INTERRUPTED
    return 1 if ended.failed or ended.left else 0
