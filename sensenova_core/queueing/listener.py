"""What a server says of its work as it goes, over its websocket."""

import json
from typing import Any
from urllib.parse import quote, urlsplit

from .server import Away


class Listener:
    """A connection; without one, where a proxy lets none through, it only says that nothing was heard."""

    def __init__(self, url: str, client_id: str):
        """Raises Away where the server is."""
        import websocket

        self.deaf = ""  # why nothing is heard
        address = url.replace("http", "ws", 1) + f"/ws?clientId={quote(client_id)}"
        local = [urlsplit(url).hostname or ""]
        try:
            self._socket = websocket.create_connection(address, timeout=10, http_no_proxy=local)
        except websocket.WebSocketBadStatusException as error:
            if error.status_code >= 500:
                raise Away(f"its websocket answers {error.status_code}", error.status_code) from error
            self._socket, self.deaf = None, f"its websocket answers {error.status_code}"
        except (OSError, websocket.WebSocketException) as error:
            raise Away(str(error) or type(error).__name__) from error

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(timeout=1)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None if none comes in time, or none that is text. Raises Away."""
        import time

        import websocket

        if self._socket is None:
            time.sleep(seconds)
            return None
        try:
            self._socket.settimeout(seconds)
            content = self._socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        except (OSError, websocket.WebSocketException) as error:
            raise Away(str(error) or type(error).__name__) from error
        if not isinstance(content, str):
            return None  # a preview
        if not content:
            raise Away("its websocket was closed")
        try:
            message = json.loads(content)
        except ValueError:
            return None
        return message if isinstance(message, dict) and isinstance(message.get("data"), dict) else None
