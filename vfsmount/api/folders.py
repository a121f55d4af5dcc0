"""Calls about folders as a whole.

Source: contract 3.2 to 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vfsmount.api import shapes
from vfsmount.api.dialect import TRAITS, Traits, folder_segment
from vfsmount.api.manager import Manager, Reply
from vfsmount.api.shapes import Hosts
from vfsmount.errors import (
    AlreadyExists,
    Ambiguous,
    InvalidRequest,
    NotFound,
    NotSupported,
    PermissionDenied,
    ProtocolError,
    RemoteError,
)
from vfsmount.values import Folder, Quota

_QUOTA = (
    "query($storage_host_name: String!, $quota_scope_id: String!) {"
    " quota_scope(storage_host_name: $storage_host_name, quota_scope_id: $quota_scope_id) {"
    " details { usage_bytes hard_limit_bytes } } }"
)


@dataclass(frozen=True, slots=True)
class FolderInfo:
    """What one folder tells of itself.

    Attributes:
        num_files, used_bytes: counted by the server walking the whole tree; None where it gave up.
    """

    folder: Folder
    num_files: int | None
    used_bytes: int | None


class FolderCalls:
    """Part of `Client`: folders."""

    _manager: Manager
    _shadowed: frozenset[str] = frozenset()

    @property
    def traits(self) -> Traits:
        """What the server's dialect implies. Only after `Client.connect`."""
        assert self._manager.info is not None, "connect() comes first"
        return TRAITS[self._manager.info.dialect]

    async def list_folders(self) -> list[Folder]:
        """Every folder the caller may access, in every status, the trash of 26.x included."""
        found = shapes.folders((await self._manager.call("GET", "/folders")).json)
        self._shadowed = frozenset() if self.traits.by_id else shadowed(found)
        return found

    async def create_folder(
        self,
        name: str,
        *,
        host: str | None = None,
        usage_mode: str = "general",
        permission: str = "rw",
        group: str | None = None,
        cloneable: bool = False,
    ) -> Folder:
        """Create a folder and return it.

        Args:
            host: None for the cluster's default host.
            group: id of a project; makes it the project's folder (administrators).

        Raises:
            AlreadyExists: a folder of this name is accessible, perhaps in the trash.
            InvalidRequest: the name is reserved or unfit, or there are too many folders.
            PermissionDenied: not on this host, or not this kind of folder.
        """
        body = {
            "name": name,
            "host": host,
            "usage_mode": usage_mode,
            "permission": permission,
            "group": group,
            "cloneable": cloneable,
        }
        for last in (False, False, True):
            try:
                reply = await self._manager.call("POST", "/folders", body=body, idempotent=False)
                break
            except InvalidRequest as e:
                # 26.x labels a duplicate invalid-api-params and only its words tell (contract 3.3).
                if "exist" in e.detail.lower():
                    raise AlreadyExists(str(e), detail=e.detail) from e
                raise
            except RemoteError as e:
                # 23.09 fails where two such calls meet in its database. Asked again it says which of them
                # was first: never both, because a name can be taken once.
                if e.status != 500 or last:
                    raise
        created = shapes.folder(reply.json)
        if created is None:
            raise ProtocolError("the reply to creating a folder names no folder", status=reply.status)
        return replace(created, is_owner=True)

    async def rename_folder(self, folder: Folder, new_name: str) -> None:
        """Give a folder another name.

        Raises:
            AlreadyExists: an accessible folder has that name.
            PermissionDenied: only its owner may.
        """
        try:
            await self._folder_call("POST", folder, "/rename", {"new_name": new_name}, write=True)
        except InvalidRequest as e:
            if "exist" in e.detail.lower() or "already" in e.detail.lower():
                raise AlreadyExists(str(e), detail=e.detail) from e
            raise

    async def delete_folder(self, folder: Folder) -> None:
        """Delete a folder with all content: for good on 23.09, into the trash on 26.x.

        Returns before the data is gone; 23.09 shows the folder as ``deleting`` meanwhile.
        """
        if self.traits.by_id:
            # DELETE /folders/{id} takes names only on 26.x, and names may be ambiguous there.
            await self._manager.call("DELETE", "/folders", body={"id": folder.id}, idempotent=False)
        else:
            await self._folder_call("DELETE", folder, "", None, write=True)

    async def folder_info(self, folder: Folder) -> FolderInfo:
        """Counters of one folder. Expensive: the server walks the whole tree, up to 30 s."""
        got = (await self._folder_call("GET", folder, "", None)).object
        seen = shapes.folder({"host": folder.host, **got}) or folder
        return FolderInfo(
            folder=replace(seen, owner=seen.owner or folder.owner, ownership=folder.ownership),
            num_files=_count(got.get("num_files", got.get("numFiles"))),
            used_bytes=_count(got.get("used_bytes")),
        )

    async def update_folder_options(
        self, folder: Folder, *, cloneable: bool | None = None, permission: str | None = None
    ) -> None:
        """Change a folder's flags; None leaves one as it is."""
        body = {"cloneable": cloneable, "permission": permission}
        options = {k: v for k, v in body.items() if v is not None}
        await self._folder_call("POST", folder, "/update-options", options, write=True, idempotent=True)

    async def clone_folder(
        self,
        folder: Folder,
        target_name: str,
        *,
        target_host: str | None = None,
        usage_mode: str = "general",
        permission: str = "rw",
        cloneable: bool = False,
    ) -> tuple[Folder, str]:
        """Start copying a folder; (the new folder, id of the background task that copies).

        Raises:
            PermissionDenied: the folder is not cloneable.
        """
        body = {
            "target_name": target_name,
            "target_host": target_host or folder.host,  # 23.09 needs it in practice
            "usage_mode": usage_mode,
            "permission": permission,
            "cloneable": cloneable,
        }
        reply = await self._folder_call("POST", folder, "/clone", body)
        created = shapes.folder(reply.json)
        if created is None:
            raise ProtocolError("the reply to cloning a folder names no folder", status=reply.status)
        return created, shapes.text(reply.object.get("bgtask_id"))

    async def restore_folder(self, folder: Folder) -> None:
        """Take a folder out of the trash (26.x)."""
        await self._trash_call("/folders/restore-from-trash-bin", folder)

    async def delete_from_trash(self, folder: Folder) -> None:
        """Remove the data of a folder in the trash for good (26.x)."""
        await self._trash_call("/folders/delete-from-trash-bin", folder)

    async def purge_folder(self, folder: Folder) -> None:
        """Drop the record of a folder whose data is gone (26.x, administrators)."""
        await self._trash_call("/folders/purge", folder, privileged=True)

    async def force_delete_folder(self, folder: Folder) -> None:
        """Remove a folder for good in one step, past trash and in-use checks (26.x)."""
        self._needs_trash()
        await self._manager.call("DELETE", f"/folders/{folder.id}/force", idempotent=False)

    async def list_hosts(self, *, group_id: str | None = None) -> Hosts:
        """Storage hosts the caller may use, with what they tell of their usage."""
        query = {"group_id": group_id} if group_id else {}
        return shapes.hosts((await self._manager.call("GET", "/folders/_/hosts", query=query)).json)

    async def fetch_quota(self, host: str, quota_scope: str) -> Quota | None:
        """What the owner of folders on a host may store there; None where there is no limit, or none is told.

        Everybody may ask for their own scope and those of their projects.

        Raises:
            PermissionDenied: it is not told: somebody else's scope, or no such host.

        Source: Backend.AI manager ``QuotaScope`` of its GraphQL schema, tried with a 23.09.10. The REST call
        of 26.x tells the same, and to superadmins only.
        """
        body = {"query": _QUOTA, "variables": {"storage_host_name": host, "quota_scope_id": quota_scope}}
        return shapes.quota((await self._manager.call("POST", "/admin/gql", body=body, idempotent=True)).json)

    async def list_all_hosts(self) -> Hosts:
        """Every storage host (superadmin)."""
        return shapes.hosts((await self._manager.call("GET", "/folders/_/all-hosts", privileged=True)).json)

    async def list_allowed_types(self) -> list[str]:
        """Kinds of folders the cluster allows: ``user``, ``group``."""
        return [
            str(t)
            for t in shapes.sequence((await self._manager.call("GET", "/folders/_/allowed-types")).json)
        ]

    async def fetch_usage(self, folder: Folder) -> tuple[int | None, int | None]:
        """(number of files, used bytes) of any folder (superadmin)."""
        got = await self._admin_usage("/folders/_/usage", folder)
        return _count(got.get("file_count")), _count(got.get("used_bytes"))

    async def fetch_used_bytes(self, folder: Folder) -> int | None:
        """Used bytes of any folder, rounded as ``du -h`` does (superadmin)."""
        return _count((await self._admin_usage("/folders/_/used-bytes", folder)).get("used_bytes"))

    async def change_owner(self, folder: Folder, user_email: str) -> None:
        """Give a folder to another user (superadmin)."""
        body = {"vfolder": folder.id, "user_email": user_email}
        await self._manager.call("POST", "/folders/_/change-ownership", body=body, privileged=True)

    def folder_path(self, folder: Folder) -> str:
        """``/folders/…`` as this dialect addresses it.

        Raises:
            Ambiguous: on 23.09 the name leads to another accessible folder.
        """
        if folder.id in self._shadowed:
            raise Ambiguous(
                f"another accessible folder is called {folder.name!r} too, and this server finds only one"
            )
        assert self._manager.info is not None, "connect() comes first"
        return "/folders/" + folder_segment(folder, self._manager.info.dialect)

    async def _folder_call(
        self,
        method: str,
        folder: Folder,
        suffix: str,
        body: object,
        *,
        query: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
        write: bool = False,
        not_after: float = math.inf,
    ) -> Reply:
        path = self.folder_path(folder) + suffix
        try:
            return await self._manager.call(
                method, path, query=query or {}, body=body, idempotent=idempotent, not_after=not_after
            )
        except NotFound as e:
            if write and self.traits.hides_denial:
                await self._check_denied(folder, e)
            raise

    async def _check_denied(self, folder: Folder, e: NotFound) -> None:
        """Tell a hidden refusal from a folder that is gone: 23.09 answers 404 for both."""
        if folder.is_owner:
            return
        try:
            await self._manager.call("GET", self.folder_path(folder) + "/files", query={"path": "."})
        except NotFound:
            return
        raise PermissionDenied("the folder is shared with you for reading only", detail=e.detail) from e

    async def _trash_call(self, path: str, folder: Folder, *, privileged: bool = False) -> None:
        self._needs_trash()
        await self._manager.call(
            "POST", path, body={"id": folder.id}, idempotent=False, privileged=privileged
        )

    def _needs_trash(self) -> None:
        if not self.traits.has_trash:
            raise NotSupported("this server has no trash: deleting a folder is final")

    async def _admin_usage(self, path: str, folder: Folder) -> Mapping[str, object]:
        query = {"folder_host": folder.host, "id": folder.id}
        got = (await self._manager.call("GET", path, query=query, privileged=True)).object
        data = got.get("data")  # 26.x wraps it
        return data if isinstance(data, dict) else got


def shadowed(folders: Iterable[Folder]) -> frozenset[str]:
    """Ids of folders that 23.09 cannot address, because their name leads to another one.

    The server takes the first of own, invited and project folders. Within one of these groups the
    order is the database's, so none of several is safe to address: a wrong guess would write into,
    or delete, somebody else's data.

    Source: contract 3.2.
    """
    by_name: dict[str, list[Folder]] = {}
    for f in folders:
        by_name.setdefault(f.name, []).append(f)
    hidden: set[str] = set()
    for group in by_name.values():
        ranks = sorted(map(_rank, group))
        for f in group:
            if _rank(f) != ranks[0] or ranks.count(ranks[0]) > 1:
                hidden.add(f.id)
    return frozenset(hidden)


def _rank(f: Folder) -> int:
    if f.ownership == "group":
        return 2
    return 0 if f.is_owner else 1


def _count(value: object) -> int | None:
    n = shapes.number(value)
    return n if n is not None and n >= 0 else None
