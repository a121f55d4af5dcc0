"""What goes over the wire, byte by byte, with a server that does as it is told."""

from __future__ import annotations

import json
import logging
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import h11
import httpx
import pytest
import trio

from vfsmount.api import manager
from vfsmount.api.client import Client
from vfsmount.api.governor import background
from vfsmount.api.transfer import Transfers
from vfsmount.config import ApiSettings
from vfsmount.errors import ProtocolError, RemoteError, RemoteUnavailable, TooLate, VfsError
from vfsmount.values import Folder, Validator

Handler = Callable[[trio.SocketStream, h11.Connection], Awaitable[None]]
FOLDER = Folder("1" * 32, "f", "h:v", "ready", "rw", True)
VALIDATOR = Validator(0x10, 10)


class Wire:
    """A loopback server whose replies are raw bytes, chosen by method and path."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.connections = 0
        self.open = 0  # of them
        self.raw: dict[str, list[bytes]] = {}  # by path without query, the last one stays
        self.url = ""
        self.forgetful = False  # what comes with a request is lost

    def reply(self, path: str, *raw: bytes) -> None:
        self.raw[path] = list(raw)

    def json(self, path: str, value: object, status: str = "200 OK", headers: str = "") -> None:
        body = json.dumps(value).encode()
        self.reply(path, f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self._serve(stream)
        finally:
            self.open -= 1

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            while True:
                target = await self._read_request(stream, connection)
                if target is None:
                    return
                replies = self.raw.get(target, [b""])
                raw = replies.pop(0) if len(replies) > 1 else replies[0]
                if not raw:
                    return  # hang up without a word
                await stream.send_all(raw)
                if b"close" in raw:
                    return
                more = connection.trailing_data[0]
                connection = h11.Connection(h11.SERVER)
                if more and not self.forgetful:
                    connection.receive_data(more)

    async def _read_request(self, stream: trio.SocketStream, connection: h11.Connection) -> str | None:
        target = None
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return None
            if event is h11.NEED_DATA:
                try:
                    data = await stream.receive_some()
                except trio.BrokenResourceError:
                    return None
                if not data and target is None:
                    return None
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                target = event.target.decode().partition("?")[0]
                headers = {k.decode(): v.decode() for k, v in event.headers}
                self.requests.append((event.method.decode(), event.target.decode(), headers))
            elif isinstance(event, h11.EndOfMessage):
                return target


@pytest.fixture
async def wire(nursery: trio.Nursery) -> Wire:
    w = Wire()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, w.serve, [listener])
    w.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    w.json("/", {"version": "v7.20230615", "manager": "23.09.10"})
    w.json("/auth", {"authorized": "yes"})
    w.json("/folders/f/request-download", {"token": "t", "url": w.url + "/download"})
    return w


@asynccontextmanager
async def connected(wire: Wire, **settings: object) -> AsyncIterator[Client]:
    fields: dict[str, object] = {"endpoints": (wire.url,), "access_key": "AK", "secret_key": "SK", **settings}
    async with Client(ApiSettings(**fields)) as client:  # type: ignore[arg-type]
        await client.connect()
        yield client


def ranged(body: bytes, content_range: str = "bytes 0-9/10", more: str = "") -> bytes:
    head = f'HTTP/1.1 206 Partial Content\r\nETag: "10-a"\r\nContent-Range: {content_range}\r\n{more}'
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


async def test_headers_of_a_signed_call(wire: Wire) -> None:
    wire.json("/folders", [])
    async with connected(wire) as client:
        await client.list_folders()
    first = next(h for m, t, h in wire.requests if t == "/")
    assert "authorization" not in first and "x-backendai-version" not in first
    method, target, headers = wire.requests[-1]
    assert (method, target) == ("GET", "/folders")
    assert headers["host"] == wire.url.removeprefix("http://")
    assert headers["content-type"] == "text/plain"
    assert headers["x-backendai-version"] == "v7.20230615"
    assert headers["accept-encoding"] == "identity"
    assert headers["authorization"].startswith("BackendAI signMethod=HMAC-SHA256, credential=AK:")


async def test_endpoint_with_a_prefix_is_signed_and_called_with_it(wire: Wire) -> None:
    wire.json("/api/", {"version": "v7.20230615", "manager": "23.09.10"})
    wire.json("/api/auth", {})
    async with connected(wire, endpoints=(wire.url + "/api",)):
        assert [t.partition("?")[0] for _, t, _ in wire.requests] == ["/api/", "/api/auth"]


async def test_calls_of_one_client_share_a_connection(wire: Wire) -> None:
    wire.json("/folders", [])
    async with connected(wire) as client:
        for _ in range(5):
            await client.list_folders()
    assert wire.connections == 1


async def test_connection_closed_under_a_kept_alive_request(wire: Wire) -> None:
    wire.json("/folders", [])
    good = wire.raw["/folders"][0]
    wire.reply("/folders", good, b"", good)
    async with connected(wire) as client:
        await client.list_folders()
        await client.list_folders()
    assert wire.connections == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 301 Moved\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"version":1}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
async def test_something_else_answers(wire: Wire, raw: bytes) -> None:
    wire.reply("/", raw)
    with pytest.raises(ProtocolError, match="BACKEND_ENDPOINT"):
        async with connected(wire):
            pass


@pytest.mark.usefixtures("expect_warnings")
async def test_something_that_is_not_http_answers(wire: Wire) -> None:
    wire.reply("/", b"SSH-2.0-OpenSSH_9.2\r\nclose")
    with pytest.raises(VfsError, match=r"127\.0\.0\.1"):
        async with connected(wire):
            pass


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://no-such-host.invalid", "cannot be resolved"),
        ("http://127.0.0.1:1", "refuses the connection"),
        ("ftp://127.0.0.1", "http:// or https://"),
        ("nonsense", "http:// or https://"),
        ("http://h:port", "no usable address"),
    ],
)
async def test_unusable_endpoint_names_the_variable(endpoint: str, words: str) -> None:
    settings = ApiSettings(endpoints=(endpoint,), access_key="AK", secret_key="SK")
    async with Client(settings) as client:
        with pytest.raises(VfsError, match=words) as e:
            await client.connect()
    assert "BACKEND_ENDPOINT" in str(e.value)


@pytest.mark.usefixtures("expect_warnings")
async def test_tls_against_plain_http(wire: Wire) -> None:
    settings = ApiSettings(endpoints=(wire.url.replace("http:", "https:"),), access_key="AK", secret_key="SK")
    async with Client(settings) as client:
        with pytest.raises(RemoteUnavailable, match="TLS"):
            await client.connect()


async def test_range_with_its_conditions(wire: Wire) -> None:
    wire.reply("/download", ranged(b"0123456789"))
    async with connected(wire) as client:
        reply = await Transfers(client).read_range(FOLDER, "a b", 0, 99, validator=VALIDATOR)
    assert reply.data == b"0123456789"
    _, target, headers = wire.requests[-1]
    assert target == "/download?token=t&dst_dir=a%20b"
    assert headers["range"] == "bytes=0-98"
    assert headers["if-match"] == '"10-a"'
    assert headers["accept-encoding"] == "identity"
    assert "authorization" not in headers and "cookie" not in headers


@pytest.mark.parametrize(
    "raw",
    [
        ranged(b"12345", "bytes 1-5/10"),  # another range
        ranged(b"0123", "bytes 0-3/10"),  # shorter than the size allows
        ranged(b"0123456789", "bytes 0-9/11"),  # contradicts the ETag
        ranged(b"0123456789", "bytes */10"),
        ranged(b"0123456789", more="Content-Encoding: gzip\r\n"),
        ranged(b"0123456789").replace(b"ETag", b"X-Other"),
    ],
)
async def test_range_that_lies_is_refused(wire: Wire, raw: bytes) -> None:
    wire.reply("/download", raw)
    async with connected(wire) as client:
        with pytest.raises(ProtocolError):
            await Transfers(client).read_range(FOLDER, "x", 0, 99)


@pytest.mark.usefixtures("expect_warnings")
async def test_range_body_shorter_than_its_range(wire: Wire) -> None:
    wire.reply("/download", ranged(b"01234"), ranged(b"0123456789"))
    async with connected(wire) as client:
        assert (await Transfers(client).read_range(FOLDER, "x", 0, 99)).data == b"0123456789"
        wire.reply("/download", ranged(b"01234"))
        with pytest.raises(RemoteUnavailable):
            await Transfers(client).read_range(FOLDER, "x", 0, 99)


async def test_whole_file_in_place_of_a_range_from_the_start(wire: Wire) -> None:
    wire.reply("/download", b'HTTP/1.1 200 OK\r\nETag: "10-a"\r\nContent-Length: 10\r\n\r\n0123456789')
    async with connected(wire) as client:
        transfers = Transfers(client)
        assert (await transfers.read_range(FOLDER, "x", 0, 10)).data == b"0123456789"
        with pytest.raises(ProtocolError):
            await transfers.read_range(FOLDER, "x", 3, 4)


async def test_endless_problem_is_not_read_to_its_end(wire: Wire) -> None:
    wire.reply("/download", b"HTTP/1.1 400 Bad\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000)
    async with connected(wire) as client:
        with pytest.raises(RemoteError):
            await Transfers(client).read_range(FOLDER, "x", 0, 4)


async def test_storage_proxy_map_is_used(wire: Wire) -> None:
    wire.json("/folders/f/request-download", {"token": "t", "url": "http://storage.internal:1/download"})
    wire.reply("/there/download", ranged(b"0", "bytes 0-0/10"))
    table = (("http://storage.internal:1", wire.url + "/there"),)
    async with connected(wire, storage_proxy_map=table) as client:
        assert (await Transfers(client).stat(FOLDER, "x")).size == 10
    assert wire.requests[-1][1].startswith("/there/download?")


async def test_rate_counters_of_unsigned_replies_are_ignored(wire: Wire) -> None:
    lies = "X-RateLimit-Limit: 1000\r\nX-RateLimit-Remaining: 1000\r\n"
    wire.json("/", {"version": "v7.20230615", "manager": "23.09.10"}, headers=lies)
    async with connected(wire) as client:
        assert client.governor.budget.limit is None


async def test_background_calls_leave_the_reserve(wire: Wire) -> None:
    spent = "X-RateLimit-Limit: 100\r\nX-RateLimit-Remaining: 40\r\nX-RateLimit-Window: 900\r\n"
    wire.json("/folders", [], headers=spent)
    async with connected(wire) as client:
        await client.list_folders()
        with background(), trio.move_on_after(5) as scope, pytest.raises(VfsError):
            await client.list_folders()
        assert not scope.cancelled_caught, "refused at once: the wait is longer than the deadline"
        await client.list_folders()


async def test_proxy_is_used_but_never_for_loopback(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with connected(wire):
        pass
    monkeypatch.setenv("HTTP_PROXY", wire.url)
    wire.json("http://manager.invalid/", {"version": "v7.20230615", "manager": "23.09.10"})
    wire.json("http://manager.invalid/auth", {})
    async with connected(wire, endpoints=("http://manager.invalid",)):
        assert wire.requests[-1][2]["host"] == "manager.invalid"


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_untrusted_certificate(wire: Wire, nursery: trio.Nursery, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    order = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    await trio.run_process(
        ["openssl", *order.split(), "-keyout", str(key), "-out", str(cert)], capture_stderr=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await wire.serve(trio.SSLStream(stream, context, server_side=True))  # type: ignore[arg-type]

    nursery.start_soon(trio.serve_listeners, serve, [listener])
    url = f"https://localhost:{listener.socket.getsockname()[1]}"
    with pytest.raises(RemoteUnavailable, match=r"certificate of localhost is not trusted.*BACKEND_ENDPOINT"):
        async with connected(wire, endpoints=(url,)):
            pass
    async with connected(wire, endpoints=(url,), verify_tls=False) as client:
        assert client.info.manager == "23.09.10"


async def test_unfit_names_are_left_out_and_logged_once(
    wire: Wire, expect_warnings: list[logging.LogRecord]
) -> None:
    item = {"type": "FILE", "size": 1, "mode": "644", "created": "", "modified": ""}
    names = ["good", "a/b", "..", "", "good", "x" * 256]
    wire.json("/folders/f/files", {"items": [{**item, "name": n} for n in names]})
    async with connected(wire) as client:
        for _ in range(3):
            listing = await client.list_files(FOLDER, "")
    assert [e.name for e in listing.entries] == [b"good"]
    assert [r.getMessage() for r in expect_warnings] == [f"listing.unfit folder={FOLDER.id} dropped=5"]


async def test_broken_upload_ends_with_a_reset(nursery: trio.Nursery) -> None:
    """An orderly close would let our kernel send the rest of the buffered body later."""
    ends: list[str] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    seen, ended = trio.Event(), trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        seen.set()
        try:
            while await stream.receive_some():
                pass
            ends.append("closed")
        except trio.BrokenResourceError:
            ends.append("reset")
        ended.set()

    nursery.start_soon(trio.serve_listeners, serve, [listener])
    settings = ApiSettings(endpoints=(f"http://127.0.0.1:{listener.socket.getsockname()[1]}",))
    async with Client(settings) as client:
        async with trio.open_nursery() as inner:
            inner.start_soon(client.connect)
            await seen.wait()
            inner.cancel_scope.cancel()
        with trio.fail_after(60):
            await ended.wait()
    assert ends == ["reset"]


async def test_call_whose_time_has_passed_is_not_made(wire: Wire) -> None:
    wire.json("/folders/f/delete-files", {})
    async with connected(wire) as client:
        await client.delete_files(FOLDER, ["a"], not_after=trio.current_time() + 60)
        assert wire.requests[-1][1] == "/folders/f/delete-files"
        before = len(wire.requests)
        with pytest.raises(TooLate):
            await client.delete_files(FOLDER, ["a"], not_after=trio.current_time() - 0.001)
        assert len(wire.requests) == before


async def test_call_whose_time_passes_while_it_connects_is_not_whole(wire: Wire) -> None:
    """The server has its head and no body: it does nothing then."""
    wire.json("/folders/f/delete-files", {})
    body = manager._Limit(trio.current_time() - 0.001).body(b'{"files": ["a"]}')
    async with connected(wire) as client:
        url = httpx.URL(f"{wire.url}/folders/f/delete-files")
        headers = {"Content-Length": "16"}
        with pytest.raises(TooLate):
            async with client._manager._http.exchange("POST", url, headers=headers, content=body):
                raise AssertionError("it was answered")
        body = manager._Limit(trio.current_time() + 60).body(b'{"files": ["a"]}')
        async with client._manager._http.exchange("POST", url, headers=headers, content=body) as response:
            assert response.status_code == 200
