"""Storage hosts, how full they are, and what folders use of them.

Source: contract 3.4; Backend.AI manager ``api/vfolder.py``.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from vfsmount.server import params
from vfsmount.server.params import Field
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.records import FolderRecord, dashed
from vfsmount.server.settings import HOST
from vfsmount.server.state import Call, Route


async def hosts(call: Call) -> web.Response:
    """The one storage host, and how full it says it is."""
    used, total = await call.on_disk(call.server.volume.disk)
    usage = {"percentage": used / total * 100, "used": used, "total": total}
    shown = {k: v for k, v in usage.items() if k in call.server.faults.switches.usage}
    volume = {"backend": "vfs", "capabilities": ["vfolder"], "usage": shown, "sftp_scaling_groups": []}
    return web.json_response({"default": HOST, "allowed": [HOST], "volume_info": {HOST: volume}})


async def all_hosts(call: Call) -> web.Response:
    """Every host of the cluster."""
    return web.json_response({"default": HOST, "allowed": [HOST]})


async def allowed_types(call: Call) -> web.Response:
    """Whose folders there can be."""
    return web.json_response(["user", "group"])


async def usage(call: Call) -> web.Response:
    """Entries and bytes of any folder."""
    files, size = await call.on_disk(call.server.volume.usage, _any_folder(call).id)
    return _under_data(call, {"file_count": files, "used_bytes": size})


async def used_bytes(call: Call) -> web.Response:
    """Bytes of any folder."""
    _, size = await call.on_disk(call.server.volume.usage, _any_folder(call).id)
    return _under_data(call, {"used_bytes": size})


def _any_folder(call: Call) -> FolderRecord:
    folder = call.records.folder(call.params["id"])
    if folder is None:
        raise no_such("virtual folder", dashed(call.params["id"]))
    return folder


def _under_data(call: Call, reply: dict[str, Any]) -> web.Response:
    return web.json_response({"data": reply} if call.dialect.codes else reply)


async def quota(call: Call) -> web.Response:
    """Retired: the storage-proxy refuses quota per folder."""
    raise Problem("vfolder-operation-failed", "Storage proxy responded with 400 Bad Request")


_HOST_AND_ID = (Field("folder_host", params.text), Field("id", params.hex_id))

ROUTES = (
    Route(
        "GET",
        "/folders/_/hosts",
        hosts,
        (Field("group_id", params.optional(params.text), None, ("groupId",)),),
    ),
    Route("GET", "/folders/_/all-hosts", all_hosts, role="superadmin"),
    Route("GET", "/folders/_/all_hosts", all_hosts, role="superadmin"),
    Route("GET", "/folders/_/allowed-types", allowed_types),
    Route("GET", "/folders/_/allowed_types", allowed_types),
    Route("GET", "/folders/_/usage", usage, _HOST_AND_ID, role="superadmin"),
    Route("GET", "/folders/_/used-bytes", used_bytes, _HOST_AND_ID, role="superadmin"),
    Route("GET", "/folders/_/quota", quota),
    Route("POST", "/folders/_/quota", quota),
)
