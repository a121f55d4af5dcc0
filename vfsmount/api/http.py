"""One HTTP exchange: httpx behind a wall that none of its exceptions crosses.

Clients are made when first needed, one for each scheme, because a TLS context costs 20 ms and most
test servers and many storage-proxies do without. A second set keeps no connections alive: a request
whose kept-alive connection was closed under it is repeated there, never on another stale one.

Proxies: the usual ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` are honoured for
manager and storage-proxy alike, but never for loopback addresses, where a proxy could only be wrong.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
import trio

from vfsmount.api.failures import explain
from vfsmount.config import ApiSettings
from vfsmount.errors import ProtocolError
from vfsmount.log import event

log = logging.getLogger("vfsmount.api")

# httpx writes whole URLs, tokens included, at INFO.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

DEFAULT_READ_TIMEOUT_S = 20.0  # between two pieces of a reply; a file truncated under a download
# leaves the connection open and silent for ever (trap 19), so there is always a limit
WRITE_TIMEOUT_S = 30.0
IDLE_S = 20.0  # the manager drops idle connections after 30 s; to be first avoids most resets
MAX_CONNECTIONS = 100  # the storage-proxy served 400; this only bounds a bug
# Exchanges of one pool: httpcore looks at each idle connection of it, with a system call, when a request
# begins and again when it ends: with 20 of them, 0.65 ms of CPU for an exchange, and 0.45 so.
POOLED = 4
SLEPT_S = 1.0  # of a suspended machine, after which a connection is not trusted any more
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def slept() -> float:
    """Seconds for which this machine has been suspended since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


@dataclass(slots=True)
class _Pool:
    """A client with its connections, how many exchanges are using it, and when the last one ended."""

    client: httpx.AsyncClient
    active: int = 0
    used_at: float = 0.0
    retired: bool = False


class Http:
    """The connections of one client.

    While the machine is suspended its clock stands still, so a connection that has been idle for a night
    seems to have been for a second. The server has forgotten it, and so may have everything on the way,
    without a word: a request on it would wait for its timeout. None is used after a suspension.

    Args:
        transport, slept: used instead of the network and the machine's clocks, by tests.

    Attributes:
        timeout: for every request.
    """

    def __init__(
        self,
        settings: ApiSettings,
        transport: httpx.AsyncBaseTransport | None = None,
        slept: Callable[[], float] = slept,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._slept = slept
        self._slept_before = slept()
        self._pools: dict[tuple[str, bool], list[_Pool]] = {}
        self._tls: ssl.SSLContext | None = None
        self.timeout = httpx.Timeout(
            connect=settings.connect_timeout_s,
            read=settings.read_timeout_s or DEFAULT_READ_TIMEOUT_S,
            write=WRITE_TIMEOUT_S,
            pool=None,  # waiting for our own connections is no failure of the server; callers have deadlines
        )

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._take_pools():
            await pool.client.aclose()

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes] | None = None,
        fresh: bool = False,
        check: str = "BACKEND_ENDPOINT",
    ) -> AsyncIterator[httpx.Response]:
        """Send one request; the reply's body is read inside the block with `read_body` or `pieces`.

        Leaving before the body's end closes the connection.

        Args:
            url: percent-encoded to the end; what it says as ``raw_path`` goes out unchanged.
            fresh: on a new connection.
            check: the setting a message about an unreachable server should name.

        Raises:
            RemoteUnavailable: no connection, or it failed or fell silent before the reply's end.
            ProtocolError: what answers does not speak HTTP.
        """
        try:
            await self._forget_what_slept()
            await self._close_idle()
            pool = self._pool(url.scheme, fresh)
            request = httpx.Request(
                method,
                url,
                headers={"Host": url.netloc.decode("ascii"), **headers},
                stream=Body(content),
                extensions={"timeout": self.timeout.as_dict(), "trace": _reset_on_close},
            )
            async with _using(pool):
                response = await pool.client.send(request, stream=True)
                try:
                    yield response
                finally:
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError) as e:
            raise explain(e, url.host, check) from e

    def _pool(self, scheme: str, fresh: bool) -> _Pool:
        pools = self._pools.setdefault((scheme, fresh), [])
        for pool in pools:
            if pool.active < POOLED:
                return pool
        if len(pools) < MAX_CONNECTIONS // POOLED:
            pools.append(_Pool(self._make_client(scheme, fresh)))
        return pools[-1]

    async def _close_idle(self) -> None:
        """Close pools that a rush has needed: nobody else would find out that the server has closed their
        connections."""
        last = trio.current_time() - IDLE_S
        idle = [
            (some, p) for some in self._pools.values() for p in some[1:] if not p.active and p.used_at < last
        ]
        for some, pool in idle:
            some.remove(pool)
        for _, pool in idle:
            await pool.client.aclose()

    def _take_pools(self) -> list[_Pool]:
        pools, self._pools = [pool for some in self._pools.values() for pool in some], {}
        return pools

    async def _forget_what_slept(self) -> None:
        slept_s = self._slept() - self._slept_before
        if slept_s < SLEPT_S:
            return
        self._slept_before += slept_s
        event(log, logging.INFO, "connections.forgotten", slept_s=slept_s)
        for pool in self._take_pools():
            pool.retired = True
            if not pool.active:
                await pool.client.aclose()

    def _make_client(self, scheme: str, fresh: bool) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=self._transport,
            verify=self.tls_context(scheme),
            timeout=self.timeout,
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=0 if fresh else MAX_CONNECTIONS,
                keepalive_expiry=IDLE_S,
            ),
            follow_redirects=False,
            trust_env=self._transport is None,
            mounts=dict.fromkeys(map(_all_of, LOOPBACK)) if self._transport is None else None,
            # The webserver's cookie is sent by us, on the requests that need it and no others.
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        )

    @property
    def is_substituted(self) -> bool:
        """Whether a test's transport stands in the network's place."""
        return self._transport is not None

    def tls_context(self, scheme: str) -> ssl.SSLContext:
        """How certificates are checked; nothing of the kind for plain connections."""
        if scheme == "https" and self._settings.verify_tls:
            self._tls = self._tls or httpx.create_ssl_context()
            return self._tls
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname = False
        bare.verify_mode = ssl.CERT_NONE
        return bare


@asynccontextmanager
async def _using(pool: _Pool) -> AsyncIterator[None]:
    pool.active += 1
    try:
        yield
    finally:
        pool.active -= 1
        pool.used_at = trio.current_time()
        if pool.retired and not pool.active:
            with trio.CancelScope(shield=True):  # nothing is waited for: connections end with a reset
                await pool.client.aclose()


def _all_of(host: str) -> str:
    return f"all://[{host}]" if ":" in host else f"all://{host}"


async def _reset_on_close(name: str, info: Mapping[str, Any]) -> None:
    """Make every new connection end with a reset, not with an orderly close.

    We close a connection in the middle of a request only when it failed or nobody wants it any more.
    An orderly close would let the kernel go on sending what it has buffered, perhaps minutes later
    when a VPN is back, and a 23.09 server would append that to an upload already resumed.
    """
    if name == "connection.connect_tcp.complete":
        sock = info["return_value"].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Body(httpx.AsyncByteStream):
    """A request's body, without the async generators that httpx wraps around one.

    A server may answer before it has read everything, and then a half-used generator would be left
    for the garbage collector, which trio rightly complains of.
    """

    def __init__(self, content: bytes | AsyncIterator[bytes] | None) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return OnePiece(self._content) if isinstance(self._content, bytes) else self._content or OnePiece(b"")


class OnePiece(AsyncIterator[bytes]):
    """Yields one piece, or none if it is empty."""

    def __init__(self, piece: bytes) -> None:
        self._piece = piece

    async def __anext__(self) -> bytes:
        piece, self._piece = self._piece, b""
        if not piece:
            raise StopAsyncIteration
        return piece


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """The whole body, as sent.

    Raises:
        ProtocolError: it is longer than ``limit`` bytes.
    """
    body = bytearray()
    pieces = response.aiter_raw()
    async for piece in pieces:
        body += piece
        if len(body) > limit:
            await stop_reading(pieces)
            raise ProtocolError(f"a reply of more than {limit} bytes", status=response.status_code)
    return bytes(body)


async def stop_reading(pieces: AsyncIterator[bytes]) -> None:
    """Give up a body before its end, together with its connection.

    httpx reads through six generators, one inside the other. Closing the outer one leaves the rest
    to the garbage collector; a cancelled read ends them all.
    """
    with trio.CancelScope() as scope:
        scope.cancel()
        async for _ in pieces:
            pass
