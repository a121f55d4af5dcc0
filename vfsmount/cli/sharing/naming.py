"""Which invitation is meant, and what JSON has of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vfsmount.cli import show
from vfsmount.errors import Ambiguous, NotFound

if TYPE_CHECKING:
    from vfsmount.api.sharing import Invitation


def describe(invitation: Invitation) -> dict[str, Any]:
    """The fields that JSON has of an invitation."""
    return {
        "id": invitation.id,
        "folder": invitation.folder_name,
        "folder_id": invitation.folder_id,
        "inviter": invitation.inviter,
        "invitee": invitation.invitee,
        "permission": invitation.permission,
        "created": show.utc(invitation.created_ns),
        "created_ns": invitation.created_ns,
    }


def choose(invitations: Sequence[Invitation], wanted: str, *, with_whom: str) -> Invitation:
    """The invitation of that id, else the only one to a folder of that name.

    Args:
        with_whom: ``inviter`` or ``invitee``: what tells several apart.

    Raises:
        NotFound, Ambiguous.
    """
    alike = [i for i in invitations if i.id == wanted.replace("-", "").lower()]
    alike = alike or [i for i in invitations if i.folder_name == wanted]
    if not alike:
        raise NotFound(f"there is no invitation {wanted!r} that waits (vfsmount invitations shows them)")
    if len(alike) > 1:
        ids = ", ".join(f"{i.id} ({getattr(i, with_whom)})" for i in alike)
        raise Ambiguous(f"several invitations to {wanted!r} wait; say which by its id: {ids}")
    return alike[0]
