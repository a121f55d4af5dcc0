"""Calls to the manager: signed or with a cookie, at whichever endpoint answers, governed, retried.

Here a call is a method, a path and JSON; what the calls mean stands in `folders`, `files` and their
siblings.
"""

from __future__ import annotations

import logging
import math
import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from urllib.parse import urlsplit

import httpx
import msgspec
import trio

from vfsmount import __version__
from vfsmount.api import paths, problems
from vfsmount.api.auth import authorization, date_header
from vfsmount.api.decode import loads
from vfsmount.api.dialect import ServerInfo, negotiate
from vfsmount.api.governor import Governor
from vfsmount.api.http import SLEPT_S, Http, OnePiece, read_body, slept
from vfsmount.api.retry import retrying
from vfsmount.config import ApiSettings
from vfsmount.errors import (
    AuthFailed,
    ClockSkew,
    ConfigError,
    NameTooLong,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RemoteUnavailable,
    TooLate,
    VfsError,
)
from vfsmount.log import event
from vfsmount.metrics import counters

log = logging.getLogger("vfsmount.api")

REPLY_MAX = 256 << 20  # a listing without scandir limit of 1,000,000 entries; only a bug is longer
USER_AGENT = f"vfsmount/{__version__}"
NO_QUERY: Mapping[str, str] = MappingProxyType({})
SESSION_COOKIE = "AIOHTTP_SESSION"
# A name for one request. Both generations write the client's into their logs (and tell none of their own).
REQUEST_ID = "X-BackendAI-RequestID"


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful reply: its JSON (None where the body is empty) and its headers."""

    status: int
    json: object
    headers: httpx.Headers

    @property
    def object(self) -> Mapping[str, object]:
        """The JSON as an object; empty for anything else, because success needs no body."""
        return self.json if isinstance(self.json, dict) else {}


def utc_now() -> datetime:
    """The time requests are signed with."""
    return datetime.now(UTC)


class Manager:
    """One manager behind one or several endpoints.

    Attributes:
        info: what `connect` learned.
        clock_offset_s: the server's clock minus ours, from its last ``Date``; to the second.
    """

    def __init__(
        self, settings: ApiSettings, http: Http, *, cookie: str = "", now: Callable[[], datetime] = utc_now
    ) -> None:
        if not settings.endpoints:
            raise ConfigError("no endpoint is set: set BACKEND_ENDPOINT")
        self._settings = settings
        self._http = http
        self._cookie = cookie
        self._now = now
        self._endpoints = list(settings.endpoints)
        random.shuffle(self._endpoints)  # spreads many clients over the endpoints (contract 1.1)
        self.governor = Governor()
        self.clock_offset_s = 0.0
        self.info: ServerInfo | None = None

    async def connect(self) -> ServerInfo:
        """Negotiate the version and have the credentials checked.

        Raises:
            RemoteUnavailable, AuthFailed, ClockSkew: with what to check.
            ProtocolError: what answers is no Backend.AI manager.
        """
        root = (await self.call("GET", "/", signed=False)).object
        version, manager = root.get("version"), root.get("manager")
        if not isinstance(version, str):
            raise ProtocolError(
                f"{self._host()} answers, but not as a Backend.AI server. "
                "Check BACKEND_ENDPOINT and BACKEND_ENDPOINT_TYPE"
            )
        self.info = negotiate(version, manager if isinstance(manager, str) else "")
        await self.call("GET", "/auth", query={"echo": "vfsmount"})
        return self.info

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: object = None,
        idempotent: bool | None = None,
        privileged: bool = False,
        signed: bool = True,
        not_after: float = math.inf,
    ) -> Reply:
        """Make one call and return its successful reply.

        Args:
            path: percent-encoded, without the endpoint's own prefix.
            body: sent as JSON; None sends none.
            idempotent: repeating it does no harm; None means a GET.
            privileged: only administrators may; 23.09 then answers 401 to others, which must not
                be taken for a wrong key.
            not_after: on trio's clock. What is sent later is not sent whole, so that it is never
                executed. Only for calls with a body.

        Raises:
            TooLate: `not_after` passed while it waited for its turn, a connection or a repetition.
            VfsError: as `problems.to_error` reads the reply.
        """
        read = method == "GET"
        again = read if idempotent is None else idempotent
        target = path + paths.query(dict(query))
        if len(target) > paths.TARGET_MAX:
            raise NameTooLong("the path is longer than a request can carry")

        limit = _Limit(not_after)

        async def attempt(fresh: bool) -> Reply:
            async with self._turn(signed):
                return await self._at_some_endpoint(method, target, body, again, fresh, signed, limit)

        try:
            return await retrying(
                attempt, what=f"{method} {paths.endpoint(path)}", idempotent=again, read=read
            )
        except AuthFailed as e:
            if privileged and not isinstance(e, ClockSkew):
                raise PermissionDenied(
                    "only an administrator may do this", detail=e.detail, request_id=e.request_id
                ) from e
            raise

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, query: Mapping[str, str] = NO_QUERY
    ) -> AsyncIterator[httpx.Response]:
        """One long reply, read by the caller inside the block; not repeated."""
        target = path + paths.query(dict(query))
        # Takes a turn for its start only: an event stream may stay open for hours.
        async with self.governor.turn():
            url, headers = self._prepare(method, target, "application/octet-stream", signed=True)
        started = trio.current_time()
        async with self._http.exchange(method, url, headers=headers) as response:
            took = trio.current_time() - started  # to its head: the rest comes when the server has news
            counters.call("manager", method, paths.endpoint(target)).ended(response.status_code, took)
            if response.status_code >= 300:
                raise self._failed(response, await read_body(response, REPLY_MAX))
            yield response

    @asynccontextmanager
    async def _turn(self, signed: bool) -> AsyncIterator[None]:
        if not signed:
            yield
            return
        async with self.governor.turn():
            yield

    async def _at_some_endpoint(
        self,
        method: str,
        target: str,
        body: object,
        idempotent: bool,
        fresh: bool,
        signed: bool,
        limit: _Limit,
    ) -> Reply:
        """Try the endpoints in turn, each at most once, as long as nothing can have been executed."""
        for left in range(len(self._endpoints) - 1, -1, -1):
            try:
                return await self._once(method, target, body, fresh, signed, limit)
            except RemoteUnavailable as e:
                # A reply of 502, 503 or 504 is an HTTP error: another endpoint leads to the same manager.
                if left == 0 or e.status or (e.sent and not idempotent):
                    raise
                self._endpoints.append(self._endpoints.pop(0))
                event(log, logging.WARNING, "endpoint.rotate", to=self._host())
        raise AssertionError("unreachable")

    async def _once(
        self, method: str, target: str, body: object, fresh: bool, signed: bool, limit: _Limit
    ) -> Reply:
        limit.check()
        content = None if body is None else msgspec.json.encode(body)
        media_type = "text/plain" if content is None else "application/json"
        url, headers = self._prepare(method, target, media_type, signed)
        if content is not None:
            headers["Content-Length"] = str(len(content))
        endpoint = paths.endpoint(target)
        started = trio.current_time()
        status = 0
        try:
            async with self._http.exchange(
                method, url, headers=headers, content=limit.body(content), fresh=fresh
            ) as response:
                raw = await read_body(response, REPLY_MAX)
                status = response.status_code
        except VfsError as e:
            e.request_id = headers[REQUEST_ID]
            raise
        finally:
            counters.call("manager", method, endpoint).ended(status, trio.current_time() - started)
        self._learn(response, signed)
        event(
            log,
            logging.DEBUG,
            "manager.call",
            call=f"{method} {endpoint}",
            status=response.status_code,
            ms=round((trio.current_time() - started) * 1000),
        )
        if not 200 <= response.status_code < 300:
            error = self._failed(response, raw)
            error.request_id = headers[REQUEST_ID]
            raise error
        return Reply(response.status_code, self._decode(raw), response.headers)

    def _prepare(
        self, method: str, target: str, media_type: str, signed: bool
    ) -> tuple[httpx.URL, dict[str, str]]:
        session = self._settings.mode == "session"
        prefix = "/func" if session and not target.startswith("/server/") else ""
        try:
            url = httpx.URL(self._endpoints[0].rstrip("/") + prefix + target)
        except httpx.InvalidURL as e:
            raise ConfigError("BACKEND_ENDPOINT holds no usable address") from e
        now = self._now()
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Date": date_header(now),
            "Content-Type": media_type,
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            "X-BackendAI-Domain": self._settings.domain,
            REQUEST_ID: str(uuid.uuid4()),
        }
        if self.info is not None:  # an old server refuses a version newer than its own, even for "/"
            headers["X-BackendAI-Version"] = self.info.api_version
        if session:
            if self._cookie:
                headers["Cookie"] = f"{SESSION_COOKIE}={self._cookie}"
        elif signed:
            headers["Authorization"] = self._sign(method, url, headers, now, media_type)
        return url, headers

    def _sign(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], now: datetime, media_type: str
    ) -> str:
        if not (self._settings.access_key and self._settings.secret_key):
            name = "BACKEND_SECRET_KEY" if self._settings.access_key else "BACKEND_ACCESS_KEY"
            raise AuthFailed(f"{name} is not set")
        return authorization(
            self._settings.access_key,
            self._settings.secret_key,
            method=method,
            # What httpx puts on the wire, whatever it thinks of our percent-encoding.
            target=url.raw_path.decode("ascii"),
            now=now,
            host=headers["Host"],
            media_type=media_type,
            version=headers["X-BackendAI-Version"],
        )

    def _learn(self, response: httpx.Response, signed: bool) -> None:
        """Take the clock and the rate counters from a reply."""
        try:
            there = parsedate_to_datetime(response.headers["Date"])
            self.clock_offset_s = (there - self._now()).total_seconds()
        except (KeyError, ValueError, TypeError):
            pass
        if response.status_code == 429 or not signed:
            return  # unprotected routes claim 1000 of 1000 whoever asks
        try:
            h = response.headers
            limit, remaining = int(h["X-RateLimit-Limit"]), int(h["X-RateLimit-Remaining"])
            window_s = float(h.get("X-RateLimit-Window", "900"))
        except (KeyError, ValueError):
            return
        self.governor.on_reply(limit, remaining, window_s)

    def _failed(self, response: httpx.Response, raw: bytes) -> VfsError:
        p = problems.read_problem(response.status_code, raw)
        if 300 <= p.status < 400:
            return ProtocolError(
                f"{self._host()} answers with a redirection. Set BACKEND_ENDPOINT to the final address "
                "(https:// instead of http://?)",
                status=p.status,
            )
        if p.kind == "invalid-auth-params" and "sync" in p.text:
            return self._clock_skew()
        if p.kind in ("auth-failed", "invalid-auth-params") or p.status == 401:
            return self._auth_failed(p)
        error = problems.to_error(p)
        if isinstance(error, RateLimited):
            wait_s = self.governor.on_refused(_seconds(response.headers.get("X-RateLimit-Reset")))
            return RateLimited(f"{error}; calls are held back for {wait_s:.0f} s", detail=error.detail)
        if isinstance(error, RemoteUnavailable):
            return RemoteUnavailable(f"{self._host()}: {error}", status=p.status, detail=error.detail)
        return error

    def _clock_skew(self) -> ClockSkew:
        minutes = abs(self.clock_offset_s) / 60
        way = "behind" if self.clock_offset_s > 0 else "ahead of"
        return ClockSkew(
            f"this machine's clock is {minutes:.0f} minutes {way} the server's; 15 are tolerated. "
            "Set the clock (timedatectl set-ntp true)"
        )

    def _auth_failed(self, p: problems.Problem) -> AuthFailed:
        if p.kind == "password-expired":
            return AuthFailed("the password is too old: change it in the web console", detail=p.text)
        if self._settings.mode == "session":
            return AuthFailed(
                f"the login at {self._host()} is missing or has expired: run `vfsmount login`", detail=p.text
            )
        return AuthFailed(
            f"{self._host()} does not accept the key: check BACKEND_ACCESS_KEY and BACKEND_SECRET_KEY "
            "(the pair must be active and belong to this endpoint)",
            detail=p.text,
        )

    def _decode(self, raw: bytes) -> object:
        if not raw.strip():
            return None
        try:
            return loads(raw)
        except ValueError as e:
            raise ProtocolError(
                f"{self._host()} does not answer in JSON. Check BACKEND_ENDPOINT and BACKEND_ENDPOINT_TYPE"
            ) from e

    def _host(self) -> str:
        return urlsplit(self._endpoints[0]).netloc.rpartition("@")[2]


class _Limit:
    """How long a call may still be sent: to a point in time, and not after this machine was suspended,
    because trio's clock stands still meanwhile."""

    def __init__(self, not_after: float) -> None:
        self.not_after = not_after
        self._slept_s = slept()

    def check(self) -> None:
        """Raises TooLate."""
        if self.not_after == math.inf:
            return
        if trio.current_time() > self.not_after or slept() - self._slept_s >= SLEPT_S:
            raise TooLate("what this is based on was seen too long ago")

    def body(self, content: bytes | None) -> bytes | AsyncIterator[bytes] | None:
        """What is not given out later: a connection may take long to come about."""
        return content if content is None or self.not_after == math.inf else _InTime(content, self)


class _InTime(OnePiece):
    """A body with a limit."""

    def __init__(self, piece: bytes, limit: _Limit) -> None:
        super().__init__(piece)
        self._limit = limit

    async def __anext__(self) -> bytes:
        piece = await super().__anext__()
        self._limit.check()
        return piece


def _seconds(value: str | None) -> float | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None
