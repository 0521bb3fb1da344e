"""Jobs sent to one server: each drawn once, and found again where it is drawn already."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from .following import Followed, follow
from .listener import Listener
from .pool import Pool, Run
from .record import Drawn, Record
from .server import Away, Entry, Files, Server, client_id
from .shown import Shown
from .workflow import Target, Workflow

LOSSES = 5  # of one job, before it is taken to be what ends the servers
log = logging.getLogger(__name__)


class Failed(Exception):
    """The job cannot be done; the next one may be."""


class Stopped(Exception):
    """The user wants no more, or there is no more to do."""


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


@dataclass(frozen=True)
class Results:
    """A job's results, and who has them.

    followed: it was seen how they were drawn, so that these names mean them. Otherwise the server may have given a name
    to another file since.
    """

    server: Server
    outputs: Files
    followed: bool = False


class Sender:
    def __init__(self, server: Server, shared: Shared):
        self.server, self.shared = server, shared
        self.client = client_id(shared.folder, server.url)
        self._uploaded: dict[str, str] = {}

    def forget_uploads(self) -> None:
        """After a server was away: it may have another input folder."""
        self._uploaded.clear()

    def drawn(self, run: Run, listener: Listener) -> Results:
        """Have a job drawn, unless it is already. Raises Failed, Refused, Away, Stopped."""
        while True:
            if found := self._found(run):
                return found
            if run.prompt_id not in self.server.waiting():
                # It may have ended between the two questions.
                if found := self._found(run):
                    return found
                self._submit(run)
            entry = self._followed(run, listener)
            if entry is not None:
                return Results(self.server, entry.outputs, followed=True)

    def _found(self, run: Run) -> Results | None:
        """A job's results, where they are somewhere: by what was noted, or by the histories of the servers."""
        drawn = self.shared.record.drawn(run.job, run.attempt)
        if drawn and (server := self.shared.servers.get(drawn.server)) and self._answers(server):
            return Results(server, drawn.outputs)
        for server in sorted(self.shared.servers.values(), key=lambda each: each is not self.server):
            if server is not self.server and not self.shared.pool.is_here(server.url):
                continue  # it would take long to say nothing
            entry = self._entry(server, run)
            if entry and entry.error:
                if run.sent and server is self.server:
                    self._failed(run, entry)
                else:  # of an earlier day
                    self._begin_attempt(run)
                return self._found(run)
            if entry:
                return Results(server, entry.outputs)
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

    def _failed(self, run: Run, entry: Entry) -> None:
        """Raises Failed, but where a user of the server has interrupted the job for the first time. It is to be sent
        once more then: they may not have known whose it was."""
        if run.interrupted or not entry.interrupted:
            raise Failed(entry.error)
        log.warning("line %d was interrupted on %s; it is drawn once more", run.job.line, self.server.url)
        self._begin_attempt(run)
        run.interrupted, run.sent = True, False

    def _begin_attempt(self, run: Run) -> None:
        run.attempt += 1
        self.shared.record.begin_attempt(run.job, run.attempt)

    def again(self, run: Run) -> None:
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

    def _followed(self, run: Run, listener: Listener) -> Entry | None:
        """Wait for the end of a job that the server has; None for one that is to be sent again."""
        told = Followed(self.shared.shown, self.server.url, self.shared.workflow, prompt_id=run.prompt_id)
        entry = None
        with self._cancelling(run):
            for now in follow(listener, self.server, told):
                entry = now
                if told.whole and self.shared.record.drawn(run.job, run.attempt) is None:
                    self.shared.record.note_drawn(run.job, Drawn(run.prompt_id, self.server.url, told.outputs))
                if self.shared.pool.stopped.is_set():
                    raise Stopped
        if entry and entry.error:
            self._failed(run, entry)
            return None
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
