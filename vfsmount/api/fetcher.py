"""Bodies of downloads, received straight into the buffers that keep them.

httpx hands bodies out in pieces of 64 KiB through a tower of generators, which costs three times the
CPU of the network itself. Here the head of a reply goes through h11, and the body from the socket into
the caller's memory. What this cannot do (a proxy on the way) `Http` does as ever.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

import h11
import httpx
import trio

from vfsmount.api.failures import explain
from vfsmount.api.http import IDLE_S, LOOPBACK, MAX_CONNECTIONS, Http, read_body, stop_reading
from vfsmount.errors import ProtocolError
from vfsmount.metrics import counters

_HEAD_MAX = 64 << 10
_AFTER_S = 2.0  # that a second reply may take after the first; where it took longer,
_ALONE_S = 600.0  # or did not come, and never did before, requests are sent alone for a while
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: a reset, so that nothing is sent to a body nobody reads


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Fetcher:
    """Plain GETs with large bodies; keeps its connections apart from those of `Http`."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._idle: dict[_Origin, list[tuple[_Connection, float]]] = {}
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._alone: dict[_Origin, float] = {}  # until when requests are sent alone
        self._in_pairs: set[_Origin] = set()  # answer two that are sent together

    def reaches(self, url: httpx.URL) -> bool:
        """Whether there is no proxy on the way, nor a test in the network's place."""
        return not self._http.is_substituted and (url.host in LOOPBACK or not _has_proxy(url))

    @asynccontextmanager
    async def exchange(
        self,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        fresh: bool,
        check: str,
        then: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Download]:
        """Send one GET; its body is received inside the block.

        Leaving before the body's end resets the connection.

        Args:
            url, headers, fresh, check: as of `Http.exchange`.
            then: headers of a second GET, sent with the first and answered after it (`Download.after`).

        Raises:
            RemoteUnavailable, ProtocolError: as `Http.exchange`.
        """
        origin = _Origin(url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        async with self._limit:
            with _explained(url.host, check):
                connection = None if fresh else self._take(origin)
                if connection is None:
                    connection = await self._connect(origin)
                download = None
                try:
                    alone = time.monotonic() < self._alone.get(origin, 0.0)
                    download = await connection.get(url, headers, None if alone else then)
                    yield download
                finally:
                    if download is not None and download.answers_both is not None:
                        self._note(origin, download.answers_both)
                    if download is not None and download.reusable:
                        self._idle.setdefault(origin, []).append((connection, _now()))
                    else:
                        connection.abort()

    def _note(self, origin: _Origin, answers_both: bool) -> None:
        if answers_both:
            self._in_pairs.add(origin)
        elif origin not in self._in_pairs:
            self._alone[origin] = time.monotonic() + _ALONE_S

    def close(self) -> None:
        """Close what is idle."""
        for kept in self._idle.values():
            for connection, _ in kept:
                connection.abort()
        self._idle.clear()

    def _take(self, origin: _Origin) -> _Connection | None:
        kept = self._idle.get(origin, [])
        while kept:
            connection, since = kept.pop()
            if _now() - since < IDLE_S and not connection.is_over:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin) -> _Connection:
        timeout_s = self._http.timeout.connect or float("inf")
        try:
            with trio.fail_after(timeout_s):
                tcp = await trio.open_tcp_stream(origin.host, origin.port)
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                tls = None
                if origin.scheme == "https":
                    context = self._http.tls_context("https")
                    tls = trio.SSLStream(tcp, context, server_hostname=origin.host, https_compatible=True)
                    await tls.do_handshake()
        except trio.TooSlowError as e:
            raise httpx.ConnectTimeout("") from e
        except (OSError, trio.BrokenResourceError, ssl.SSLError) as e:
            raise httpx.ConnectError("") from e
        return _Connection(tcp, tls, self._http.timeout.read or float("inf"))


class _Connection:
    """One kept-alive connection; one request at a time."""

    def __init__(
        self, tcp: trio.SocketStream, tls: trio.SSLStream[trio.SocketStream] | None, timeout_s: float
    ) -> None:
        self._tcp = tcp
        self._tls = tls
        self._timeout_s = timeout_s

    @property
    def is_over(self) -> bool:
        """Whether the server has closed it, or said something that nobody asked for."""
        poll = select.poll()
        poll.register(self._tcp.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Close it, whatever is under way."""
        self._tcp.socket.close()

    async def get(
        self, url: httpx.URL, headers: Mapping[str, str], then: Mapping[str, str] | None
    ) -> Download:
        """Send a GET, and perhaps another one, and read the first reply's head."""
        protocol, request = _asking(url, headers)
        second = None
        if then is not None:
            second, more = _asking(url, then)
            request += more
        await self._send(request)
        return Download(self, protocol, await self.head(protocol), second)

    async def head(self, protocol: h11.Connection) -> h11.Response:
        """Read the head of a reply."""
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await self.receive_some(_HEAD_MAX))
            elif isinstance(event, h11.Response):
                return event
            elif not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("no reply")

    async def _send(self, data: bytes) -> None:
        with trio.move_on_after(self._timeout_s) as scope:
            await (self._tls or self._tcp).send_all(data)
        if scope.cancelled_caught:
            raise httpx.WriteTimeout("")

    async def receive_some(self, at_most: int) -> bytes:
        """The next bytes; none at the end of the connection."""
        with trio.move_on_after(self._timeout_s):
            return bytes(await (self._tls or self._tcp).receive_some(at_most))
        raise httpx.ReadTimeout("")

    async def receive_into(self, room: memoryview) -> int:
        """The next bytes, straight into memory; returns how many."""
        if self._tls is not None:
            data = await self.receive_some(len(room))
            room[: len(data)] = data
            return len(data)
        with trio.move_on_after(self._timeout_s):
            return await self._tcp.socket.recv_into(room)
        raise httpx.ReadTimeout("")


def _asking(url: httpx.URL, headers: Mapping[str, str]) -> tuple[h11.Connection, bytes]:
    """A GET as it is sent, and what understands its reply."""
    protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_MAX)
    fields = [(b"Host", url.netloc), *((k.encode("ascii"), v.encode("ascii")) for k, v in headers.items())]
    request = protocol.send(h11.Request(method="GET", target=url.raw_path, headers=fields))
    return protocol, (request or b"") + (protocol.send(h11.EndOfMessage()) or b"")


class Download:
    """A reply: its head, and its body to be received.

    Attributes:
        head: status and headers, without a body.
        answers_both: whether the second request was answered; None: it was not waited for.
    """

    def __init__(
        self,
        connection: _Connection,
        protocol: h11.Connection,
        event: h11.Response,
        second: h11.Connection | None = None,
    ) -> None:
        self._connection = connection
        self._protocol = protocol
        self._second = second  # what understands the reply that comes after this one
        self.answers_both: bool | None = None
        self.head = httpx.Response(event.status_code, headers=list(event.headers))
        self._missing = self._announced()
        # What came together with the head; h11 keeps it, too.
        self._early = bytes(protocol.trailing_data[0]) if self._missing is not None else b""

    def _announced(self) -> int | None:
        """Bytes of the body; None where only h11 can tell its end."""
        if self.head.status_code in (204, 304):
            return 0
        length = self.head.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() and "Transfer-Encoding" not in self.head.headers else None

    @property
    def is_kept(self) -> bool:
        """Whether the server goes on listening after this reply."""
        return "close" not in self.head.headers.get("Connection", "").lower()

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        kept = self._second is None and self.is_kept
        return kept and self._missing == 0 and not self._early and self._protocol.their_http_version == b"1.1"

    async def after(self) -> httpx.Response | None:
        """The head of the reply to the second request, once all of this one's body was received; None: it
        does not come, and the connection is of no use any more."""
        second = self._second
        if second is not None and self._missing is None:
            await self.drain(1)  # of a body in chunks the end comes by itself
        early = self._early if self._announced() is not None else bytes(self._protocol.trailing_data[0])
        if second is None or self._missing != 0 or not self.is_kept:
            return None
        reply = None
        try:
            if early:
                second.receive_data(early)
            with trio.move_on_after(_AFTER_S):
                reply = Download(self._connection, second, await self._connection.head(second))
                await reply.drain(_HEAD_MAX)
        except (httpx.HTTPError, h11.RemoteProtocolError, trio.BrokenResourceError, OSError):
            reply = None
        self.answers_both = reply is not None
        if reply is not None and reply.reusable:
            self._second, self._early = None, b""
        return reply.head if reply is not None else None

    async def receive_into(self, room: memoryview) -> int:
        """Fill the beginning of `room` with what has come, and say how much; 0 only at the body's end."""
        if self._missing is None:
            return await self._receive_parsed(room)
        room = room[: self._missing]
        if not room:
            return 0
        if self._early:
            n = min(len(self._early), len(room))
            room[:n] = self._early[:n]
            self._early = self._early[n:]
        else:
            n = await self._connection.receive_into(room)
        self._missing -= n
        counters.downloaded_bytes += n
        if not n:
            raise httpx.RemoteProtocolError("the connection ended before the body did")
        return n

    async def _receive_parsed(self, room: memoryview) -> int:
        """As `receive_into`, of a body whose end only h11 can tell: a proxy sends it in chunks."""
        while not self._early:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await self._connection.receive_some(_HEAD_MAX))
            elif isinstance(event, h11.Data):
                self._early = bytes(event.data)
            else:
                self._missing = 0
                return 0
        n = min(len(self._early), len(room))
        room[:n], self._early = self._early[:n], self._early[n:]
        counters.downloaded_bytes += n
        return n

    async def drain(self, limit: int) -> None:
        """Receive what is left if it is little, so that the connection stays useful."""
        if self._missing == 0 or (self._missing or 0) > limit:
            return
        room, n = memoryview(bytearray(limit)), 0
        while n < limit and (got := await self.receive_into(room)):
            n += got

    async def read(self, limit: int) -> httpx.Response:
        """The whole reply, for one that says what went wrong.

        Raises:
            ProtocolError: it is longer than `limit` bytes.
        """
        body = bytearray()
        while True:
            if len(body) > limit:
                raise ProtocolError(f"a reply of more than {limit} bytes", status=self.head.status_code)
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await self._connection.receive_some(_HEAD_MAX))
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                self._missing, self._early = 0, b""
                break
        headers = [(k, v) for k, v in self.head.headers.raw if k.lower() not in _FRAMING]
        return httpx.Response(self.head.status_code, headers=headers, content=bytes(body))


class Relayed:
    """As `Download`, for a reply that came through httpx."""

    def __init__(self, response: httpx.Response) -> None:
        self.head = response
        self._pieces = response.aiter_raw()
        self._left = memoryview(b"")

    async def receive_into(self, room: memoryview) -> int:
        """As `Download.receive_into`."""
        while not self._left:
            piece = await anext(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        n = min(len(self._left), len(room))
        room[:n], self._left = self._left[:n], self._left[n:]
        counters.downloaded_bytes += n
        return n

    async def after(self) -> None:
        """As `Download.after`: a second request was not sent."""

    async def drain(self, limit: int) -> None:
        """Read to the end where that is near, else give the connection up in an orderly way."""
        room, n = memoryview(bytearray(limit)), 0
        while n < limit and (got := await self.receive_into(room)):
            n += got
        if n >= limit:
            await stop_reading(self._pieces)

    async def read(self, limit: int) -> httpx.Response:
        """As `Download.read`."""
        body = await read_body(self.head, limit)
        headers = [(k, v) for k, v in self.head.headers.raw if k.lower() not in _FRAMING]
        return httpx.Response(self.head.status_code, headers=headers, content=body)


Body = Download | Relayed

_FRAMING = {b"content-length", b"transfer-encoding"}


def _now() -> float:
    """Seconds, those included for which the machine was suspended: a server counts them, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _has_proxy(url: httpx.URL) -> bool:
    proxies = urllib.request.getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(url.host)


@contextmanager
def _explained(host: str, check: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ssl.SSLError) as e:
        raise explain(e, host, check) from e
    except h11.RemoteProtocolError as e:
        raise explain(httpx.RemoteProtocolError(""), host, check) from e
    except h11.LocalProtocolError as e:
        raise explain(httpx.LocalProtocolError(""), host, check) from e
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as e:
        raise explain(httpx.ReadError(""), host, check) from e
