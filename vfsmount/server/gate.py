"""What every call of either half passes through: counting, delay, ordered faults, and the one
place where problems and crashes become replies.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import web

from vfsmount.server.control import PREFIX
from vfsmount.server.downloads import FileReply
from vfsmount.server.faults import Half, Rule
from vfsmount.server.manager import SESSION_PREFIX
from vfsmount.server.problems import Problem, crash, storage_params
from vfsmount.server.state import RULE, SERVER, Server

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: close sends RST and forgets the rest


def gate(half: Half, server: Server) -> web.Application:
    """An empty application whose calls are counted and may go wrong on demand."""

    @web.middleware
    async def middleware(
        request: web.Request,
        handler: Next,
    ) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            return await handler(request)
        server.calls.arrived[_key(half, request)] += 1
        rule = server.faults.take(half, request.method, _path(request))
        try:
            return await _with_faults(half, server, request, handler, rule)
        except ConnectionError:
            drop(request, reset=rule is not None and rule.action == "reset")
            return web.Response()  # into the void

    async def on_prepare(request: web.Request, reply: web.StreamResponse) -> None:
        if half == "manager":
            reply.headers["Server"] = "BackendAI"
        if offset_s := server.faults.switches.clock_offset_s:
            reply.headers["Date"] = formatdate(time.time() + offset_s, usegmt=True)
        if not request.path.startswith(PREFIX):
            server.calls.statuses[(*_key(half, request), reply.status)] += 1

    app = web.Application(middlewares=[middleware])
    app[SERVER] = server
    app.on_response_prepare.append(on_prepare)
    return app


def _path(request: web.Request) -> str:
    return request.path.removeprefix(SESSION_PREFIX) or "/"


def _key(half: Half, request: web.Request) -> tuple[str, str, str]:
    resource = request.match_info.route.resource
    route = resource.canonical.removeprefix(SESSION_PREFIX) if resource else "unknown"
    return half, request.method, route


async def _with_faults(
    half: Half,
    server: Server,
    request: web.Request,
    handler: Next,
    rule: Rule | None,
) -> web.StreamResponse:
    delay_s = server.faults.delay_s(half, _key(half, request)[2])
    if delay_s:
        await asyncio.sleep(delay_s)
    if rule is None:
        return await _answer(half, server, request, handler)
    if rule.action == "status":
        return web.Response(status=rule.status, text=f"{rule.status}: ordered by a test")
    if rule.action == "reset":
        raise ConnectionResetError("ordered by a test")
    if rule.action == "delay":
        await asyncio.sleep(rule.delay_ms / 1000)
    if rule.action == "stall":
        await server.faults.stalled()
    if rule.action == "refuse_token":
        refusal = storage_params({"token": "cannot decode the given value as JWT: Signature has expired"})
        return refusal.response(with_code=server.dialect.codes)
    if rule.action == "cut_up":
        request[RULE] = rule
    reply = await _answer(half, server, request, handler)
    if rule.action == "lose_reply":
        raise ConnectionResetError("the work is done, nobody hears of it")
    if rule.action == "hold_reply":
        await server.faults.stalled()
    if rule.action == "cut_down":
        return await _cut(request, reply, rule.after_bytes)
    return reply


async def _answer(half: Half, server: Server, request: web.Request, handler: Next) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response(with_code=server.dialect.codes)
    except web.HTTPException as e:
        if half == "storage":
            raise
        return _http_problem(request, e).response(with_code=server.dialect.codes)
    except ConnectionError:
        raise
    except Exception:
        # No secret in here: tracebacks show code, and no message of ours holds a token.
        _log.exception("server.crash half=%s method=%s path=%s", half, request.method, request.path)
        if half == "storage":
            return crash()
        return Problem("internal-server-error").response(with_code=server.dialect.codes)


def _http_problem(request: web.Request, error: web.HTTPException) -> Problem:
    if error.status == 404:
        return Problem("url-not-found", data=request.path)
    return Problem("method-not-allowed" if error.status == 405 else "generic-bad-request")


async def _cut(request: web.Request, reply: web.StreamResponse, after: int) -> web.StreamResponse:
    """Promise the whole body, send its first `after` bytes, hang up."""
    if isinstance(reply, FileReply):
        reply.cut_after = after
        return reply
    assert isinstance(reply, web.Response)
    body = reply.body if isinstance(reply.body, bytes) else b""
    part = web.StreamResponse(status=reply.status, headers=reply.headers)
    part.content_length = len(body)
    await part.prepare(request)
    await part.write(body[:after])
    raise ConnectionError("cut after the first bytes")


def drop(request: web.Request, *, reset: bool) -> None:
    """End the connection without another word: with what was written, or with a reset."""
    transport = request.transport
    if transport is None:
        return
    if reset:
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    else:
        transport.close()
