"""Who else may use a folder: invitations for users' folders, shares for projects' folders.

Source: contract 3.7; Backend.AI manager ``api/vfolder.py``.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from vfsmount.server import params
from vfsmount.server.access import accessible
from vfsmount.server.params import Field
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.records import FolderRecord, Invitation, User, dashed
from vfsmount.server.state import Call, Route

# --- invitations -------------------------------------------------------------------------------


async def invite(call: Call) -> web.Response:
    """Offer an own folder to others by e-mail."""
    folder, emails = call.folder, call.params["emails"]
    if folder.name.startswith("."):
        raise Problem("generic-forbidden", "Cannot share private dot-prefixed vfolders.")
    if folder.user != call.user.id:
        if call.dialect.codes:
            raise Problem("not-enough-permission", "Only the owner can invite others.")
        raise no_such("virtual folder")
    others = [e for e in dict.fromkeys(emails) if e != call.user.email]
    if not call.dialect.codes:
        # 26.x takes an unknown address as well and keeps it pending.
        others = [e for e in others if call.records.user_by("email", e)]
    if not others:
        raise no_such("vfolder invitation")
    _refuse_shared_already(call, folder, others)
    pending = {i.invitee for i in call.records.invitations() if i.folder == folder.id}
    invited = [e for e in others if e not in pending]
    for email in invited:
        call.records.add_invitation(folder.id, call.user.email, email, call.params["perm"])
    return web.json_response({"invited_ids": invited}, status=201)


def _refuse_shared_already(call: Call, folder: FolderRecord, emails: list[str]) -> None:
    for invitee in filter(None, (call.records.user_by("email", e) for e in emails)):
        if call.records.grants(folder=folder.id, user=invitee.id):
            grant = "vfolder-grant-already-exists"
            raise Problem(grant if call.dialect.codes else "vfolder-already-exists")
        # The old check looks for the name only, and only among folders somebody was granted.
        names = [a.folder for a in accessible(call.records, invitee, call.dialect) if a.via != "project"]
        if not call.dialect.codes and any(
            f.name == folder.name and (f.user != invitee.id or call.records.grants(folder=f.id))
            for f in names
        ):
            raise Problem("vfolder-already-exists")


async def received(call: Call) -> web.Response:
    """Pending invitations to the caller."""
    mine = [i for i in call.records.invitations() if i.invitee == call.user.email]
    return web.json_response({"invitations": [_received_item(call, i) for i in mine]})


def _received_item(call: Call, invitation: Invitation) -> dict[str, Any]:
    item = _item(call, invitation)
    if call.dialect.codes:
        times = {k: item[k].replace(" ", "T") for k in ("created_at", "modified_at")}
        return item | times | {"invitee": "", "state": ""}
    return item


async def sent(call: Call) -> web.Response:
    """Pending invitations of the caller."""
    mine = [i for i in call.records.invitations() if i.inviter == call.user.email]
    return web.json_response({"invitations": [_item(call, i) for i in mine]})


def _item(call: Call, invitation: Invitation) -> dict[str, Any]:
    folder = call.records.folder(invitation.folder)
    assert folder is not None  # the database drops invitations with their folder
    return {
        "id": dashed(invitation.id),
        "inviter": invitation.inviter,
        "invitee": invitation.invitee,
        "perm": invitation.permission,
        "state": invitation.state,
        "created_at": invitation.created_at,
        # str() of nothing, as the old code has it
        "modified_at": str(invitation.modified_at),
        "vfolder_id": dashed(folder.id),
        "vfolder_name": folder.name,
    }


async def update_invitation(call: Call) -> web.Response:
    """Another permission for a sent invitation; somebody else's is left alone without a word."""
    wanted = call.request.match_info["inv_id"]
    invitation = _pending(call, wanted)
    if invitation and invitation.inviter == call.user.email:
        call.records.update_invitation(invitation.id, permission=call.params["perm"])
    return web.json_response({"msg": f"vfolder invitation updated: {wanted}."})


async def accept(call: Call) -> web.Response:
    """Take the folder that was offered."""
    invitation = _pending(call, call.params["inv_id"])
    if invitation is None:
        raise no_such("vfolder invitation")
    folder = call.records.folder(invitation.folder)
    assert folder is not None
    mine = [a for a in accessible(call.records, call.user, call.dialect) if a.via != "project"]
    if any(a.folder.name == folder.name for a in mine):
        raise Problem("vfolder-already-exists", status=409 if call.dialect.codes else 400)
    # 26.x grants no more than rw, whatever was offered.
    level = "rw" if call.dialect.codes and invitation.permission == "wd" else invitation.permission
    with call.records.transaction():
        call.records.grant(folder.id, call.user.id, level)
        call.records.update_invitation(invitation.id, state="accepted")
    return call.dialect.done(200)


async def delete_invitation(call: Call) -> web.Response:
    """Cancelled by the inviter, rejected by the invitee."""
    invitation = _pending(call, call.params["inv_id"])
    problem = None
    if invitation is None:
        problem = no_such("vfolder invitation")
    elif call.user.email not in (invitation.inviter, invitation.invitee):
        problem = Problem("generic-forbidden", "Cannot change other user's invitaiton")
    if problem is not None and not call.dialect.codes:
        raise Problem("internal-server-error", f"unexpected error: {problem.title}")
    if problem is not None:
        raise problem
    assert invitation is not None
    state = "canceled" if call.user.email == invitation.inviter else "rejected"
    call.records.update_invitation(invitation.id, state=state)
    return call.dialect.done(200)


def _pending(call: Call, invitation_id: str) -> Invitation | None:
    wanted = invitation_id.replace("-", "")
    return next((i for i in call.records.invitations() if i.id == wanted), None)


async def leave(call: Call) -> web.Response:
    """Give a shared folder up."""
    assert call.access is not None
    if call.folder.ownership == "group":
        raise Problem("invalid-api-params", "Cannot leave a group vfolder.")
    leaver = call.params["shared_user_uuid"]
    if leaver and leaver != call.user.id and not call.user.is_superadmin:
        raise Problem("insufficient-privilege", "Insufficient permission.")
    if not leaver and call.access.is_owner:
        raise Problem("invalid-api-params", "Cannot leave a vfolder owned by the requesting user.")
    call.records.revoke(call.folder.id, leaver or call.user.id)
    return web.json_response({"msg": "left the shared vfolder"})


# --- shares of project folders -----------------------------------------------------------------


async def share(call: Call) -> web.Response:
    """Another permission on a project's folder for some of its members."""
    folder, emails = _project_folder(call, "sharable"), call.params["emails"]
    others = [u for u in (call.records.user_by("email", e) for e in emails) if u and u != call.user]
    members = [u for u in others if folder.project in call.records.projects_of(u.id)]
    if len(members) < len(emails):
        raise no_such("user", msg="Some users do not belong to folder's group.")
    for user in members:
        call.records.grant(folder.id, user.id, call.params["permission"])
    return web.json_response({"shared_emails": [u.email for u in members]}, status=201)


async def unshare(call: Call) -> web.Response:
    """Back to the project's own permission."""
    folder, emails = _project_folder(call, "unsharable"), call.params["emails"]
    users = [u for u in (call.records.user_by("email", e) for e in emails) if u]
    if not users:
        raise no_such("user(s).")
    for user in users:
        call.records.revoke(folder.id, user.id)
    return web.json_response({"unshared_emails": emails})


def _project_folder(call: Call, what: str) -> FolderRecord:
    name = call.request.match_info["vf"]
    wanted = {name, name.replace("-", "")} if call.dialect.by_id else {name}
    ids = wanted if call.dialect.by_id else set()
    found = [f for f in call.records.folders() if f.project and (f.name == name or f.id in ids)]
    if not found:
        raise no_such("virtual folder", msg=f"Only project folders are directly {what}.")
    if len(found) > 1:
        raise Problem("internal-server-error", f"Multiple project folders found: {name}")
    return found[0]


# --- all grants --------------------------------------------------------------------------------


async def list_shared(call: Call) -> web.Response:
    """Who was granted what. The old version tells everybody about everybody's folders."""
    wanted = call.params["vfolder_id"]
    rows = call.records.grants(folder=wanted)
    items = [
        _grant_item(folder, user, row["permission"])
        for row in rows
        if (folder := call.records.folder(row["folder"]))
        and (user := call.records.user_by("id", row["user"]))
        and (call.dialect.strict or call.user.is_superadmin or folder.user == call.user.id)
    ]
    return web.json_response({"shared": items})


def _grant_item(folder: FolderRecord, user: User, permission: str) -> dict[str, Any]:
    return {
        "vfolder_id": dashed(folder.id),
        "vfolder_name": folder.name,
        "status": folder.status,
        "owner": dashed(folder.project or folder.user or ""),
        "type": "project" if folder.project else "user",
        "shared_to": {"uuid": dashed(user.id), "email": user.email},
        "perm": permission,
    }


async def update_shared(call: Call) -> web.Response:
    """Change or (with null) take back one grant."""
    _set_grant(call, call.params["vfolder"], call.params["user"], call.params["perm"])
    return web.json_response({"msg": "shared vfolder permission updated"})


async def update_sharing(call: Call) -> web.Response:
    """The same for several users at once (26.x)."""
    try:
        wanted = [
            (params.hex_id(i.get("user_id"), call.dialect), _LEVEL(i.get("perm"), call.dialect))
            for i in call.params["user_perm"]
        ]
    except ValueError as e:
        raise Problem("invalid-api-params", "Input validation error", {"user_perm": str(e)}) from None
    for user, level in wanted:
        _set_grant(call, call.params["vfolder"], user, level)
    return web.json_response({"msg": "shared vfolder permission updated"})


def _set_grant(call: Call, folder_id: str, user_id: str, permission: str | None) -> None:
    folder = call.records.folder(folder_id)
    if call.dialect.codes and not (call.user.is_superadmin or (folder and folder.user == call.user.id)):
        # The old version lets anybody change any grant.
        raise Problem("not-enough-permission", "Only the owner can change who shares a folder.")
    if permission is None:
        call.records.revoke(folder_id, user_id)
    elif call.records.grants(folder=folder_id, user=user_id):
        call.records.grant(folder_id, user_id, permission)


async def change_ownership(call: Call) -> web.Response:
    """Give a user's folder to another user."""
    folder = call.records.folder(call.params["vfolder"])
    user = call.records.user_by("email", call.params["user_email"])
    if folder is None or user is None:
        raise no_such("virtual folder" if folder is None else "user")
    call.records.update_folder(folder.id, user=user.id)
    call.records.revoke(folder.id, user.id)
    return call.dialect.done(200)


_PERM = Field("perm", params.permission, "rw", ("permission",))
_PERM_REQUIRED = Field("perm", params.permission, aliases=("permission",))
_LEVEL = params.optional(params.permission)
_PERM_OR_NULL = Field("perm", _LEVEL, aliases=("permission",))
_INV_ID = (Field("inv_id", params.text),)
_EMAILS = Field("emails", params.texts)
_VFOLDER = Field("vfolder", params.hex_id)

ROUTES = (
    Route(
        "POST",
        "/folders/{vf}/invite",
        invite,
        (_PERM, Field("emails", params.texts, aliases=("user_ids", "userIDs"))),
        need="READ",
        frozen="all",
    ),
    Route("GET", "/folders/invitations/list", received),
    Route("GET", "/folders/invitations/list-sent", sent),
    Route("GET", "/folders/invitations/list_sent", sent),
    Route("POST", "/folders/invitations/update/{inv_id}", update_invitation, (_PERM_REQUIRED,), frozen="all"),
    Route("POST", "/folders/invitations/accept", accept, _INV_ID, frozen="all"),
    Route("DELETE", "/folders/invitations/delete", delete_invitation, _INV_ID, frozen="all"),
    Route("POST", "/folders/invitations/delete", delete_invitation, _INV_ID, frozen="all", only="26"),
    Route(
        "POST",
        "/folders/{vf}/leave",
        leave,
        (Field("shared_user_uuid", params.optional(params.hex_id), None, ("sharedUserUuid",)),),
        need="READ",
        frozen="all",
    ),
    Route(
        "POST",
        "/folders/{vf}/share",
        share,
        (Field("permission", params.permission, "rw"), _EMAILS),
        role="superadmin",
        frozen="all",
    ),
    Route("DELETE", "/folders/{vf}/unshare", unshare, (_EMAILS,), role="superadmin", frozen="all"),
    Route("POST", "/folders/{vf}/unshare", unshare, (_EMAILS,), role="superadmin", frozen="all", only="26"),
    Route(
        "GET",
        "/folders/_/shared",
        list_shared,
        (Field("vfolder_id", params.optional(params.hex_id), None, ("vfolderId",)),),
    ),
    Route(
        "POST",
        "/folders/_/shared",
        update_shared,
        (_VFOLDER, Field("user", params.hex_id), _PERM_OR_NULL),
        frozen="all",
    ),
    Route(
        "POST",
        "/folders/_/sharing",
        update_sharing,
        (_VFOLDER, Field("user_perm", params.mappings)),
        frozen="all",
        only="26",
    ),
    Route(
        "POST",
        "/folders/_/change-ownership",
        change_ownership,
        (_VFOLDER, Field("user_email", params.text)),
        role="superadmin",
        frozen="all",
    ),
)
