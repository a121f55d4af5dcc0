"""``vfsmount invite NAME EMAIL…``: offer a folder to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import NOT_FOUND, OK
from vfsmount.cli.folders.naming import about, find
from vfsmount.cli.folders.settings import permission_option
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.errors import InvalidRequest, NotFound, PermissionDenied

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("invite")
@click.argument("name", type=kinds.FOLDER)
@click.argument("emails", nargs=-1, required=True)
@permission_option("What they may do once they accept")
@show.json_option
@api_options
def command(name: str, emails: tuple[str, ...], permission: str, as_json: bool, flags: Flags) -> int:
    """Offer the folder NAME, which must be yours, to the users with these EMAILS.

    They accept or reject it ('vfsmount accept', 'vfsmount reject'). Exit status 7: a server of the 23.09
    line knows nobody of an address; others keep the invitation until somebody has it.
    """
    result = with_client(flags, lambda client: _invite(client, name, emails, permission))
    if as_json:
        show.as_json(result)
        return NOT_FOUND if result["unknown"] else OK
    for email in result["invited"]:
        show.say(f"{email} is invited to {result['folder']} ({permission})")
    for email, waits in result["waiting"].items():
        show.say(f"{email} has an invitation to {result['folder']} already ({waits})")
    for email in result["unknown"]:
        show.say(f"nobody has the address {email}, or it is your own")
    return NOT_FOUND if result["unknown"] else OK


async def _invite(client: Client, wanted: str, emails: tuple[str, ...], permission: str) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    if folder.ownership == "group":
        raise InvalidRequest(f"{name} belongs to a project; its members have it already (vfsmount share)")
    if not folder.is_owner:
        raise PermissionDenied(f"{name}: only its owner may invite others")
    with about(name):
        try:
            invited = await client.invite(folder, emails, permission)
        except NotFound as e:
            if "invitation" not in e.detail.lower():
                raise
            invited = []  # how 23.09 says that it knows none of the addresses, or only the caller's
    left = [email for email in dict.fromkeys(emails) if email not in invited]
    waiting = {}
    if left:  # passed over in silence, for one of two reasons
        sent = await client.list_sent_invitations()
        waiting = {i.invitee: i.permission for i in sent if i.folder_id == folder.id and i.invitee in left}
    return {
        "folder": name,
        "folder_id": folder.id,
        "permission": permission,
        "invited": invited,
        "waiting": waiting,
        "unknown": [email for email in left if email not in waiting],
    }
