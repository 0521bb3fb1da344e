"""As much of the Hugging Face hub as fetching a model takes: a repository's list of files, and the files.

    with FakeHub({"owner/name": {"config.json": b"{}"}}) as hub:
        ... with hub.environment: HF_ENDPOINT and what keeps the real one out

A repository whose value is a number is refused with that status, as gated or missing ones are.
"""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 2**16


class FakeHub:
    """requests: (method, path, Range) of each. seconds: how long a piece of a file takes. breaks_after: bytes of a
    large file, after which the connection ends. spoiled: names of files of which a byte is changed on the way."""

    def __init__(self, repositories: dict[str, dict[str, bytes] | int], seconds: float = 0):
        self.repositories, self.seconds = repositories, seconds
        self.requests: list[tuple[str, str, str | None]] = []
        self.breaks_after: int | None = None
        self.spoiled: set[str] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """For a process that is to use this hub alone."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
        }

    def fetched(self) -> set[str]:
        """Names of files whose content was asked for."""
        return {path.rsplit("/", 1)[-1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()


def _sums(name: str, content: bytes) -> dict:
    """Size and checksums as the hub lists them: large files are notes in git, of which these are no checksum."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if not name.endswith((".safetensors", ".gguf")):
        return {"size": len(content), "blobId": git}
    lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return {"size": len(content), "blobId": "0" * 40, "lfs": lfs}


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Range")))
            path = self.path.split("?")[0].strip("/")
            name = "/".join(path.removeprefix("api/models/").split("/")[:2])
            files = hub.repositories.get(name, 404)
            if isinstance(files, int):
                code = {401: "RepoNotFound", 403: "GatedRepo", 404: "RepoNotFound"}.get(files, "Other")
                self.send({"X-Error-Code": code, "X-Error-Message": code}, b"{}", files)
            elif path.startswith("api/models/"):
                self.send_list(name, files, path)
            else:
                self.send_file(files, path)

        def send_list(self, name: str, files: dict[str, bytes], path: str) -> None:
            if path.partition("/revision/")[2] not in ("", "main", COMMIT):
                self.send({"X-Error-Code": "RevisionNotFound"}, b"{}", 404)
                return
            if "/tree/" in path:
                content = [
                    {"type": "file", "path": key, "size": len(value), "oid": key} for key, value in files.items()
                ]
            else:
                siblings = [{"rfilename": key, **_sums(key, value)} for key, value in files.items()]
                content = {
                    "id": name,
                    "modelId": name,
                    "sha": COMMIT,
                    "siblings": siblings,
                    "tags": [],
                    "private": False,
                }
            self.send({"Content-Type": "application/json"}, json.dumps(content).encode())

        def send_file(self, files: dict[str, bytes], path: str) -> None:
            key = path.rpartition("/")[2]
            if key not in files:
                self.send({"X-Error-Code": "EntryNotFound"}, b"", 404)
                return
            content = files[key]
            if key in hub.spoiled:
                content = content[:-1] + bytes([content[-1] ^ 1])
            etag = hashlib.sha256(files[key]).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            headers |= {"Content-Type": "application/octet-stream"}
            wanted = self.headers.get("Range")
            if self.command == "GET" and wanted:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send(headers, content[start:], 206)
            else:
                self.send(headers, content)

        def send(self, headers: dict[str, str], content: bytes, status: int = 200) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            sent = 0
            for start in range(0, len(content), PIECE):
                if hub.breaks_after is not None and len(content) > PIECE and sent >= hub.breaks_after:
                    self.close_connection = True
                    return
                try:
                    self.wfile.write(content[start : start + PIECE])
                except OSError:
                    return  # the other side has had enough
                sent += PIECE
                if len(content) > PIECE:
                    time.sleep(hub.seconds)

    return Handler
