"""``vfsmount share`` and ``unshare``: members' own permissions on a project's folder, and their end."""

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
from vfsmount.cli.sharing.access import check_owner, take_back
from vfsmount.errors import InvalidRequest

if TYPE_CHECKING:
    from vfsmount.api.client import Client

_emails = click.argument("emails", nargs=-1, required=True)


@click.command("share")
@click.argument("name", type=kinds.FOLDER)
@_emails
@permission_option("What they may do")
@show.json_option
@api_options
def share(name: str, emails: tuple[str, ...], permission: str, as_json: bool, flags: Flags) -> None:
    """Give members of a project a permission of their own on its folder NAME (administrators).

    A folder of yours is offered with 'vfsmount invite' instead.
    """
    result = with_client(flags, lambda client: _share(client, name, emails, permission))
    if as_json:
        show.as_json(result)
        return
    for email in result["shared"]:
        show.say(f"{email} has {result['folder']} with {permission} now")


@click.command("unshare")
@click.argument("name", type=kinds.FOLDER)
@_emails
@show.json_option
@api_options
def unshare(name: str, emails: tuple[str, ...], as_json: bool, flags: Flags) -> int:
    """Take the folder NAME back from the users with these EMAILS.

    Of a project's folder members keep what the project grants them. An invitation that waits is ended by
    'vfsmount cancel'. Exit status 7: one of them had nothing of it.
    """
    result = with_client(flags, lambda client: _unshare(client, name, emails))
    had_none = [email for email in emails if email not in result["unshared"]]
    if as_json:
        show.as_json(result)
    else:
        for email in result["unshared"]:
            show.say(f"{result['folder']} is no longer shared with {email}")
        for email in had_none:
            show.say(f"{result['folder']} was not shared with {email} (vfsmount shared shows who has it)")
    return NOT_FOUND if had_none else OK


async def _share(client: Client, wanted: str, emails: tuple[str, ...], permission: str) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    if folder.ownership != "group":
        raise InvalidRequest(f"{name} is a user's folder: offer it with vfsmount invite {name} EMAIL")
    with about(name):
        shared = await client.share(folder, emails, permission)
    return {"folder": name, "folder_id": folder.id, "permission": permission, "shared": shared}


async def _unshare(client: Client, wanted: str, emails: tuple[str, ...]) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    if folder.ownership == "group":
        with about(name):
            unshared = await client.unshare(folder, emails)
    else:
        check_owner(folder, name)
        unshared = [email for email in dict.fromkeys(emails) if await take_back(client, folder, name, email)]
    return {"folder": name, "folder_id": folder.id, "unshared": unshared}
