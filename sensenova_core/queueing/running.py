"""All servers at work on a table's jobs."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SenseNovaError
from .jobs import Job
from .node_types import NodeTypes
from .pool import Pool, Run
from .record import Record
from .sending import Shared
from .server import Away, Server
from .shown import Shown
from .worker import Worker
from .workflow import Workflow

_PAUSE = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How it ended. failed: (line, error) of this time and before. left: jobs that nobody has done. gone: why."""

    failed: list[tuple[int, str]]
    left: int
    stopped: bool
    gone: list[str]


def node_types(servers: Sequence[Server], wait: float) -> NodeTypes:
    """What the first server that answers says of its nodes. Raises SenseNovaError when none does for `wait` seconds."""
    begin, told = time.monotonic(), False
    while True:
        reasons = []
        for server in servers:
            try:
                return NodeTypes(server.node_types())
            except Away as away:
                reasons.append(f"{server.url}: {away}")
        problem = "no server answers: " + "; ".join(reasons)
        if time.monotonic() - begin >= wait:
            raise SenseNovaError(f"{problem}; start ComfyUI there, or give another --server")
        if not told:
            log.warning("%s; trying for %g s", problem, wait)
            told = True
        time.sleep(_PAUSE)


def run_jobs(
    jobs: Sequence[Job], servers: Sequence[Server], workflow: Workflow, *,
    folder: Path, wait: float, retry_failed: bool, interrupted: Callable[[], None],
) -> Ended:  # fmt: skip
    """Do all jobs that the folder does not have. wait: seconds that a server may be away. interrupted: called when
    the user stops it, which ends it after what runs was cancelled."""
    record = Record(folder)
    missing = [job for job in jobs if not record.is_done(job)]
    failed = [] if retry_failed else [(job.line, error) for job in missing if (error := record.failure(job))]
    todo = [job for job in missing if retry_failed or not record.failure(job)]
    if len(todo) < len(jobs):
        log.info("%d of %d jobs are done already", len(jobs) - len(missing), len(jobs))
    if failed:
        log.info("%d have failed before; --retry-failed tries them again", len(failed))
    pool = Pool([Run(job, record.attempt(job)) for job in todo], [server.url for server in servers])
    shown = Shown([server.url for server in servers], total=len(jobs), done=len(jobs) - len(todo))
    by_url = {server.url: server for server in servers}
    shared = Shared(workflow=workflow, pool=pool, record=record, shown=shown, servers=by_url, wait=wait)
    workers = [Worker(server, shared) for server in servers]
    try:
        _work(workers, pool, interrupted)
    finally:
        shown.close()
    stopped, gone = pool.stopped.is_set(), [worker.gone for worker in workers if worker.gone]
    return Ended(sorted([*failed, *shown.failed]), pool.left(), stopped, gone)


def _work(workers: Sequence[Worker], pool: Pool, interrupted: Callable[[], None]) -> None:
    """Wait for all workers. The first Ctrl-C has them stop, the second one ends this at once."""
    for worker in workers:
        worker.start()
    try:
        _join(workers)
    except KeyboardInterrupt:
        interrupted()
        pool.stop()
        _join(workers)
    for worker in workers:
        if worker.error is not None:
            raise worker.error


def _join(workers: Sequence[Worker]) -> None:
    for worker in workers:
        # Not by join: one that Ctrl-C interrupts leaves a thread that is taken for ended (Python 3.11).
        while not worker.ended.wait(0.2):
            pass
