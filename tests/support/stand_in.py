"""A small stand-in for a ComfyUI server, for the faults that a real one does not have on demand.

It draws one prompt after the other, each in so many seconds, and has no websocket.
"""

import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from PIL.PngImagePlugin import PngInfo

TYPES = {
    "Text": {"input": {"required": {"prompt": ["STRING", {}]}}},
    "Draw": {
        "input": {
            "required": {
                "text": ["STRING", {"forceInput": True}],
                "model": ["MODEL"],
                "seed": ["INT", {"min": 0, "max": 1000}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 30.0}],
                "sampler": [["euler", "heun"]],
                "crop": ["BOOLEAN", {}],
            },
            "optional": {"image": [["example.png"], {"image_upload": True}]},
        }
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True},
}
WORKFLOW = {
    "1": {"class_type": "Text", "inputs": {"prompt": "a star"}, "_meta": {"title": "Prompt"}},
    "2": {
        "class_type": "Draw",
        "inputs": {"text": ["1", 0], "seed": 1, "cfg": 4, "sampler": "euler", "crop": False},
        "_meta": {"title": "Sampler v1.5"},
    },
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
}


class StandIn:
    """For a `with` block. Whoever uses it may change its attributes at any time.

    seconds: that a prompt takes. errors: prompt text -> what drawing it fails with. answers: HTTP statuses to give to
    the next calls of a path, in place of answers. drawn: (prompt text, seed) of all that it has drawn, ever.
    """

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self.errors: dict[str, str] = {}
        self.answers: dict[str, list[int]] = {}
        self.drawn: list[tuple[str, int]] = []
        self.uploaded: dict[str, bytes] = {}
        self.cancelled: list[str] = []
        self.files: dict[str, bytes] = {}
        self.port = 0

    def __enter__(self) -> "StandIn":
        """Also after `kill`, on the same port: with its files, and nothing in queue and history."""
        self.queue: list[tuple[str, dict]] = []
        self.senders: dict[str, str] = {}  # prompt id -> client id
        self.history: dict[str, dict] = {}
        self.lock = threading.Lock()
        self.alive = True
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), handler(self))
        self.http.daemon_threads = True
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        threading.Thread(target=self._draw_all, args=(self.queue, self.history), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.kill()

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            self.http.shutdown()
            self.http.server_close()

    def _draw_all(self, queue: list, history: dict) -> None:
        while self.alive and queue is self.queue:
            if not queue:
                time.sleep(0.005)
                continue
            id, nodes = queue[0]
            begin = time.monotonic()
            while time.monotonic() - begin < self.seconds and id not in self.cancelled and self.alive:
                time.sleep(0.005)
            if not self.alive:
                return
            with self.lock:
                queue.pop(0)
                history[id] = self._drawn(id, nodes)

    def _drawn(self, id: str, nodes: dict) -> dict:
        text = nodes["1"]["inputs"]["prompt"]
        if id in self.cancelled:
            return {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}}
        if text in self.errors:
            data = {"node_id": "2", "node_type": "Draw", "exception_message": self.errors[text]}
            return {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_error", data]]}}
        self.drawn.append((text, nodes["2"]["inputs"]["seed"]))
        name = f"drawn_{len(self.files) + 1:05d}_.png"
        self.files[name] = picture_of(nodes)
        shown = {"images": [{"filename": name, "subfolder": "", "type": "output"}], "text": [f"drew {text}"]}
        return {"outputs": {"3": shown}, "status": {"status_str": "success", "messages": []}}


def picture_of(nodes: dict) -> bytes:
    """A picture that carries what was sent, as ComfyUI's do."""
    about = PngInfo()
    about.add_text("prompt", json.dumps(nodes))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=about)
    return file.getvalue()


def handler(server: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments) -> None:
            pass

        def answer(self, content: object, status: int = 200) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def broken(self, path: str) -> bool:
            if statuses := server.answers.get(path):
                self.answer({}, statuses.pop(0))
                return True
            return False

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if self.broken(path):
                return
            with server.lock:
                if path == "/object_info":
                    self.answer(TYPES)
                elif path == "/queue":
                    items = [[0, id, nodes, {"client_id": server.senders.get(id)}] for id, nodes in server.queue]
                    self.answer({"queue_running": items[:1], "queue_pending": items[1:]})
                elif path.startswith("/history/"):
                    id = Path(path).name
                    self.answer({id: server.history[id]} if id in server.history else {})
                elif path == "/view" and (name := parse_qs(query)["filename"][0]) in server.files:
                    self.answer(server.files[name])
                else:
                    self.answer({}, 404)

        def do_POST(self) -> None:
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.broken(path):
                return
            with server.lock:
                if path == "/prompt":
                    sent = json.loads(body)
                    server.senders[sent["prompt_id"]] = sent["client_id"]
                    server.queue.append((sent["prompt_id"], sent["prompt"]))
                    self.answer({"prompt_id": sent["prompt_id"], "number": 1, "node_errors": {}})
                elif path == "/upload/image":
                    name = body.partition(b'filename="')[2].partition(b'"')[0].decode()
                    server.uploaded[name] = body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
                    self.answer({"name": name, "subfolder": "", "type": "input"})
                elif path.endswith("/cancel"):
                    id = Path(path).parent.name
                    server.cancelled.append(id)
                    server.queue[1:] = [item for item in server.queue[1:] if item[0] != id]
                    self.answer({"cancelled": True})
                else:
                    self.answer({}, 404)

    return Handler
