"""Just enough GraphQL for ``backend.ai vfolder list`` and for quotas: folder lists with the asked-for fields,
and one quota scope.

No parser: the official clients send one list field with flat ``items``, or one scope with its arguments as
variables. Anything else is an error in the reply, as an unknown field is on the real one.
Source: contract 10.10; Backend.AI manager ``api/admin.py``.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from vfsmount.server import params, quota
from vfsmount.server.access import Access, accessible
from vfsmount.server.params import Field
from vfsmount.server.problems import Problem
from vfsmount.server.records import dashed
from vfsmount.server.settings import PROJECT
from vfsmount.server.state import Call, Route

_LISTS = re.compile(r"\b(vfolder_list|vfolder_own_list|vfolder_invited_list|vfolder_project_list)\b")
_SCOPE = re.compile(r"\bquota_scope\s*\(")
_DETAILS = re.compile(r"\bdetails\s*\{([^{}]*)\}")
_ITEMS = re.compile(r"\bitems\s*\{([^{}]*)\}")
_WAYS = {
    "vfolder_own_list": ("own",),
    "vfolder_invited_list": ("invited",),
    "vfolder_project_list": ("project",),
}


async def query(call: Call) -> web.Response:
    """The reply of the current end point: ``data`` or ``errors``."""
    if _SCOPE.search(call.params["query"]):
        return web.json_response(await _quota_scope(call))
    try:
        return web.json_response({"data": _answer(call)})
    except ValueError as e:
        return web.json_response({"data": None, "errors": [{"message": str(e)}]})


async def query_legacy(call: Call) -> web.Response:
    """The reply of the old end point: the data alone."""
    try:
        return web.json_response(_answer(call))
    except ValueError as e:
        raise Problem("graphql-error", data=[{"message": str(e)}]) from None


async def _quota_scope(call: Call) -> dict[str, Any]:
    variables = call.params["variables"] or {}
    asked = _DETAILS.search(call.params["query"])
    host, scope = (str(variables.get(name, "")) for name in ("storage_host_name", "quota_scope_id"))
    try:
        found = await quota.details(call, host, scope)
    except ValueError as e:
        return {"data": {"quota_scope": None}, "errors": [{"message": str(e), "path": ["quota_scope"]}]}
    return {"data": {"quota_scope": {"details": {f: found[f] for f in asked[1].split()} if asked else {}}}}


def _answer(call: Call) -> dict[str, Any]:
    text, variables = call.params["query"], call.params["variables"] or {}
    name, fields = _LISTS.search(text), _ITEMS.search(text)
    if name is None or fields is None:
        raise ValueError("The embedded server answers folder lists and quota scopes only.")
    nodes = [_node(call, a) for a in _folders(call, name[1])]
    offset, limit = _number(text, variables, "offset", 0), _number(text, variables, "limit", len(nodes))
    asked = fields[1].split()
    items = [{field: node.get(field) for field in asked} for node in nodes[offset : offset + limit]]
    return {name[1]: {"items": items, "total_count": len(nodes)}}


def _number(text: str, variables: dict[str, Any], name: str, default: int) -> int:
    literal = re.search(rf"\b{name}\s*:\s*(\d+)", text)
    value = literal[1] if literal else variables.get(name)
    return default if value is None else int(value)


def _folders(call: Call, name: str) -> list[Access]:
    seen = accessible(call.records, call.user, call.dialect)
    if name in _WAYS:
        return [a for a in seen if a.via in _WAYS[name]]
    if call.user.is_superadmin:
        return [Access(f, "admin", False, f.permission, "wd") for f in call.records.folders()]
    return [a for a in seen if a.via != "invited"]


def _node(call: Call, access: Access) -> dict[str, Any]:
    folder = access.folder
    owner = call.records.user_by("id", folder.user) if folder.user else None
    return {
        "id": dashed(folder.id),
        "host": folder.host,
        "quota_scope_id": folder.quota_scope,
        "name": folder.name,
        "user": dashed(folder.user) if folder.user else None,
        "user_email": owner.email if owner else None,
        "group": dashed(folder.project) if folder.project else None,
        "group_name": PROJECT if folder.project else None,
        "creator": folder.creator,
        "unmanaged_path": folder.unmanaged_path,
        "usage_mode": folder.usage_mode,
        "permission": access.permission,
        "ownership_type": folder.ownership,
        "max_files": 0,
        "max_size": folder.max_size,
        "created_at": folder.created_at.replace(" ", "T"),
        "last_used": None,
        "num_files": 0,
        "cur_size": 0,
        "cloneable": bool(folder.cloneable),
        "status": folder.status,
    }


_QUERY = (
    Field("query", params.text),
    Field("variables", params.optional(params.mapping), None),
    Field("operation_name", params.optional(params.text), None, ("operationName",)),
)

ROUTES = (
    Route("POST", "/admin/gql", query, _QUERY),
    Route("POST", "/admin/graphql", query_legacy, _QUERY),
)
