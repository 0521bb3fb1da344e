"""One server at work: it takes jobs, follows each to its end, and waits where the server is away."""

import logging
import threading
import time

from .listener import Listener
from .pool import Run
from .record import Drawn
from .results import not_of, save
from .sending import Failed, Results, Sender, Shared, Stopped
from .server import Away, Missing, Refused, Server

TROUBLES = 8  # of one job with one server, in a row: about a minute
_GRACE_SECONDS = 5.0  # before the job of a server that is away goes to another
_LONGEST_PAUSE = 10.0
log = logging.getLogger(__name__)


class Gone(Exception):
    """The server has been away for too long."""


class Worker(threading.Thread):
    """gone: why it has given its server up. error: what went wrong in here."""

    def __init__(self, server: Server, shared: Shared):
        super().__init__(daemon=True, name=server.url)
        self.server, self.shared = server, shared
        self._sender = Sender(server, shared)
        self.gone = ""
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._listener: Listener | None = None

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
                assert self._listener is not None
                self._finish(run, self._sender.drawn(run, self._listener))
                return
            except Away as away:
                self._close()
                if away.status is not None and not self._patient(run, away):
                    return
            except Missing as missing:
                log.info("line %d: %s; it is drawn again", run.job.line, missing)
                self._sender.again(run)
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

    def _finish(self, run: Run, results: Results) -> None:
        record, folder = self.shared.record, self.shared.folder
        if record.drawn(run.job, run.attempt) is None:
            record.note_drawn(run.job, Drawn(run.prompt_id, results.server.url, results.outputs))
        try:
            files = save(results.server, run.job, results.outputs, folder=folder)
        except Away:
            if results.server is self.server:
                raise
            raise Missing(f"{results.server.url} does not answer") from None
        if not results.followed and (other := not_of(run.job, folder, files)):
            raise Missing(f"{results.server.url} has another job's picture where {other} was")
        self._over(run, files=list(files), error=None)

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
        self._sender.forget_uploads()
        waiting = self.server.waiting()
        self._listener = Listener(self.server.url, self._sender.client)
        if self._listener.deaf:
            log.warning("%s: %s; it is asked every few seconds instead", self.server.url, self._listener.deaf)
        for id in self.shared.pool.here(self.server.url, waiting, self._sender.client):
            self.server.cancel(id)

    def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
