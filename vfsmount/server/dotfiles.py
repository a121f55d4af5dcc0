"""Small files that sessions of a user, project or domain start with.

Source: contract 3.9; Backend.AI manager ``api/userconfig.py``, ``api/groupconfig.py``.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web

from vfsmount.server import params
from vfsmount.server.access import accessible
from vfsmount.server.params import Field
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.records import Dotfile
from vfsmount.server.settings import DOMAIN
from vfsmount.server.state import Call, Route

MAX_BYTES = 65536  # of one dotfile, and of all of a scope packed together
MAX_COUNT = 100
_RESERVED = frozenset({".terminfo", ".jupyter", ".ssh", ".ssh/authorized_keys", ".local", ".config"})
_PERMISSION = re.compile(r"[0-7]{3}")


async def create(call: Call) -> web.Response:
    """One more dotfile."""
    scope, owner = _scope(call, write=True)
    wanted, known = _checked(call), call.records.dotfiles(scope, owner)
    if len(known) >= MAX_COUNT:
        raise _refused("Dotfile creation limit reached")
    if wanted.path in _RESERVED:
        raise _invalid(call, "dotfile path is reserved for internal operations.")
    if scope == "user" and _is_folder(call, wanted.path):
        raise _invalid(call, "dotfile path conflicts with your dot-prefixed vFolder")
    if any(d.path == wanted.path for d in known):
        raise Problem("generic-bad-request", title="Dotfile already exists.")
    return _keep(call, scope, owner, known, wanted)


async def update(call: Call) -> web.Response:
    """Other content or permission for a known one."""
    scope, owner = _scope(call, write=True)
    known = call.records.dotfiles(scope, owner)
    others = [d for d in known if d.path != call.params["path"]]
    if len(others) == len(known):
        raise no_such("dotfile")
    return _keep(call, scope, owner, others, _checked(call))


async def read(call: Call) -> web.Response:
    """All of a scope, or one; one has ``perm`` where the list has ``permission``."""
    scope, owner = _scope(call, write=False)
    known, path = call.records.dotfiles(scope, owner), call.params["path"]
    if not path:
        if scope == "user" and call.dialect.strict:
            # The old one lists the caller's own, whoever is named (``userconfig.list_or_get``).
            known = call.records.dotfiles(scope, call.user.id)
        return web.json_response(
            [{"path": d.path, "permission": d.permission, "data": d.data} for d in known]
        )
    found = next((d for d in known if d.path == path), None)
    if found is None:
        raise no_such("dotfile")
    return web.json_response(_packed(found))


async def delete(call: Call) -> web.Response:
    """One less."""
    scope, owner = _scope(call, write=True)
    if all(d.path != call.params["path"] for d in call.records.dotfiles(scope, owner)):
        raise no_such("dotfile")
    call.records.drop_dotfile(scope, owner, call.params["path"])
    return web.json_response({"success": True})


def _keep(call: Call, scope: str, owner: str, others: list[Dotfile], wanted: Dotfile) -> web.Response:
    packed = msgspec.msgpack.encode([_packed(d) for d in [*others, wanted]])
    if len(packed) > MAX_BYTES:
        raise _refused("No leftover space for dotfile storage")
    call.records.put_dotfile(scope, owner, wanted)
    return web.json_response({})


def _packed(dotfile: Dotfile) -> dict[str, str]:
    return {"path": dotfile.path, "perm": dotfile.permission, "data": dotfile.data}


def _checked(call: Call) -> Dotfile:
    p = call.params
    bad = {}
    if not _PERMISSION.fullmatch(p["permission"]):
        bad["permission"] = "does not match pattern ^[0-7]{3}$"
    if len(p["data"]) > MAX_BYTES:
        bad["data"] = f"String is longer than {MAX_BYTES} characters"
    if bad and call.dialect.codes:
        raise Problem("generic-bad-request", "Input validation error", bad)
    if bad:
        raise Problem("invalid-api-params", "Input validation error", bad)
    return Dotfile(p["path"], p["permission"], p["data"])


def _refused(msg: str) -> Problem:
    return Problem("generic-bad-request", msg, title="Dotfile creation has failed.")


def _invalid(call: Call, msg: str) -> Problem:
    return Problem("generic-bad-request" if call.dialect.codes else "invalid-api-params", msg)


def _is_folder(call: Call, path: str) -> bool:
    return any(a.folder.name == path for a in accessible(call.records, call.user, call.dialect))


# --- scopes: the parameters tell which ---------------------------------------------------------


def _scope(call: Call, *, write: bool) -> tuple[str, str]:
    """(scope, owner) of the dotfiles a call means, if the caller may."""
    if "group" in call.params:
        return "group", _group(call, write=write)
    if "domain" in call.params:
        return "domain", _domain(call, write=write)
    key = call.params["owner_access_key"]
    owner = call.user if key in (None, call.user.access_key) else call.records.user_by("access_key", key)
    if owner is None:
        raise Problem("invalid-api-params", "Unknown access key")
    if owner != call.user and not call.user.is_superadmin:
        raise Problem("generic-forbidden", "Only admins can perform operations on behalf of other users.")
    return "user", owner.id


def _group(call: Call, *, write: bool) -> str:
    wanted = call.params["group"]
    found = call.records.project(wanted.replace("-", "")) or call.records.project(wanted)
    if found is not None and found[1] == wanted and call.params["domain"] is None:
        raise Problem("invalid-api-params", "Missing parameter 'domain'")
    if found is None or call.params["domain"] not in (None, DOMAIN):
        raise no_such("user group (or project)")
    _require_admin(call, write)
    if not call.user.is_superadmin and found[0] not in call.records.projects_of(call.user.id):
        raise Problem("generic-forbidden", "Users cannot access group dotfiles of other groups")
    return found[0]


def _domain(call: Call, *, write: bool) -> str:
    if call.params["domain"] != DOMAIN:
        raise no_such("domain")
    _require_admin(call, write)
    return DOMAIN


def _require_admin(call: Call, write: bool) -> None:
    if write and not call.user.is_superadmin:
        raise Problem("generic-forbidden" if call.dialect.codes else "auth-failed", "Unauthorized access")


# --- bootstrap script --------------------------------------------------------------------------


async def set_bootstrap_script(call: Call) -> web.Response:
    """What every session of the caller runs first."""
    script = call.params["script"].strip()
    if len(script) > MAX_BYTES:
        raise _refused("Maximum bootstrap script length reached")
    call.records.set_bootstrap_script(call.user.id, script)
    return web.json_response({})


async def bootstrap_script(call: Call) -> web.Response:
    """The script, as a JSON string."""
    return web.json_response(call.user.bootstrap_script)


def _routes(prefix: str, scope: tuple[Field, ...]) -> tuple[Route, ...]:
    content: tuple[Any, ...] = (
        Field("data", params.text),
        Field("path", params.text),
        Field("permission", params.text),
    )
    url = f"/{prefix}/dotfiles"
    return (
        Route("POST", url, create, content + scope),
        Route("GET", url, read, (Field("path", params.optional(params.text), None), *scope)),
        Route("PATCH", url, update, content + scope),
        Route("DELETE", url, delete, (Field("path", params.text), *scope), place="query"),
    )


_GROUP = Field("group", params.text, aliases=("groupId", "group_id"))

ROUTES = (
    *_routes("user-config", (Field("owner_access_key", params.optional(params.text), None),)),
    *_routes("group-config", (_GROUP, Field("domain", params.optional(params.text), None))),
    *_routes("domain-config", (Field("domain", params.text),)),
    Route("POST", "/user-config/bootstrap-script", set_bootstrap_script, (Field("script", params.any_text),)),
    Route("GET", "/user-config/bootstrap-script", bootstrap_script),
)
