"""Session mode: the webserver's log-in by password and cookie, before the calls below ``/func``.

Source: contract 2.5; Backend.AI webserver.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from aiohttp import web

from vfsmount.server.account import user_with_password
from vfsmount.server.manager import COOKIE
from vfsmount.server.problems import Problem
from vfsmount.server.records import User
from vfsmount.server.state import Call, Route, Server

COOKIE_LIFE_S = 7 * 86400
MAX_FAILURES = 10
BLOCK_S = 20 * 60


async def login(call: Call) -> web.Response:
    """A cookie for the right password; wrong ones are 200 as well and say so in the body."""
    given = await _body(call)
    if _logged_in(call):
        raise Problem("generic-bad-request", "You have already logged in.")
    if not isinstance(given.get("username"), str) or not isinstance(given.get("password"), str):
        raise Problem("invalid-api-params", "You must provide the username and password fields.")
    _refuse_blocked(call.server, given["username"])
    user = user_with_password(call.records, given["username"], given["password"])
    refusal = _refusal(call, user, given.get("otp"))
    if user is None or refusal is not None:
        call.server.failed_logins.setdefault(given["username"], []).append(time.monotonic())
        return web.json_response({"authenticated": False, "data": refusal})
    call.server.failed_logins.pop(given["username"], None)
    cookie = secrets.token_urlsafe(32)
    call.records.add_login(cookie, user.id, time.time() + COOKIE_LIFE_S)
    reply = web.json_response({"authenticated": True, "data": _data(user)})
    reply.set_cookie(COOKIE, cookie, max_age=COOKIE_LIFE_S, httponly=True)
    return reply


def _refusal(call: Call, user: User | None, otp: Any) -> dict[str, str] | None:
    kind = "https://api.backend.ai/probs/"
    if user is None:
        title = "Credential/signature mismatch."
        return {"type": kind + "auth-failed", "title": title, "details": "User credential mismatch."}
    wanted = call.server.settings.otp.get(user.name)
    if wanted is None or (isinstance(otp, str) and secrets.compare_digest(otp.encode(), wanted.encode())):
        return None
    if otp:
        return {
            "type": kind + "auth-failed",
            "title": "Invalid TOTP code.",
            "details": "Invalid TOTP code provided.",
        }
    if call.dialect.codes:
        return {"type": kind + "require-totp-authentication", "title": "TOTP needed.", "details": ""}
    return {"type": kind + "rejected-by-hook", "title": "TOTP needed.", "details": "OTP not provided"}


def _refuse_blocked(server: Server, name: str) -> None:
    recent = [t for t in server.failed_logins.get(name, []) if t > time.monotonic() - BLOCK_S]
    if len(recent) >= MAX_FAILURES:
        raise Problem("rate-limit-exceeded", "Too many failed login attempts.", title="Too many attempts.")


async def check(call: Call) -> web.Response:
    """Whose cookie this is, if anybody's."""
    user = _logged_in(call)
    data = _data(user) if user else None
    session = call.request.cookies.get(COOKIE) if user else None
    return web.json_response({"authenticated": user is not None, "data": data, "session_id": session})


async def logout(call: Call) -> web.Response:
    """The cookie is worth nothing any more."""
    call.records.drop_login(call.request.cookies.get(COOKIE, ""))
    reply = web.Response(status=200 if call.dialect.codes else 201)
    reply.del_cookie(COOKIE)
    return reply


def _logged_in(call: Call) -> User | None:
    return call.records.login(call.request.cookies.get(COOKIE, ""), time.time())


def _data(user: User) -> dict[str, str]:
    return {"access_key": user.access_key, "role": user.role, "status": "active"}


async def _body(call: Call) -> dict[str, Any]:
    try:
        given = json.loads(await call.request.read())
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise Problem("invalid-api-params", "You must provide the username and password fields.")
    return given


ROUTES = (
    Route("POST", "/server/login", login, role="none"),
    Route("POST", "/server/login-check", check, role="none"),
    Route("POST", "/server/logout", logout, role="none"),
)
