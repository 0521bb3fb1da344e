"""The jobs that are not over yet, which servers take as they get free."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .jobs import Job


@dataclass
class Run:
    """A job that is to be done. sent: a server has taken it. losses: how often one that had it has not any more.
    troubles: how often in a row one had no answer but an error. interrupted: somebody has ended it on its server."""

    job: Job
    attempt: int
    sent: bool = False
    losses: int = 0
    troubles: int = 0
    interrupted: bool = False
    since: float = field(default_factory=time.monotonic)

    @property
    def prompt_id(self) -> str:
        return self.job.prompt_id(self.attempt)


class Pool:
    """Servers are named by their URLs. Nobody gets a job before all have answered, or failed to, once."""

    def __init__(self, runs: Iterable[Run], servers: Iterable[str]):
        self.stopped = threading.Event()
        self._changed = threading.Condition()
        self._runs = list(runs)  # which nobody has
        self._homes: dict[str, str] = {}  # prompt id -> the server that has it since before
        self._sent: dict[str, str] = {}  # prompt id -> the server that was given it last
        self._active: dict[str, Run] = {}
        self._idle: dict[str, int] = {}  # server -> how many jobs of others it has
        self._unknown = set(servers)  # whether they are there
        self._alive: set[str] = set()

    def left(self) -> int:
        with self._changed:
            return len(self._runs) + len(self._active)

    def here(self, server: str, waiting: Mapping[str, str], client: str) -> set[str]:
        """A server is there, with these prompts in its queue; returns those that it does for nothing, as another server
        was given them since.

        waiting: see `Server.waiting`. client: the id that prompts are sent to this server with. Only those that were
        are returned: another may be what that other server does, if this is but a second name of it.
        """
        with self._changed:
            self._alive.add(server)
            for run in self._runs:
                if run.prompt_id in waiting and run.prompt_id not in self._sent:
                    self._homes[run.prompt_id] = server
            self._changed.notify_all()
            return {id for id, sender in waiting.items() if sender == client and self._sent.get(id, server) != server}

    def away(self, server: str) -> None:
        """A server does not answer: what it has is for others."""
        with self._changed:
            self._unknown.discard(server)
            self._alive.discard(server)
            self._homes = {id: home for id, home in self._homes.items() if home != server}
            self._changed.notify_all()

    def is_here(self, server: str) -> bool:
        with self._changed:
            return server in self._alive

    def others_are_here(self, server: str) -> bool:
        with self._changed:
            return bool(self._alive - {server})

    def pause(self, seconds: float) -> bool:
        """Wait; False, at once, when there is nothing more to wait for."""
        with self._changed:
            return not self._changed.wait_for(self._all_over, seconds)

    def _all_over(self) -> bool:
        return self.stopped.is_set() or not (self._runs or self._active)

    def take(self, server: str, busy: Callable[[], int]) -> Run | None:
        """A job for a free server, the least busy one first; None when there will be no more.

        busy: asks the server how many jobs of others it has.
        """
        jobs_of_others = busy()
        with self._changed:
            self._unknown.discard(server)
            self._idle[server] = jobs_of_others
            self._changed.notify_all()
            try:
                while not self.stopped.is_set():
                    if (run := self._next(server)) is not None:
                        self._active[server], run.since = run, time.monotonic()
                        return run
                    if self._all_over():
                        return None
                    self._changed.wait(0.5)
                return None
            finally:
                self._idle.pop(server, None)
                self._changed.notify_all()

    def _next(self, server: str) -> Run | None:
        if self._unknown:
            return None
        free = [run for run in self._runs if self._homes.get(run.prompt_id, server) == server]
        own = [run for run in free if run.prompt_id in self._homes]
        waiting = {each: jobs for each, jobs in self._idle.items() if each in self._alive}
        turn = own or server == min(waiting, key=lambda each: waiting[each], default=server)
        if not free or not turn:
            return None
        run = (own or free)[0]
        self._runs.remove(run)
        return run

    def sent(self, run: Run, server: str) -> None:
        with self._changed:
            self._sent[run.prompt_id] = server

    def over(self, server: str) -> None:
        with self._changed:
            del self._active[server]
            self._changed.notify_all()

    def give_back(self, server: str) -> None:
        """Have another server take a job."""
        with self._changed:
            if (run := self._active.pop(server, None)) is not None:
                self._runs.insert(0, run)
            self._changed.notify_all()

    def stop(self) -> None:
        self.stopped.set()
        with self._changed:
            self._changed.notify_all()
