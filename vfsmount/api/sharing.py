"""Calls about who else may use a folder: invitations for user folders, shares for project folders.

Source: contract 3.7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfsmount.api import shapes
from vfsmount.api.folders import FolderCalls
from vfsmount.errors import NotFound, NotSupported
from vfsmount.values import Folder


@dataclass(frozen=True, slots=True)
class Invitation:
    """An offer of a folder to a user.

    Attributes:
        inviter, invitee: e-mail addresses; 26.x leaves ``invitee`` empty in the received list.
        permission: ``ro``, ``rw`` or ``wd``.
        state: ``pending``, ``accepted``, ``rejected`` or ``canceled``.
    """

    id: str
    folder_id: str
    folder_name: str
    inviter: str
    invitee: str
    permission: str
    state: str
    created_ns: int


@dataclass(frozen=True, slots=True)
class Share:
    """One user's access to a folder that is not theirs.

    Attributes:
        kind: ``user`` (by invitation) or ``project``.
        user_id, user_email: who has access.
        owner: e-mail of the folder's owner, or the project; 23.09 lists other people's shares too.
    """

    folder_id: str
    folder_name: str
    status: str
    owner: str
    kind: str
    user_id: str
    user_email: str
    permission: str


class SharingCalls(FolderCalls):
    """Part of `Client`: invitations and shares."""

    async def invite(self, folder: Folder, emails: Sequence[str], permission: str = "rw") -> list[str]:
        """Offer a user folder to others; the addresses that were newly invited.

        Raises:
            NotFound: nobody has these addresses (23.09; 26.x accepts any).
            AlreadyExists: they have the folder, or on 23.09 one of that name.
            PermissionDenied: not the owner, or a dot-folder.
        """
        body = {"perm": permission, "emails": list(emails)}
        reply = await self._folder_call("POST", folder, "/invite", body, idempotent=True)
        return [str(e) for e in shapes.sequence(reply.object.get("invited_ids"))]

    async def list_invitations(self) -> list[Invitation]:
        """Invitations to us that wait for an answer."""
        return await self._invitations("/folders/invitations/list")

    async def list_sent_invitations(self) -> list[Invitation]:
        """Invitations by us that wait for an answer."""
        return await self._invitations("/folders/invitations/list-sent")

    async def update_invitation(self, invitation: Invitation, permission: str) -> None:
        """Change what an invitation of ours offers."""
        path = f"/folders/invitations/update/{_dashed(invitation.id)}"
        await self._manager.call("POST", path, body={"perm": permission}, idempotent=True)

    async def accept_invitation(self, invitation: Invitation) -> None:
        """Accept; the folder appears in `list_folders`.

        Raises:
            AlreadyExists: a folder of this name is accessible already.
            NotFound: it was cancelled meanwhile.
        """
        body = {"inv_id": _dashed(invitation.id)}
        await self._manager.call("POST", "/folders/invitations/accept", body=body, idempotent=False)

    async def delete_invitation(self, invitation: Invitation) -> None:
        """Reject an invitation to us, or cancel one of ours."""
        method = "POST" if self.traits.delete_by_post else "DELETE"
        body = {"inv_id": _dashed(invitation.id)}
        await self._manager.call(method, "/folders/invitations/delete", body=body, idempotent=False)

    async def leave_folder(self, folder: Folder, *, shared_user_id: str | None = None) -> None:
        """Give up our access to somebody's folder.

        Args:
            shared_user_id: whose access, for administrators; None is our own.

        Raises:
            InvalidRequest: it is our own folder, or a project's.
        """
        body = {"shared_user_uuid": shared_user_id}
        await self._folder_call("POST", folder, "/leave", body, idempotent=False)

    async def share(self, folder: Folder, emails: Sequence[str], permission: str = "rw") -> list[str]:
        """Set members' permission on a project folder at once (administrators); who got it."""
        body = {"permission": permission, "emails": list(emails)}
        path = self.folder_path(folder) + "/share"
        reply = await self._manager.call("POST", path, body=body, idempotent=True, privileged=True)
        return [str(e) for e in shapes.sequence(reply.object.get("shared_emails"))]

    async def unshare(self, folder: Folder, emails: Sequence[str]) -> list[str]:
        """Take back what `share` set (administrators)."""
        method = "POST" if self.traits.delete_by_post else "DELETE"
        path = self.folder_path(folder) + "/unshare"
        body = {"emails": list(emails)}
        reply = await self._manager.call(method, path, body=body, idempotent=True, privileged=True)
        return [str(e) for e in shapes.sequence(reply.object.get("unshared_emails"))]

    async def list_shares(self, folder: Folder | None = None) -> list[Share]:
        """Who has access to our folders, or to one of them."""
        query = {"vfolder_id": _dashed(folder.id)} if folder is not None else {}
        reply = await self._manager.call("GET", "/folders/_/shared", query=query)
        found = [_share(raw) for raw in shapes.sequence(reply.object.get("shared"))]
        return [s for s in found if s is not None]

    async def update_share(self, share: Share, permission: str | None) -> None:
        """Change one user's permission; None takes the access away."""
        body = {"vfolder": _dashed(share.folder_id), "user": _dashed(share.user_id), "perm": permission}
        await self._manager.call("POST", "/folders/_/shared", body=body, idempotent=True)

    async def update_shares(self, folder: Folder, permissions: Mapping[str, str | None]) -> None:
        """Change the permission of several users by id in one call (26.x)."""
        if not self.traits.has_trash:
            raise NotSupported("this server changes one user's permission at a time")
        pairs = [{"user_id": _dashed(user), "perm": perm} for user, perm in permissions.items()]
        body = {"vfolder": _dashed(folder.id), "user_perm": pairs}
        await self._manager.call("POST", "/folders/_/sharing", body=body, idempotent=True)

    async def _invitations(self, path: str) -> list[Invitation]:
        try:
            reply = await self._manager.call("GET", path)
        except NotFound:
            return []
        found = [_invitation(raw) for raw in shapes.sequence(reply.object.get("invitations"))]
        return [i for i in found if i is not None]


def _invitation(raw: object) -> Invitation | None:
    if not isinstance(raw, dict):
        return None
    ident, folder = shapes.folder_id(raw.get("id")), shapes.folder_id(raw.get("vfolder_id"))
    if ident is None or folder is None:
        return None
    return Invitation(
        id=ident,
        folder_id=folder,
        folder_name=shapes.text(raw.get("vfolder_name")),
        inviter=shapes.text(raw.get("inviter")),
        invitee=shapes.text(raw.get("invitee")),
        permission=shapes.text(raw.get("perm")) or "ro",
        state=shapes.text(raw.get("state")) or "pending",
        created_ns=shapes.time_ns(raw.get("created_at")),
    )


def _share(raw: object) -> Share | None:
    if not isinstance(raw, dict):
        return None
    folder = shapes.folder_id(raw.get("vfolder_id"))
    to = raw.get("shared_to")
    to = to if isinstance(to, dict) else {}
    if folder is None:
        return None
    return Share(
        folder_id=folder,
        folder_name=shapes.text(raw.get("vfolder_name")),
        status=shapes.text(raw.get("status")),
        owner=shapes.text(raw.get("owner")),
        kind=shapes.text(raw.get("type")),
        user_id=shapes.folder_id(to.get("uuid")) or "",
        user_email=shapes.text(to.get("email")),
        permission=shapes.text(raw.get("perm")),
    )


def _dashed(ident: str) -> str:
    """The usual spelling of a UUID, which every version takes."""
    d = ident.replace("-", "")
    return "-".join((d[:8], d[8:12], d[12:16], d[16:20], d[20:])) if len(d) == 32 else ident
