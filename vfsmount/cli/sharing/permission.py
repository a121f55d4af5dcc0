"""``vfsmount permission NAME EMAIL PERMISSION``: what somebody may do in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.folders.naming import find
from vfsmount.cli.folders.settings import PERMISSIONS
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.sharing.access import change, check_owner

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("permission")
@click.argument("name", type=kinds.FOLDER)
@click.argument("email")
@click.argument("permission", type=PERMISSIONS)
@show.json_option
@api_options
def command(name: str, email: str, permission: str, as_json: bool, flags: Flags) -> None:
    """Let the user with this EMAIL read (ro), write (rw) or also delete (wd) the folder NAME.

    The folder must be yours and the user have it or be invited to it; of a project's folder, be a member.
    """
    result = with_client(flags, lambda client: _change(client, name, email, permission))
    if as_json:
        show.as_json(result)
    else:
        has = "has" if result["state"] == "accepted" else "is invited to"
        show.say(f"{email} {has} {result['folder']} with {permission} now")


async def _change(client: Client, wanted: str, email: str, permission: str) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    check_owner(folder, name)
    state = await change(client, folder, name, email, permission)
    return {
        "folder": name,
        "folder_id": folder.id,
        "email": email,
        "permission": permission,
        "state": state,
    }
