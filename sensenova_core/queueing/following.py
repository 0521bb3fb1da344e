"""A job that a server has, followed to its end: by what the server says, and where it says nothing by asking."""

import time
from collections.abc import Iterator
from typing import Any

from .listener import Listener
from .server import Entry, Files, Server
from .shown import Shown
from .workflow import Workflow

_HEAR_SECONDS = 0.3
_ASK_SECONDS = 2.0  # of silence
_DEAF_ASK_SECONDS = 0.5


class Followed:
    """What was heard of one prompt. outputs: of its nodes. whole: these are all of them, and it has succeeded."""

    def __init__(self, shown: Shown, server: str, workflow: Workflow, *, prompt_id: str):
        self._shown, self._server, self._workflow = shown, server, workflow
        self.prompt_id = prompt_id
        self.outputs: Files = {}
        self.whole = self.ended = False
        self._begun = False

    def hear(self, message: dict[str, Any]) -> bool:
        """Take a message in; whether it was about this prompt."""
        kind, data = message.get("type"), message["data"]
        if data.get("prompt_id") != self.prompt_id:
            return False
        if kind == "execution_start":
            self._begun = True  # so that nothing was missed
        elif kind == "executing":
            self.ended = data.get("node") is None
            if not self.ended:
                self._show(str(data["node"]), 0, 0)
        elif kind == "progress" and data.get("node") is not None:
            self._show(str(data["node"]), data.get("value"), data.get("max"))
        elif kind == "progress_state":
            for node, state in (data.get("nodes") or {}).items():
                if state.get("state") == "running":
                    self._show(str(state.get("display_node_id") or node), state.get("value"), state.get("max"))
        elif kind == "executed" and data.get("output"):
            self.outputs[str(data["node"])] = data["output"]
        elif kind == "execution_success":
            self.whole = self._begun
        return True

    def _show(self, node: str, value: Any, most: Any) -> None:
        value, most = (number if isinstance(number, int | float) else 0 for number in (value, most))
        self._shown.step(self._server, self._workflow.title(node), value=value, most=most)


def follow(listener: Listener, server: Server, told: Followed) -> Iterator[Entry | None]:
    """Yields None every now and then, last what the history says of it, or None if the server has it no more.

    Raises Away.
    """
    heard = time.monotonic()
    patience = _DEAF_ASK_SECONDS if listener.deaf else _ASK_SECONDS
    while True:
        message = listener.hear(_HEAR_SECONDS)
        if message is not None and told.hear(message):
            heard = time.monotonic()
        if told.ended or time.monotonic() - heard > patience:
            heard = time.monotonic()
            if (entry := server.entry(told.prompt_id)) is not None:
                yield entry
                return
            if told.prompt_id not in server.waiting():
                yield server.entry(told.prompt_id)  # it may have ended between the two questions
                return
        yield None
