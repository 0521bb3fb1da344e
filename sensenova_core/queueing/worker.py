"""One server at work: it takes jobs, follows each to its end, and waits where the server is away."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from .following import Followed, follow
from .listener import Listener
from .pool import Pool, Run
from .record import Drawn, Record
from .results import save
from .server import Away, Entry, Files, Missing, Refused, Server, client_id
from .shown import Shown
from .workflow import Target, Workflow

LOSSES = 5  # of one job, before it is taken to be what ends the servers
TROUBLES = 8  # of one job with one server, in a row: about a minute
_GRACE_SECONDS = 5.0  # before the job of a server that is away goes to another
_LONGEST_PAUSE = 10.0
log = logging.getLogger(__name__)


class Failed(Exception):
    """The job cannot be done; the next one may be."""


class Stopped(Exception):
    """The user wants no more."""


class Gone(Exception):
    """The server has been away for too long."""


@dataclass(frozen=True)
class Shared:
    """What all workers have in common. wait: seconds that a server may be away."""

    workflow: Workflow
    pool: Pool
    record: Record
    shown: Shown
    servers: Mapping[str, Server]
    wait: float

    @property
    def folder(self) -> Path:
        return self.record.folder


class Worker(threading.Thread):
    """gone: why it has given its server up. error: what went wrong in here."""

    def __init__(self, server: Server, shared: Shared):
        super().__init__(daemon=True, name=server.url)
        self.server, self.shared = server, shared
        self.client = client_id(shared.folder, server.url)
        self.gone = ""
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._listener: Listener | None = None
        self._uploaded: dict[str, str] = {}

    def run(self) -> None:
        try:
            self._connected(None)
            while (run := self.shared.pool.take(self.server.url, self._busy)) is not None:
                self._do(run)
        except Gone as gone:
            self.gone = str(gone)
        except Stopped:
            pass
        except BaseException as error:  # raised again where the threads are waited for
            self.error = error
            self.shared.pool.stop()
        finally:
            self.shared.pool.away(self.server.url)
            self.shared.pool.give_back(self.server.url)
            self.shared.shown.end(self.server.url)
            self._close()
            self.ended.set()

    def _busy(self) -> int:
        try:
            return len(self.server.waiting())
        except Away:
            return 0  # which is found out as soon as it is given a job

    def _do(self, run: Run) -> None:
        """See a job to its end, through whatever happens to the server; or give it to another server."""
        self.shared.shown.begin(self.server.url, run.job)
        while True:
            try:
                if self._listener is None and not self._connected(run):
                    return
                self._finish(run, *self._drawn(run))
                return
            except Away as away:
                self._close()
                if away.status is not None and not self._patient(run, away):
                    return
            except Missing as missing:
                log.info("line %d: %s; it is drawn again", run.job.line, missing)
                self._again(run)
            except (Failed, Refused) as failed:
                self._over(run, files=[], error=str(failed))
                return

    def _patient(self, run: Run, away: Away) -> bool:
        """Wait a little for a server that is there, but answers with an error; False if it did so too often."""
        run.troubles += 1
        if run.troubles > TROUBLES:
            self._over(run, files=[], error=f"the server keeps answering {away}")
            return False
        if not self.shared.pool.pause(min(0.25 * 2**run.troubles, _LONGEST_PAUSE)):
            raise Stopped
        return True

    def _drawn(self, run: Run) -> tuple[Server, Files]:
        """Have a job drawn, unless it is already; returns who has its results. Raises Failed, Refused, Away."""
        while True:
            if found := self._found(run):
                return found
            if run.prompt_id not in self.server.waiting():
                # It may have ended between the two questions.
                if found := self._found(run):
                    return found
                self._submit(run)
            entry = self._followed(run)
            if entry is not None:
                return self.server, entry.outputs

    def _found(self, run: Run) -> tuple[Server, Files] | None:
        """A job's results, where they are somewhere: by what was noted, or by the histories of the servers."""
        drawn = self.shared.record.drawn(run.job, run.attempt)
        if drawn and (server := self.shared.servers.get(drawn.server)) and self._answers(server):
            return server, drawn.outputs
        for server in sorted(self.shared.servers.values(), key=lambda each: each is not self.server):
            if server is not self.server and not self.shared.pool.is_here(server.url):
                continue  # it would take long to say nothing
            entry = self._entry(server, run)
            if entry and entry.error and run.sent and server is self.server:
                raise Failed(entry.error)
            if entry and entry.error:  # of an earlier day
                self._begin_attempt(run)
                return self._found(run)
            if entry:
                return server, entry.outputs
        return None

    def _answers(self, server: Server) -> bool:
        if server is self.server:
            return True
        try:
            server.waiting()
            return True
        except Away:
            return False

    def _entry(self, server: Server, run: Run) -> Entry | None:
        try:
            return server.entry(run.prompt_id)
        except Away:
            if server is self.server:
                raise
            return None

    def _begin_attempt(self, run: Run) -> None:
        run.attempt += 1
        self.shared.record.begin_attempt(run.job, run.attempt)

    def _again(self, run: Run) -> None:
        """Raises nothing, so that it may be said in an `except`: too many losses are found out at the next sending."""
        self._begin_attempt(run)
        run.sent = True

    def _submit(self, run: Run) -> None:
        if run.sent:
            run.losses += 1
        if run.losses > LOSSES:
            raise Failed(f"servers have lost it {LOSSES} times, or ended while they had it; is there memory enough?")
        nodes = deepcopy(run.job.nodes)
        for target, file in run.job.uploads.items():
            nodes[target.node]["inputs"][target.input] = self._upload(run, target, file)
        about = {"job": run.job.id, "line": run.job.line}
        self.shared.pool.sent(run, self.server.url)
        self.server.submit(nodes, prompt_id=run.prompt_id, client_id=self.client, about=about)
        run.sent = True
        run.troubles = 0

    def _upload(self, run: Run, target: Target, file: Path) -> str:
        name = str(run.job.changes[target])
        if name not in self._uploaded:
            self._uploaded[name] = self.server.upload(file, name)
        return self._uploaded[name]

    def _followed(self, run: Run) -> Entry | None:
        """Wait for the end of a job that the server has; None for one that it does not have any more."""
        assert self._listener is not None
        told = Followed(self.shared.shown, self.server.url, self.shared.workflow, prompt_id=run.prompt_id)
        entry = None
        with self._cancelling(run):
            for now in follow(self._listener, self.server, told):
                entry = now
                if told.whole and self.shared.record.drawn(run.job, run.attempt) is None:
                    self.shared.record.note_drawn(run.job, Drawn(run.prompt_id, self.server.url, told.outputs))
                if self.shared.pool.stopped.is_set():
                    raise Stopped
        if entry and entry.error:
            raise Failed(entry.error)
        return entry

    @contextmanager
    def _cancelling(self, run: Run) -> Iterator[None]:
        """Have the server end the job where the user stops in here."""
        try:
            yield
        except Stopped:
            try:
                self.server.cancel(run.prompt_id)
            except Away as away:
                log.warning("%s does not answer (%s): it may go on with line %d", self.server.url, away, run.job.line)
            raise

    def _finish(self, run: Run, server: Server, outputs: Files) -> None:
        drawn = Drawn(run.prompt_id, server.url, outputs)
        if self.shared.record.drawn(run.job, run.attempt) is None:
            self.shared.record.note_drawn(run.job, drawn)
        try:
            files = save(server, run.job, outputs, folder=self.shared.folder)
        except Away:
            if server is self.server:
                raise
            raise Missing(f"{server.url} does not answer") from None
        self._over(run, files=files, error=None)

    def _over(self, run: Run, *, files: list[str], error: str | None) -> None:
        seconds = round(time.monotonic() - run.since, 2)
        result = {"prompt_id": run.prompt_id, "server": self.server.url, "files": files, "seconds": seconds}
        self.shared.record.finish(run.job, result | {"error": error})
        if error:
            self.shared.record.begin_attempt(run.job, run.attempt + 1)
        self.shared.shown.over(self.server.url, run.job, files=files, error=error, seconds=seconds)
        self.shared.pool.over(self.server.url)

    def _connected(self, run: Run | None) -> bool:
        """Wait until the server answers; False if its job has gone to another meanwhile. Raises Gone, Stopped."""
        begin = time.monotonic()
        pause = 0.5
        told = False
        while True:
            try:
                self._connect()
                if told:
                    log.info("%s is there", self.server.url)
                return run is not None
            except Away as away:
                reason = str(away)
                self._close()
            lasted = time.monotonic() - begin
            if not told:
                log.warning("%s does not answer (%s); trying for %g s", self.server.url, reason, self.shared.wait)
                told = True
            if run is None or lasted > _GRACE_SECONDS:
                self.shared.pool.away(self.server.url)
                if run is not None and self.shared.pool.others_are_here(self.server.url):
                    log.warning("%s: its job of line %d goes to another server", self.server.url, run.job.line)
                    self.shared.shown.end(self.server.url)
                    self.shared.pool.give_back(self.server.url)
                    run = None
            if lasted > self.shared.wait:
                raise Gone(f"{self.server.url} did not answer for {self.shared.wait:g} s ({reason})")
            if not self.shared.pool.pause(pause):
                raise Stopped
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _connect(self) -> None:
        self._uploaded.clear()
        waiting = self.server.waiting()
        self._listener = Listener(self.server.url, self.client)
        if self._listener.deaf:
            log.warning("%s: %s; it is asked every few seconds instead", self.server.url, self._listener.deaf)
        for id in self.shared.pool.here(self.server.url, waiting):
            self.server.cancel(id)

    def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
