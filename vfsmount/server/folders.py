"""Folders: create, list, describe, rename, clone. How they end stands in `removal`.

Source: contract 3.3, 6.5; Backend.AI manager ``api/vfolder.py``.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from vfsmount.server import params
from vfsmount.server.access import Access, accessible
from vfsmount.server.params import REQUIRED, Field
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.records import FolderRecord, dashed, new_folder
from vfsmount.server.settings import HOST, PROJECT
from vfsmount.server.state import Call, Route

_RESERVED = frozenset(
    (
        *(".terminfo", ".jupyter", ".tmux.conf", ".ssh", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64"),
        *("/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/usr", "/var"),
        *("/home", "/tmp"),  # noqa: S108 - a name that is refused
    )
)
_RESERVED_NEW = _RESERVED | {"/home/work"}
_RESERVED_FORM = re.compile(r"\.[a-z0-9]+(rc|_profile)")


# --- create and list ---------------------------------------------------------------------------


async def create(call: Call) -> web.Response:
    """A new folder of the caller, or of a project."""
    p = call.params
    if p["unmanaged_path"] and not call.user.is_superadmin:
        raise Problem("generic-forbidden", "Insufficient permission")
    _check_name(call, p["name"])
    project = _project(call, p["group"])
    _check_host(call, p["host"])
    _check_free(call, p["name"])
    folder = new_folder(
        p["name"],
        call.user,
        project=project,
        permission=p["permission"] or "rw",
        host=p["host"],
        usage_mode=p["usage_mode"],
        cloneable=p["cloneable"],
        unmanaged_path=p["unmanaged_path"],
    )
    if not folder.unmanaged_path:
        await call.on_disk(call.server.volume.create, folder.id)
    call.records.add_folder(folder)
    return web.json_response(_created(call, folder), status=201)


def _check_name(call: Call, name: str) -> None:
    reserved = _RESERVED_NEW if call.dialect.codes else _RESERVED
    if name in reserved or _RESERVED_FORM.fullmatch(name):
        raise Problem("invalid-api-params", f"{name} is reserved for internal operations.")
    if name.startswith(".") and name != ".local" and call.params.get("group"):
        raise Problem("invalid-api-params", "dot-prefixed vfolders cannot be a group folder.")


def _project(call: Call, group: str | None) -> str | None:
    if group is None:
        return None
    found = call.records.project(group.replace("-", "") if len(group) in (32, 36) else group)
    if found is None or (call.dialect.codes and group == found[1]):
        raise no_such("user group (or project)", group)
    if not call.user.is_superadmin:
        raise Problem("generic-forbidden", "no permission")
    return found[0]


def _check_host(call: Call, host: str | None) -> None:
    if host not in (None, "", HOST):
        suffix = "storage-permission-not-allowed" if call.dialect.codes else "invalid-api-params"
        raise Problem(suffix, f"`create-vfolder` Not allowed in vfolder host(`{host}`)")


def _check_free(call: Call, name: str) -> None:
    taken = [a for a in accessible(call.records, call.user, call.dialect) if a.folder.name == name]
    if call.dialect.codes:
        # An invitation to a folder of that name does not occupy it in 26.x.
        taken = [a for a in taken if a.via != "invited"]
        if taken:
            raise Problem("invalid-api-params", f"VFolder with the given name already exists. ({name})")
    elif taken:
        raise Problem("vfolder-already-exists", data=name)


def _created(call: Call, folder: FolderRecord) -> dict[str, Any]:
    if call.dialect.codes:
        item = _item(call, Access(folder, "own", True, folder.permission, "wd"))
        return item | {"id": folder.id, "created_at": "", "max_size": 0}
    reply = {
        "id": folder.id,
        "name": folder.name,
        "quota_scope_id": folder.quota_scope,
        "host": folder.host,
        "usage_mode": folder.usage_mode,
        "permission": folder.permission,
        "max_size": folder.max_size,
        "creator": folder.creator,
        "ownership_type": folder.ownership,
        "user": _dashed(folder.user),
        "group": _dashed(folder.project),
        "cloneable": bool(folder.cloneable),
        "status": folder.status,
    }
    return reply | ({"unmanaged_path": folder.unmanaged_path} if folder.unmanaged_path else {})


def _dashed(hex_id: str | None) -> str | None:
    return dashed(hex_id) if hex_id else None


async def list_folders(call: Call) -> web.Response:
    """Everything the caller can see, without paging; 26.x shows the trash as well."""
    if call.params["all"] and call.dialect.strict:
        raise Problem("invalid-api-params", "Deprecated use of 'all' option")
    user = call.user
    if email := call.params["owner_user_email"]:
        owner = call.records.user_by("email", email)
        if not user.is_superadmin or owner is None:
            raise Problem("invalid-api-params", "Only superadmins may have user scopes.")
        user = owner
    group = call.params["group_id"]
    seen = accessible(call.records, user, call.dialect)
    if group is not None:
        seen = [a for a in seen if a.folder.user or a.folder.project == group.replace("-", "")]
    return web.json_response([_item(call, a) for a in seen])


def _item(call: Call, access: Access) -> dict[str, Any]:
    folder = access.folder
    item: dict[str, Any] = {
        "name": folder.name,
        "id": folder.id,
        "quota_scope_id": folder.quota_scope,
        "host": folder.host,
        "status": folder.status,
        "usage_mode": folder.usage_mode,
        "created_at": folder.created_at,
        "is_owner": access.is_owner,
        "permission": access.permission,
        "user": _dashed(folder.user),
        "group": _dashed(folder.project),
        "creator": folder.creator,
        "ownership_type": folder.ownership,
        "cloneable": bool(folder.cloneable),
    }
    owner = call.records.user_by("id", folder.user) if folder.user else None
    if call.dialect.codes:
        # User folders carry their owner's personal project, so `group` tells nothing here.
        item["group"] = _dashed(owner.personal_project) if owner else item["group"]
        constants = {"user_email": "", "group_name": "", "type": "", "max_files": 0, "max_size": 0}
        return item | constants | {"cur_size": 0}
    return item | {
        "user_email": owner.email if owner else None,
        "group_name": None if owner else PROJECT,
        "type": folder.ownership,
        "max_files": 1000,
        "max_size": folder.max_size,
        "cur_size": 0,
    }


async def info(call: Call) -> web.Response:
    """One folder with its size, for which the whole tree is walked."""
    folder, access = call.folder, call.access
    assert access is not None
    files, size = await call.on_disk(call.server.volume.usage, folder.id)
    item = _item(call, access)
    reply = {
        k: item[k] for k in ("name", "id", "host", "quota_scope_id", "status", "usage_mode", "cloneable")
    }
    reply |= {
        "numFiles": files,
        "used_bytes": size,
        "created_at": folder.created_at,
        "last_used": folder.created_at,
        # str() of an absent owner, as the old code has it
        "user": str(item["user"]),
        "group": str(item["group"]),
        "type": folder.ownership,
        "is_owner": access.is_owner,
        "permission": access.permission,
    }
    if not call.dialect.codes:
        reply |= {
            "num_files": files,
            "created": folder.created_at,
            "max_size": folder.max_size,
            "cur_size": 0,
        }
    return web.json_response(reply)


async def folder_id(call: Call) -> web.Response:
    """A folder's id by its name (26.x); superadmins find everybody's."""
    name = call.params["name"]
    found = [a.folder for a in accessible(call.records, call.user, call.dialect) if a.folder.name == name]
    if call.user.is_superadmin:
        found = [f for f in call.records.folders() if f.name == name and f.status != "delete-complete"]
    if not found:
        raise no_such("virtual folder", name)
    if len(found) > 1:
        raise Problem("ambiguous-entity-key", f"Multiple virtual folders are named {name!r}.")
    return web.json_response({"id": dashed(found[0].id), "name": name})


# --- change ------------------------------------------------------------------------------------


async def rename(call: Call) -> web.Response:
    """Another name for an own folder; download tokens live on."""
    name = call.params["new_name"]
    taken = [a for a in accessible(call.records, call.user, call.dialect) if a.folder.name == name]
    if taken:
        suffix = "vfolder-invalid-parameter" if call.dialect.codes else "invalid-api-params"
        raise Problem(suffix, "One of your accessible vfolders already has the name you requested.")
    _check_owned(call, "Cannot change the name of a vfolder that is not owned by myself.")
    call.records.update_folder(call.folder.id, name=name)
    return call.dialect.done()


async def update_options(call: Call) -> web.Response:
    """Whether it may be cloned, and what project members may do."""
    _check_owned(call, "Cannot change the options of a vfolder that is not owned by myself.")
    changed = {k: v for k, v in call.params.items() if v is not None}
    if changed:
        call.records.update_folder(call.folder.id, **changed)
    return call.dialect.done()


def _check_owned(call: Call, msg: str) -> None:
    assert call.access is not None
    if not call.access.is_owner:
        raise Problem("invalid-api-params", msg)


# --- clone -------------------------------------------------------------------------------------


async def clone(call: Call) -> web.Response:
    """A copy under a new name, made in the background."""
    source, p = call.folder, call.params
    if not source.cloneable:
        raise Problem("generic-forbidden", "The source vfolder is not permitted to be cloned.")
    _check_name(call, p["target_name"])
    _check_host(call, p["target_host"])
    _check_free(call, p["target_name"])
    target = new_folder(
        p["target_name"],
        call.user,
        permission=p["permission"] or "rw",
        usage_mode=p["usage_mode"],
        cloneable=p["cloneable"],
    )
    await call.on_disk(call.server.volume.create, target.id)
    call.records.add_folder(target)
    call.records.update_folder(source.id, status="cloning")

    async def work() -> None:
        try:
            await call.on_disk(call.server.volume.clone, source.id, target.id)
        finally:
            call.records.update_folder(source.id, status=source.status)

    task = call.server.background.start(work())
    kept = ("id", "name", "host", "usage_mode", "permission", "creator", "ownership_type", "user", "group")
    item = _item(call, Access(target, "own", True, target.permission, "wd"))
    reply = {k: item[k] for k in kept} | {"cloneable": bool(target.cloneable), "bgtask_id": task.id}
    return web.json_response(reply, status=201)


_GROUP = Field("group_id", params.optional(params.text), None, ("groupId",))
_MODES = (
    Field("usage_mode", params.optional(params.usage_mode), "general"),
    Field("permission", params.optional(params.permission), "rw"),
    Field("cloneable", params.boolean, False),
)
_CREATE = (
    Field("name", params.slug, REQUIRED),
    Field("host", params.optional(params.text), None),
    Field("unmanaged_path", params.optional(params.text), None, ("unmanagedPath",)),
    Field("group", params.optional(params.text), None, ("groupId", "group_id")),
    Field("quota", params.optional(params.text), None),
    *_MODES,
)

ROUTES = (
    Route("POST", "/folders", create, _CREATE, frozen="all"),
    Route(
        "GET",
        "/folders",
        list_folders,
        (
            Field("all", params.boolean, False),
            _GROUP,
            Field("owner_user_email", params.optional(params.text), None, ("ownerUserEmail",)),
        ),
    ),
    Route(
        "GET",
        "/folders/_/id",
        folder_id,
        (Field("name", params.text, aliases=("vfolder_name", "vfolderName")),),
        place="body",
        only="26",
    ),
    Route("GET", "/folders/{vf}", info, need="READ", status="readable"),
    Route(
        "POST",
        "/folders/{vf}/rename",
        rename,
        (Field("new_name", params.slug),),
        need="OWN",
        frozen="all",
    ),
    Route(
        "POST",
        "/folders/{vf}/update-options",
        update_options,
        (
            Field("cloneable", params.optional(params.boolean), None),
            Field("permission", params.optional(params.permission), None),
        ),
        need="OWN",
        frozen="all",
    ),
    Route(
        "POST",
        "/folders/{vf}/clone",
        clone,
        (
            Field("target_name", params.slug),
            Field("target_host", params.optional(params.text), None),
            *_MODES,
        ),
        need="READ",
        frozen="all",
    ),
)
