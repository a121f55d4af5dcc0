"""Which folders a user can see, by what right, and what a call on one of them needs.

23.09 filters by permission first, so a folder one may not write is "not found" on writes. 26.x
finds the folder, then refuses with 403 and the name of the missing right.
Source: contract 3.2, 6.6, 6.7; Backend.AI manager ``models/vfolder.py``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vfsmount.server.dialect import Dialect
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.records import FolderRecord, Records, User

WRITES = ("rw", "wd")

_STATUSES = {
    "readable": {"ready", "mounted", "performing", "cloning", "deleting", "error", "delete-pending"},
    "updatable": {"ready", "mounted"},
    "deletable": {"ready"},
}


@dataclass(frozen=True, slots=True)
class Access:
    """A folder as one user sees it.

    Attributes:
        via: by which way the user came to it.
        permission: as listings show it; own folders show their column.
        enforced: what calls are checked against. In 23.09 a project folder's own column counts,
            although listings show the override.
    """

    folder: FolderRecord
    via: Literal["own", "invited", "project", "admin"]
    is_owner: bool
    permission: str
    enforced: str


def accessible(records: Records, user: User, dialect: Dialect) -> list[Access]:
    """Every folder `user` may know of: own, then invited, then project folders."""
    folders = [f for f in records.folders() if f.status != "delete-complete"]
    grants = {row["folder"]: row["permission"] for row in records.grants(user=user.id)}
    projects = records.projects_of(user.id)
    own = [Access(f, "own", True, f.permission, "wd") for f in folders if f.user == user.id]
    invited = [
        Access(f, "invited", False, grants[f.id], grants[f.id])
        for f in folders
        if f.user not in (None, user.id) and f.id in grants
    ]
    return own + invited + list(_project_folders(folders, grants, projects, user, dialect))


def _project_folders(
    folders: list[FolderRecord], grants: dict[str, str], projects: set[str], user: User, dialect: Dialect
) -> Iterator[Access]:
    for f in folders:
        if f.project is None or not (user.is_superadmin or f.project in projects):
            continue
        shown = grants.get(f.id, f.permission)
        enforced = "wd" if user.is_superadmin else f.permission if dialect.strict else shown
        yield Access(f, "project", user.is_superadmin, shown, enforced)


def find(
    records: Records,
    user: User,
    dialect: Dialect,
    name: str,
    need: str,
    status: str,
    *,
    invited_create: bool = False,
    by_id: bool = True,
) -> Access:
    """The folder a call names, if the user may do what it `need`s.

    Args:
        name: of the folder, or its id where the dialect (and `by_id`) allows.
        invited_create: 26.x: the right CREATE comes with an invitation.

    Raises:
        Problem: 404, 403, 409 or 400, as the dialect has it.
    """
    everything = accessible(records, user, dialect)
    if not dialect.by_id:
        return _find_old(records, user, everything, name, need, status)
    folder_id = _as_id(name)
    if folder_id is not None:
        found = by_id_of(records, user, everything, folder_id) if by_id else []
    else:
        found = [a for a in everything if a.folder.name == name]
    if not found:
        raise _missing(name, dialect)
    if len(found) > 1:
        raise Problem("ambiguous-entity-key", f"Multiple virtual folders are named {name!r}.", code="vfolder")
    if not _allowed(found[0], need, invited_create):
        raise Problem("not-enough-permission", f"Missing the permission to {need} the virtual folder.")
    # By id even a trashed folder takes writes: the real one checks the status of names only.
    if folder_id is None:
        _check_status(found, status)
    return found[0]


def by_id_of(records: Records, user: User, everything: list[Access], folder_id: str) -> list[Access]:
    """The folder of that id among `everything`; superadmins reach anybody's."""
    found = [a for a in everything if a.folder.id == folder_id]
    folder = records.folder(folder_id)
    if not found and folder and user.is_superadmin and folder.status != "delete-complete":
        return [Access(folder, "admin", False, folder.permission, "wd")]
    return found


def _as_id(name: str) -> str | None:
    try:
        return uuid.UUID(name).hex
    except ValueError:
        return None


def _missing(name: str, dialect: Dialect) -> Problem:
    problem = no_such("virtual folder", name)
    problem.code = "vfolder_read_not-found"
    return problem


def _find_old(
    records: Records, user: User, everything: list[Access], name: str, need: str, status: str
) -> Access:
    named = [a for a in everything if a.folder.name == name]
    found = [a for a in named if _allowed(a, need, True)]
    if not found:
        raise no_such("virtual folder", name)
    if user.is_superadmin:
        # The real check looks at everybody's folders of that name when an admin asks, so an
        # unrelated busy folder of another user refuses the call.
        named += [Access(f, "admin", False, "", "") for f in records.folders() if f.name == name]
    _check_status(named, status)
    return found[0]


def _allowed(access: Access, need: str, invited_create: bool) -> bool:
    if need == "READ" or access.via == "own":
        return True
    if need == "OWN":
        return access.enforced == "wd"
    if need == "CREATE" and access.via == "invited" and not invited_create:
        return False
    return access.enforced in WRITES


def _check_status(found: list[Access], status: str) -> None:
    if any(a.folder.status not in _STATUSES[status] for a in found):
        raise Problem("vfolder-filter-status-failed")
