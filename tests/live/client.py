"""Talks with a ComfyUI server as its graph editor does: prompts over HTTP, messages and previews over a websocket."""

import html
import io
import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from websocket import ABNF, create_connection

from tests.live.workflows import PROFILE_OF

SECONDS = 120  # to wait for any one message
NOTHING = {  # a prompt that loads and computes nothing
    "number": {"class_type": "PrimitiveInt", "inputs": {"value": 0}},
    "shown": {"class_type": "PreviewAny", "inputs": {"source": ["number", 0]}},
}
TEXT, PREVIEW_WITH_METADATA = 3, 4  # kinds of binary messages
TEXT_TYPE = "progress_text"  # what the graph editor calls the first
FEATURES = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


class Rejected(Exception):
    """The server refused a prompt. errors: node id -> [{type, message, details}]."""

    def __init__(self, answer: dict[str, Any]):
        super().__init__(json.dumps(answer, indent=1))
        self.errors = {node: error["errors"] for node, error in answer["node_errors"].items()}


@dataclass(frozen=True)
class Message:
    """data: of a preview its metadata, and `image` the picture; of a "progress_text" the node and its text."""

    type: str
    data: dict[str, Any]
    image: Image.Image | None = None


@dataclass
class Run:
    """Everything that was sent about one prompt."""

    id: str
    messages: list[Message]
    outputs: dict[str, Any] = field(default_factory=dict)

    def of(self, type: str, node: str | None = None) -> list[dict[str, Any]]:
        return [m.data for m in self.messages if m.type == type and node in (None, m.data.get("node"))]

    @property
    def outcome(self) -> str:
        """execution_success, execution_error or execution_interrupted."""
        types = [message.type for message in self.messages]
        return next(type for type in reversed(types) if type.startswith("execution_"))

    @property
    def error(self) -> dict[str, Any]:
        return self.of("execution_error")[0]

    @property
    def executed(self) -> list[str]:
        """The nodes that ran, in order."""
        return [data["node"] for data in self.of("executing") if data["node"] is not None]

    @property
    def cached(self) -> set[str]:
        return {node for data in self.of("execution_cached") for node in data["nodes"]}

    def texts(self, node: str) -> list[str]:
        """What a node showed while it ran, one after the other, as the editor shows it."""
        return [html.unescape(data["text"]).replace("  \n", "\n") for data in self.of(TEXT_TYPE, node)]

    @property
    def previews(self) -> list[Message]:
        return [message for message in self.messages if message.image is not None]


class Client:
    """One connection, for a `with` block."""

    def __init__(self, url: str):
        self.url, self.id = url, uuid.uuid4().hex

    def __enter__(self) -> "Client":
        address = self.url.replace("http", "ws", 1) + "/ws?clientId=" + self.id
        self.socket = create_connection(address, timeout=SECONDS)
        self.socket.send(json.dumps(FEATURES))
        return self

    def __exit__(self, *exception) -> None:
        self.socket.close()

    def get(self, path: str) -> Any:
        return json.loads(self._request(path))

    def text(self, path: str) -> str:
        return self._request(path).decode()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._request(path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def free(self, memory: bool = False) -> None:
        """Models go, and cached results too if asked, before the next prompt.

        ComfyUI's worker looks whether it was asked when a prompt is over: so one that does nothing is run.
        """
        self.post("/free", {"unload_models": True, "free_memory": memory})
        self.run(NOTHING)

    def queue(self, prompt: dict[str, Any], preview_method: str = "auto") -> str:
        """Returns the prompt's id. Raises Rejected."""
        body = {"prompt": prompt, "client_id": self.id, "extra_data": {"preview_method": preview_method}}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise Rejected(json.loads(error.read())) from error

    def follow(self, prompt_id: str) -> Iterator[Message]:
        """The messages about a prompt as they come, up to the one that says it is over.

        Texts do not say which prompt they belong to; they are taken to be this one's.
        """
        while True:
            message = self._receive()
            if message is None or (message.type != TEXT_TYPE and message.data.get("prompt_id") != prompt_id):
                continue
            yield message
            if message.type == "executing" and message.data["node"] is None:
                return

    def run(self, prompt: dict[str, Any], preview_method: str = "auto") -> Run:
        id = self.queue(prompt, preview_method)
        return self.finished(id, list(self.follow(id)))

    def interrupted(self, prompt: dict[str, Any], when: Callable[[Message], bool]) -> tuple[Run, list[Message], float]:
        """Interrupt a run at the first message for which `when` holds.

        Returns the run, its messages after the server had answered, and how many seconds it went on from there.
        """
        id, messages, acknowledged = self.queue(prompt), [], None
        for message in self.follow(id):
            messages.append(message)
            if acknowledged is None and when(message):
                self.post("/interrupt", {"prompt_id": id})
                acknowledged, begin = len(messages), time.monotonic()
        if acknowledged is None:
            raise AssertionError(f"the run ended before it could be interrupted: {Run(id, messages).outcome}")
        return Run(id, messages), messages[acknowledged:], time.monotonic() - begin

    def finished(self, id: str, messages: list[Message]) -> Run:
        return Run(id, messages, self.get(f"/history/{id}")[id]["outputs"])

    def images(self, run: Run, node: str) -> list[Image.Image]:
        """The pictures that a node of the run saved or shows."""
        return [self.view(file) for file in run.outputs[node]["images"]]

    def shown(self, run: Run) -> dict[str, list]:
        """What the nodes of a run show: texts, or pixels. Profiles are left out: they are other ones every time."""
        return {
            node: output["text"] if "text" in output else [image.tobytes() for image in self.images(run, node)]
            for node, output in run.outputs.items()
            if not node.startswith(PROFILE_OF)
        }

    def view(self, file: dict[str, str]) -> Image.Image:
        """A picture in one of the server's folders: its filename, its type (input, output, temp) and subfolder."""
        return Image.open(io.BytesIO(self._request("/view?" + urllib.parse.urlencode(file))))

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.read()

    def _receive(self) -> Message | None:
        """The next message; None for the kinds that no test reads."""
        opcode, content = self.socket.recv_data()
        if opcode == ABNF.OPCODE_TEXT:
            message = json.loads(content)
            return Message(message["type"], message["data"])
        if opcode != ABNF.OPCODE_BINARY:
            return None
        kind, length = struct.unpack(">II", content[:8])
        head, rest = content[8 : 8 + length], content[8 + length :]
        if kind == TEXT:
            return Message(TEXT_TYPE, {"node": head.decode(), "text": rest.decode()})
        if kind == PREVIEW_WITH_METADATA:
            return Message("preview", json.loads(head), Image.open(io.BytesIO(rest)))
        return None
