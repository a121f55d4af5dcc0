"""Calls about the server and the caller rather than about folders.

Source: contract 2.3, 2.4, 7 "Maintenance"; Backend.AI manager ``api/auth.py``, ``api/manager.py``.
"""

from __future__ import annotations

from hmac import compare_digest

from aiohttp import web

from vfsmount.server import params
from vfsmount.server.dialect import Dialect
from vfsmount.server.faults import Order
from vfsmount.server.params import REQUIRED, Field
from vfsmount.server.problems import Problem
from vfsmount.server.records import Records, User
from vfsmount.server.state import Call, Route


async def version(call: Call) -> web.Response:
    """Which protocol this is."""
    return web.json_response({"version": call.dialect.api_version, "manager": call.dialect.manager_version})


async def probe(call: Call) -> web.Response:
    """The cheapest signed call."""
    echo = call.params["echo"] if call.request.method == "POST" or call.dialect.strict else ""
    return web.json_response({"authorized": "yes", "echo": echo})


async def role(call: Call) -> web.Response:
    """What the caller may do here."""
    group = call.params["group"]
    if group is not None and group not in call.records.projects_of(call.user.id):
        title = "No such project (user group)."
        raise Problem("object-not-found", "No such project or you are not the member of it.", title=title)
    admin = call.user.is_superadmin
    return web.json_response(
        {
            "global_role": "superadmin" if admin else "user",
            "domain_role": "admin" if admin else "user",
            "group_role": None if group is None else "user",
        }
    )


async def authorize(call: Call) -> web.Response:
    """The key pair of whoever knows the password."""
    if call.params["type"] != "keypair":
        raise Problem("invalid-api-params", "Unsupported authorization type")
    user = user_with_password(call.records, call.params["username"], call.params["password"])
    if user is None:
        raise Problem("auth-failed", "User credential mismatch.")
    data = {
        "access_key": user.access_key,
        "secret_key": user.secret_key,
        "role": user.role,
        "status": "active",
    }
    if call.dialect.codes:
        data |= {"response_type": "success", "session_token": ""}
    return web.json_response({"data": data})


def user_with_password(records: Records, name: str, password: str) -> User | None:
    """The account of that name or e-mail, if the password is its own."""
    user = records.user_by("email", name) or records.user_by("name", name)
    right = user is not None and compare_digest(user.password.encode(), password.encode())
    return user if right else None


async def status(call: Call) -> web.Response:
    """Whether the manager runs or is frozen."""
    state = "frozen" if call.server.faults.switches.frozen else "running"
    node = {
        "id": "vfsmount",
        "num_proc": 1,
        "status": state,
        "version": call.dialect.manager_version,
        "api_version": call.dialect.api_version,
        "active_sessions": 0,
    }
    return web.json_response({"nodes": [node], "status": state, "active_sessions": 0})


async def set_status(call: Call) -> web.Response:
    """Freeze or run."""
    call.server.faults.apply(Order(switches={"frozen": call.params["status"] == "frozen"}))
    return web.Response(status=204)


async def announcement(call: Call) -> web.Response:
    """What the administrators want everybody to read."""
    message = call.server.faults.switches.announcement
    return web.json_response({"enabled": bool(message), "message": message})


async def alive(call: Call) -> web.Response:
    """26.x: somebody is there."""
    return web.Response()


async def health(call: Call) -> web.Response:
    """26.x: somebody is there, of this version."""
    return web.json_response({"status": "ok", "version": call.dialect.manager_version})


def routes(dialect: Dialect) -> tuple[Route, ...]:
    """The table; 26.x wants even maintenance questions signed, 23.09 something to echo."""
    open_or_signed = "user" if dialect.codes else "none"
    echo = (Field("echo", params.text, REQUIRED if dialect.strict else ""),)
    return (
        Route("GET", "/", version, role="none"),
        Route("GET", "/auth", probe, echo),
        Route("POST", "/auth", probe, echo),
        Route("GET", "/auth/role", role, (Field("group", params.optional(params.hex_id), None),)),
        Route("POST", "/auth/authorize", authorize, _AUTHORIZE, role="none"),
        Route("GET", "/manager/status", status, role=open_or_signed),  # type: ignore[arg-type]
        Route("PUT", "/manager/status", set_status, _STATUS, role="superadmin"),
        Route("GET", "/manager/announcement", announcement, role=open_or_signed),  # type: ignore[arg-type]
        Route("GET", "/health", health, role="none", only="26"),
        Route("GET", "/health/livez", alive, role="none", only="26"),
        Route("GET", "/health/readyz", alive, role="none", only="26"),
    )


_AUTHORIZE = (
    Field("type", params.one_of("keypair", "jwt")),
    Field("domain", params.text),
    Field("username", params.text),
    Field("password", params.text),
    Field("stoken", params.optional(params.any_text), None),
    Field("otp", params.optional(params.any_text), None),
)
_STATUS = (
    Field("status", params.one_of("running", "frozen")),
    Field("force_kill", params.boolean, False),
)
