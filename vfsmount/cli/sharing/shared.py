"""``vfsmount shared``: who may use which folder of yours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.folders.naming import find, names_on_mount
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("shared")
@click.argument("name", type=kinds.FOLDER, required=False)
@show.json_option
@api_options
def command(name: str | None, as_json: bool, flags: Flags) -> None:
    """List who may use the folder NAME, or any folder of yours, and who is invited to.

    Of a project's folder those members are listed that have a permission of their own.
    """
    rows = with_client(flags, lambda client: _shared(client, name))
    if as_json:
        show.as_json(rows)
        return
    keys = ("folder", "email", "permission", "state")
    show.table(("FOLDER", "USER", "PERMISSION", "STATE"), [tuple(row[k] for k in keys) for row in rows])


async def _shared(client: Client, wanted: str | None) -> list[dict[str, Any]]:
    folder = (await find(client, wanted))[0] if wanted else None
    folders = await client.list_folders()
    names = {f.id: f.name for f in folders} | names_on_mount(client, folders)
    # 23.09 tells of everybody's folders.
    ours = {folder.id} if folder else {f.id for f in folders if f.is_owner}
    rows = [
        _row(names[s.folder_id], s.folder_id, s.user_email, s.permission, "accepted")
        for s in await client.list_shares(folder)
        if s.folder_id in ours
    ]
    rows += [
        _row(names[i.folder_id], i.folder_id, i.invitee, i.permission, "invited")
        for i in await client.list_sent_invitations()
        if i.folder_id in ours
    ]
    return sorted(rows, key=lambda row: (row["folder"], row["email"], row["state"]))


def _row(folder: str, folder_id: str, email: str, permission: str, state: str) -> dict[str, Any]:
    return {
        "folder": folder,
        "folder_id": folder_id,
        "email": email,
        "permission": permission,
        "state": state,
    }
