"""A ComfyUI server, over HTTP."""

import ipaddress
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import SettingsError, printable, quoted

_SECONDS = 60.0  # for an answer to begin, and between two pieces of it
_CONNECT_SECONDS = 10.0
_QUOTED = 500  # characters of what a server says
Files = dict[str, Any]  # node -> what it shows: {"images": [{"filename", "subfolder", "type"}], "text": [...]}


class Away(Exception):
    """The server gave no answer, or none that means anything: it may be starting, or gone. status: of HTTP, if any."""

    def __init__(self, reason: str, status: int | None = None):
        super().__init__(printable(reason))
        self.status = status


class Refused(Exception):
    """The server does not take a job; trying again would change nothing."""


class Missing(Exception):
    """The server does not have a file that it has named."""


@dataclass(frozen=True)
class Entry:
    """What a server's history says of a prompt that is over. error: "" for one that has succeeded. interrupted: it has
    failed by being ended on the server."""

    outputs: Files
    error: str = ""
    interrupted: bool = False


def url_of(text: str) -> str:
    """What people write for a server as its URL: 127.0.0.1:8188 -> http://127.0.0.1:8188. Raises SettingsError."""
    url = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise SettingsError(f"--server {text}: {quoted(text)} is no address; give one such as http://127.0.0.1:8188")
    return url


def one_server(urls: Sequence[str]) -> tuple[str, str] | None:
    """Two of these URLs that are one server's: of the same host, or one has the other's address as numbers.

    Two different names of one address may be two servers, behind a proxy that tells them apart by what they are called.
    """
    for pair in combinations(urls, 2):
        (host, *place), (other, *other_place) = map(_place, pair)
        if place == other_place and (host == other or _one_machine(host, other)):
            return pair
    return None


def _place(url: str) -> tuple[str, int, str]:
    """Host, port and path."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme], parts.path


def _one_machine(host: str, other: str) -> bool:
    here, there = _numbers(host), _numbers(other)
    return bool(here & there) and (here == {host} or there == {other})


def _numbers(host: str) -> set[str]:
    """The addresses of a host, itself where it is one; none for a name that nobody knows."""
    try:
        return {str(address[0]) for *_, address in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return set()


class Server:
    """Usable by several threads. Every call raises Away where it gets no answer."""

    def __init__(self, url: str):
        import httpx

        self.url = url
        timeout = httpx.Timeout(_SECONDS, connect=_CONNECT_SECONDS)
        # A proxy is for what lies behind it, whatever the environment forgets to say.
        self._client = httpx.Client(base_url=url, timeout=timeout, trust_env=not _is_here(url), follow_redirects=True)

    def close(self) -> None:
        self._client.close()

    def node_types(self) -> dict[str, Any]:
        """Class -> what the server says of it."""
        found = self._json("/object_info")
        if not isinstance(found, dict) or not found:
            raise Away("it answers, but not as ComfyUI does: /object_info lists no nodes")
        return found

    def waiting(self) -> dict[str, str]:
        """Ids of the prompts that run or wait, each with the `client_id` that it was sent with; "" for none."""
        queue = self._json("/queue")
        items = [item for key in ("queue_running", "queue_pending") for item in queue[key]]
        return {item[1]: str(item[3].get("client_id") or "") for item in items}

    def entry(self, prompt_id: str) -> Entry | None:
        """None for a prompt that the history does not have: it is not over, or was never there, or is forgotten."""
        found = self._json(f"/history/{prompt_id}").get(prompt_id)
        if found is None:
            return None
        status = found.get("status") or {}
        messages = {event: data for event, data in status.get("messages", ())}
        if status.get("status_str", "success") == "success":
            return Entry(found.get("outputs") or {})
        data = messages.get("execution_error", {})
        named = f"{data.get('node_type')} ({data.get('node_id')}): " if data.get("node_id") else ""
        text = str(data.get("exception_message") or "it was interrupted on the server").strip()
        return Entry({}, error=printable(named + text), interrupted="execution_interrupted" in messages)

    def submit(self, nodes: dict[str, Any], *, prompt_id: str, client_id: str, about: dict[str, Any]) -> None:
        """Raises Refused. about: kept with the prompt in the server's queue and history."""
        extra = {"preview_method": "none", "sensenova_queue": about}
        body = {"prompt": nodes, "prompt_id": prompt_id, "client_id": client_id, "extra_data": extra}
        answer = self._answer("POST", "/prompt", json=body)
        try:
            said = answer.json()
        except ValueError:
            said = {}
        if answer.is_error or not isinstance(said, dict):
            raise Refused(_problem(said, answer))
        if said.get("prompt_id") != prompt_id:
            self.cancel(str(said.get("prompt_id")))
            raise Refused("this ComfyUI takes no prompt_id, by which a job is found again; update it to 0.33 or later")
        if said.get("node_errors"):  # some outputs would be left out
            self.cancel(prompt_id)
            raise Refused(_problem(said, answer))

    def cancel(self, prompt_id: str) -> None:
        """End this prompt, and no other, whether it runs or waits."""
        answer = self._answer("POST", f"/api/jobs/{prompt_id}/cancel")
        if answer.is_error:  # a server that does not know this way
            self._answer("POST", "/queue", json={"delete": [prompt_id]})
            if prompt_id in self.waiting():
                self._answer("POST", "/interrupt", json={"prompt_id": prompt_id})

    def upload(self, file: Path, name: str) -> str:
        """Put a file into the server's input folder; returns what it is called there."""
        with file.open("rb") as stream:
            answer = self._answer("POST", "/upload/image", files={"image": (name, stream)})
        if answer.is_error:
            raise Refused(f"{file} cannot be sent to the server ({answer.status_code} {answer.reason_phrase})")
        said = answer.json()
        return "/".join(filter(None, (said.get("subfolder"), said["name"])))

    def download(self, file: dict[str, str], target: Path) -> None:
        """Raises Missing."""
        import os

        query = {key: str(file[key]) for key in ("filename", "subfolder", "type") if file.get(key) is not None}
        with _away(), self._client.stream("GET", "/view", params=query) as answer:
            _check(answer)
            if answer.is_error:
                raise Missing(f"{self.url} has lost {file['filename']} ({answer.status_code})")
            with target.open("wb") as stream:
                for piece in answer.iter_bytes():
                    stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())

    def _json(self, path: str) -> Any:
        answer = self._answer("GET", path)
        try:
            if not answer.is_error:
                return answer.json()
        except ValueError:
            pass
        raise Away(f"it answers, but not as ComfyUI does: {path} is {answer.status_code}", answer.status_code)

    def _answer(self, method: str, path: str, **content: Any):
        with _away():
            answer = self._client.request(method, path, **content)
        _check(answer)
        return answer


def client_id(folder: Path, url: str) -> str:
    """The same for the same folder, so that a client that was ended hears of its running job when it comes back."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{url} {folder.resolve()}").hex


@contextmanager
def _away() -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.TransportError, httpx.TooManyRedirects, httpx.DecodingError) as error:
        raise Away(str(error) or type(error).__name__) from error


def _check(answer) -> None:
    if answer.status_code >= 500 or answer.status_code in (408, 429):
        raise Away(f"{answer.status_code} {answer.reason_phrase}", answer.status_code)


def _problem(said: dict[str, Any], answer) -> str:
    """Why a server refuses a prompt: its nodes' errors, else its own."""
    problems = [
        f"{node.get('class_type')} ({id}): {error.get('message')}: {error.get('details')}"
        for id, node in (said.get("node_errors") or {}).items()
        for error in node.get("errors", ())
    ]
    if not problems and isinstance(error := said.get("error"), dict):
        problems = [": ".join(filter(None, (error.get("message"), error.get("details"))))]
    text = "; ".join(problems) or str(said.get("error") or f"{answer.status_code} {answer.reason_phrase}")
    return printable(" ".join(text.split()))[:_QUOTED]


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
