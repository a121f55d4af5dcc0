"""Servers that are no Backend.AI, or an odd one: what answers, and over what, is up to the test."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def answering(
    body: Any,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """A server that gives one answer to every GET; its URL.

    Args:
        body: sent as JSON, a str as it is.
        tls: (certificate, key), PEM.
    """
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # clients that leave are what this is about

        def finish_request(self, request: Any, client_address: Any) -> None:
            if context is None:
                super().finish_request(request, client_address)
                return
            # The handshake in the client's own thread: one that refuses us must not end the server.
            with context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)

    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port of this machine that refuses connections."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def mute() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(16)
        yield int(s.getsockname()[1])


@contextmanager
def black_hole() -> Iterator[int]:
    """A port where a connection never comes about: its queue is full, and nobody takes any out."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(0)
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(s.getsockname())
            waiting.append(one)
        try:
            yield int(s.getsockname()[1])
        finally:
            for one in waiting:
                one.close()


def certificate(directory: Path, *, name: str = "IP:127.0.0.1", expired: bool = False) -> tuple[Path, Path]:
    """(certificate, key): signed by itself, for one subject alternative name."""
    directory.mkdir()
    cert, key = directory / "cert.pem", directory / "key.pem"
    config = directory / "openssl.cnf"
    config.write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=vfsmount test\n"
        f"[ext]\nsubjectAltName={name}\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n"
        "[ca]\ndefault_ca=own\n[own]\n"
        f"new_certs_dir={directory}\ndatabase={directory}/index\nserial={directory}/serial\n"
        "default_md=sha256\npolicy=any\nx509_extensions=ext\n[any]\ncommonName=supplied\n"
    )
    (directory / "index").touch()
    (directory / "serial").write_text("01\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    request = directory / "request.pem"
    openssl("req", "-config", str(config), "-new", *new_key, "-out", str(request))
    dates = ("20200101000000Z", "20200201000000Z") if expired else ("20200101000000Z", "20990101000000Z")
    openssl(
        *("ca", "-config", str(config), "-selfsign", "-batch", "-notext", "-keyfile", str(key)),
        *("-startdate", dates[0], "-enddate", dates[1], "-in", str(request), "-out", str(cert)),
    )
    return cert, key


def openssl(*arguments: str) -> None:
    """Run it; it must succeed."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
