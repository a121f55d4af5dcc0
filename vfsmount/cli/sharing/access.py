"""One user's access to a folder of ours: found by e-mail address, changed, taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfsmount.cli.folders.naming import about
from vfsmount.errors import NotFound, PermissionDenied
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.client import Client
    from vfsmount.api.sharing import Share


def check_owner(folder: Folder, name: str) -> None:
    """Refuse what is not the caller's to decide: 23.09 would let anybody do it.

    Raises:
        PermissionDenied: it is somebody else's folder.
    """
    if not folder.is_owner:
        raise PermissionDenied(f"{name}: only its owner decides who may use it")


async def share_of(client: Client, folder: Folder, email: str) -> Share | None:
    """What a user has of a folder."""
    shares = await client.list_shares(folder)
    return next((s for s in shares if s.folder_id == folder.id and s.user_email == email), None)


async def change(client: Client, folder: Folder, name: str, email: str, permission: str) -> str:
    """Give a user another permission; "accepted" or, where the invitation waits, "invited".

    Raises:
        NotFound: the user neither has the folder nor is invited to it.
    """
    with about(name):
        share = await share_of(client, folder, email)
        if share is not None:
            await client.update_share(share, permission)
            return "accepted"
        if folder.ownership == "group":
            await client.share(folder, [email], permission)
            return "accepted"
        for invitation in await client.list_sent_invitations():
            if invitation.folder_id == folder.id and invitation.invitee == email:
                await client.update_invitation(invitation, permission)
                return "invited"
    raise NotFound(f"{email} neither has {name} nor is invited to it (vfsmount shared {name})")


async def take_back(client: Client, folder: Folder, name: str, email: str) -> bool:
    """End a user's access to a user's folder; False where there was none."""
    with about(name):
        share = await share_of(client, folder, email)
        if share is None:
            return False
        await client.update_share(share, None)
        return True
