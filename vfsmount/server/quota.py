"""Quota scopes: what an owner or a project may store on a host, and stores there.

Limits are set by tests (the switch ``quota``); nothing is refused because of them.
Source: contract 3.4; Backend.AI manager ``QuotaScope`` of its GraphQL schema.
"""

from __future__ import annotations

import uuid
from typing import Any

from aiohttp import web

from vfsmount.server.problems import Problem
from vfsmount.server.settings import HOST
from vfsmount.server.state import Call, Route


async def details(call: Call, host: str, scope: str) -> dict[str, Any]:
    """The fields of one scope, null where the filesystem knows nothing of it.

    Raises:
        ValueError: the caller may not ask, or there is no such host or scope; as GraphQL words it.
    """
    kind, _, ident = scope.partition(":")
    if kind not in ("user", "project"):
        raise ValueError(f"Unsupported vFolder quota scope type {kind}")
    who = uuid.UUID(ident).hex
    if host != HOST:
        raise ValueError(f"storage volume {host} does not exist")
    allowed = {call.user.id, *call.records.projects_of(call.user.id)}
    if who not in allowed and not call.user.is_superadmin:
        raise ValueError("Missing or invalid API parameters.")
    limit = call.server.faults.switches.quota.get(scope)
    used = None
    if limit is not None:
        volume = call.server.volume
        folders = [f.id for f in call.records.folders() if f.quota_scope == scope]
        there = [f for f in folders if volume.folder(f).is_dir()]
        used = sum([(await call.on_disk(volume.usage, f))[1] for f in there])
    return {"usage_bytes": used, "usage_count": None, "hard_limit_bytes": limit or None}


async def one_scope(call: Call) -> web.Response:
    """The REST form (26.x), for superadmins."""
    host, scope = call.request.match_info["host"], call.request.match_info["scope"]
    try:
        found = await details(call, host, scope)
    except ValueError as e:
        raise Problem("invalid-api-params", str(e)) from None
    return web.json_response({"quota_scope": {"quota_scope_id": scope, "storage_host_name": host, **found}})


ROUTES = (Route("GET", "/quota-scopes/{host}/{scope}", one_scope, role="superadmin", only="26"),)
