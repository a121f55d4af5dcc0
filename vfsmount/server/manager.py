"""The manager half: what happens to every call before and after its handler.

In this order, as on the real one: API version, signature or cookie, role, rate limit, maintenance,
the folder in the path with the caller's right to it, parameters, handler.
Source: contract 2.2, 7; Backend.AI manager ``server.py``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from hmac import compare_digest

from aiohttp import web

from vfsmount.server import access, auth, ratelimit
from vfsmount.server.params import read_params
from vfsmount.server.problems import Problem
from vfsmount.server.ratelimit import Budget
from vfsmount.server.records import User
from vfsmount.server.state import SERVER, Call, Route, Server

COOKIE = "AIOHTTP_SESSION"
SESSION_PREFIX = "/func"


async def serve(request: web.Request, route: Route) -> web.StreamResponse:
    """Answer one call of `route`: its handler's reply, or the problem that stopped it."""
    server = request.app[SERVER]
    headers: dict[str, str] = {}
    try:
        return await _serve(request, route, server, headers)
    except Problem as problem:
        # The old rate limiter adds its headers to what handlers return, not to what they raise.
        new = server.dialect.codes
        return problem.response(with_code=new, headers=headers if new else None)


async def _serve(
    request: web.Request, route: Route, server: Server, headers: dict[str, str]
) -> web.StreamResponse:
    _check_version(request, server)
    user = None
    if route.role != "none":
        user = _cookie_user(request, server) if _is_session(request) else _signed_user(request, server)
    _count(request, server, user, headers)
    if user is not None:
        _check_role(user, route, server)
    _check_frozen(route, server)
    call = Call(request, server, caller=user)
    if route.need is not None:
        call.access = _find(call, route)
    if route.fields is not None:
        call.params = await read_params(request, server.dialect, route.fields, route.place)
    reply = await route.handler(call)
    if not reply.prepared:
        reply.headers.update(headers)
    return reply


def _is_session(request: web.Request) -> bool:
    return request.path.startswith(SESSION_PREFIX + "/")


def _check_version(request: web.Request, server: Server) -> None:
    version = request.headers.get("X-BackendAI-Version") or request.headers.get("X-Sorna-Version")
    if version is not None and version not in server.dialect.api_versions:
        raise Problem("generic-bad-request", "Unsupported API version.")


def _signed_user(request: web.Request, server: Server) -> User:
    date_text = next(
        (request.headers[h] for h in ("Date", "X-BackendAI-Date", "X-Sorna-Date") if h in request.headers),
        None,
    )
    header = request.headers.get("Authorization")
    if header is None and date_text is None and server.dialect.codes:
        raise Problem("auth-failed", "Unauthorized access")
    date = auth.parse_date(date_text) if date_text else None
    now = datetime.now(UTC) + timedelta(seconds=server.faults.switches.clock_offset_s)
    if date is None or date_text is None or not auth.within_skew(date, now):
        raise Problem("invalid-auth-params", "Date/time sync error")
    if header is None:
        raise Problem("auth-failed", "Unauthorized access")
    try:
        credential = auth.parse_authorization(header)
        user = server.records.user_by("access_key", credential.access_key)
        if user is None:
            raise Problem("auth-failed", "Access key not found")
        expected = auth.signature(_signable(request, date_text), credential.method, user.secret_key)
    except auth.BadAuthHeader as e:
        raise Problem("invalid-auth-params", str(e)) from None
    if not compare_digest(expected.encode(), credential.signature.encode()):
        raise Problem("auth-failed", "Signature mismatch")
    return user


def _signable(request: web.Request, date_text: str) -> auth.Signable:
    new = request.headers.get("X-BackendAI-Version")
    version = new or request.headers.get("X-Sorna-Version")
    if version is None:
        raise auth.BadAuthHeader("API version missing in request headers")
    return auth.Signable(
        method=request.method,
        target=request.raw_path,
        date=date_text,
        host=request.host,
        content_type=request.content_type,
        version=version,
        version_header="backendai" if new else "sorna",
    )


def _cookie_user(request: web.Request, server: Server) -> User:
    cookie = request.cookies.get(COOKIE, "")
    user = server.records.login(cookie, time.time())
    if user is None:
        raise Problem("auth-failed", "Unauthorized access")
    return user


def _check_role(user: User, route: Route, server: Server) -> None:
    if route.role == "superadmin" and not user.is_superadmin:
        raise Problem("generic-forbidden" if server.dialect.codes else "auth-failed", "Unauthorized access")


def _count(request: web.Request, server: Server, user: User | None, headers: dict[str, str]) -> None:
    budget = _budget(request, server, user)
    headers |= budget.headers(with_reset=server.dialect.codes)
    if budget.exceeded:
        server.calls.refused += 1
        raise Problem("rate-limit-exceeded")


def _budget(request: web.Request, server: Server, user: User | None) -> Budget:
    now, switches = time.monotonic(), server.faults.switches
    window_s = server.settings.rate_window
    if user is not None:
        own = request.headers.get("User-Agent", "").startswith("vfsmount/")
        return server.limiter.count(user.access_key, switches.rate_limit, now, window_s=window_s, own=own)
    if server.dialect.codes:
        caller = f"address {request.remote}"
        return server.limiter.count(caller, switches.anonymous_limit, now, window_s=window_s)
    return ratelimit.UNCOUNTED


def _check_frozen(route: Route, server: Server) -> None:
    refusing = route.frozen == "all" or (route.frozen == "new" and server.dialect.codes)
    if server.faults.switches.frozen and refusing:
        raise Problem("server-frozen")


def _find(call: Call, route: Route) -> access.Access:
    assert route.need is not None
    server = call.server
    return access.find(
        server.records,
        call.user,
        server.dialect,
        call.request.match_info["vf"],
        route.need,
        route.status,
        invited_create=server.faults.switches.invited_create,
    )
