"""How folders end: for good in 23.09, by way of the trash in 26.x.

Source: contract 3.3 "Delete, trash, purge"; Backend.AI manager ``api/vfolder.py``.
"""

from __future__ import annotations

from aiohttp import web

from vfsmount.server import params
from vfsmount.server.access import Access, accessible, by_id_of
from vfsmount.server.params import Field
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.records import FolderRecord, dashed
from vfsmount.server.state import Call, Route, Server


async def delete_by_name(call: Call) -> web.Response:
    """23.09: removal that cannot be taken back; 26.x: into the trash."""
    name = call.request.match_info["vf"]
    seen = accessible(call.records, call.user, call.dialect)
    found = [a for a in seen if a.folder.name == name]
    if not found:
        raise no_such("virtual folder", name)
    if call.dialect.trash:
        if len(found) > 1:
            raise Problem("ambiguous-entity-key", f"Multiple virtual folders are named {name!r}.")
        return await _to_trash(call, found[0])
    if any(a.folder.status != "ready" for a in found):
        raise Problem("vfolder-filter-status-failed")
    if len(found) > 1:
        raise Problem("too-many-vfolders", "Multiple folders with the same name.")
    if not found[0].is_owner and found[0].permission != "wd":
        raise Problem("invalid-api-params", "Cannot delete the vfolder that is not owned by myself.")
    _remove(call, found[0].folder)
    return web.Response(status=204)


async def delete_by_id(call: Call) -> web.Response:
    """The same by id: superadmins only in 23.09, who may access it in 26.x."""
    if call.dialect.trash:
        return await _to_trash(call, _by_id(call))
    folder = call.records.folder(call.params["id"])
    if not call.user.is_superadmin:
        raise Problem("auth-failed", "Unauthorized access")
    if folder is None:
        raise no_such("virtual folder", dashed(call.params["id"]))
    if folder.status != "ready":
        raise Problem("vfolder-filter-status-failed")
    _remove(call, folder)
    return web.Response(status=204)


def _by_id(call: Call) -> Access:
    seen = accessible(call.records, call.user, call.dialect)
    found = by_id_of(call.records, call.user, seen, call.params["id"])
    if not found:
        raise no_such("virtual folder", dashed(call.params["id"]))
    return found[0]


async def _to_trash(call: Call, access: Access) -> web.Response:
    if access.enforced == "ro":
        raise Problem("not-enough-permission", "Missing the permission to SOFT_DELETE the virtual folder.")
    _require_status(access.folder, "ready", "mounted")
    call.records.update_folder(access.folder.id, status="delete-pending")
    return web.Response(status=204)


async def restore(call: Call) -> web.Response:
    """Out of the trash."""
    folder = _owned_by_id(call)
    _require_status(folder, "delete-pending")
    call.records.update_folder(folder.id, status="ready")
    return web.Response(status=204)


async def delete_from_trash(call: Call) -> web.Response:
    """Remove a trashed folder's data."""
    folder = _owned_by_id(call)
    _require_status(folder, "delete-pending", "delete-error")
    _remove(call, folder)
    return web.Response(status=204)


async def delete_forever(call: Call) -> web.Response:
    """Remove data at once, by id, whatever the state."""
    name = call.request.match_info["vf"]
    try:
        call.params["id"] = params.hex_id(name, call.dialect)
    except ValueError:
        raise no_such("virtual folder", name) from None
    _remove(call, _owned_by_id(call))
    return web.Response(status=204)


async def purge(call: Call) -> web.Response:
    """Forget the record of a removed folder."""
    folder = call.records.folder(call.params["id"])
    if folder is None:
        raise no_such("virtual folder", dashed(call.params["id"]))
    _require_status(folder, "delete-complete")
    call.records.drop_folder(folder.id)
    return web.Response(status=204)


def _owned_by_id(call: Call) -> FolderRecord:
    access = _by_id(call)
    if not (access.is_owner or call.user.is_superadmin):
        raise Problem("not-enough-permission", "Missing the permission to HARD_DELETE the virtual folder.")
    return access.folder


def _require_status(folder: FolderRecord, *wanted: str) -> None:
    if folder.status not in wanted:
        raise Problem("vfolder-filter-status-failed")


def _remove(call: Call, folder: FolderRecord) -> None:
    """Start to remove a folder's data; its record follows (26.x: stays as ``delete-complete``)."""
    trash = call.dialect.trash
    call.records.update_folder(folder.id, status="delete-ongoing" if trash else "deleting")

    async def work() -> None:
        await call.on_disk(call.server.volume.destroy, folder.id)
        if trash:
            call.records.update_folder(folder.id, status="delete-complete")
        else:
            call.records.drop_folder(folder.id)

    call.server.background.start(work())


def recover(server: Server) -> None:
    """Finish the removals that an earlier run of the server left, and end its clones."""
    for folder in server.records.folders():
        if folder.status in ("deleting", "delete-ongoing"):
            server.volume.destroy(folder.id)
            server.records.update_folder(folder.id, status="delete-complete")
            if folder.status == "deleting":
                server.records.drop_folder(folder.id)
        elif folder.status == "cloning":
            server.records.update_folder(folder.id, status="ready")


_ID = (Field("id", params.hex_id, aliases=("vfolderId",)),)

ROUTES = (
    Route("DELETE", "/folders", delete_by_id, _ID, frozen="all"),
    Route("DELETE", "/folders/{vf}", delete_by_name, frozen="all"),
    Route("POST", "/folders/restore-from-trash-bin", restore, _ID, frozen="all", only="26"),
    Route("POST", "/folders/delete-from-trash-bin", delete_from_trash, _ID, frozen="all", only="26"),
    Route("POST", "/folders/purge", purge, _ID, role="superadmin", frozen="all", only="26"),
    Route("DELETE", "/folders/{vf}/force", delete_forever, frozen="all", only="26"),
)
