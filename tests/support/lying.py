"""A manager's front that changes what listings say.

with LyingManager("http://127.0.0.1:8081", lambda path, items: [*items, {"name": "../x"}]) as front:
    ...  # BACKEND_ENDPOINT=front.url
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

Items = list[dict[str, Any]]


class LyingManager:
    """Forwards everything; `rewrite(path of the directory, items)` says what a listing shows.

    Attributes:
        url: what to use as the manager's address.
    """

    def __init__(self, server: str, rewrite: Callable[[str, Items], Items]) -> None:
        target = urlsplit(server).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = http.client.HTTPConnection(target, timeout=30)
                # Host and all the rest as they came: they are signed.
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                reply = connection.getresponse()
                data = self.changed(reply.read())
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                connection.close()

            def changed(self, data: bytes) -> bytes:
                parts = urlsplit(self.path)
                if self.command != "GET" or not parts.path.endswith("/files"):
                    return data
                found = json.loads(data)
                if "items" in found:
                    path = parse_qs(parts.query).get("path", [""])[0]
                    found["items"] = rewrite(path.strip("/."), found["items"])
                return json.dumps(found).encode()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        for method in ("GET", "POST", "PATCH", "DELETE", "PUT"):
            setattr(Handler, f"do_{method}", Handler.forward)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> LyingManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
