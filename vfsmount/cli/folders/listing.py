"""``vfsmount list``: the folders you may access."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.core.foldernames import shown_folders
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("list")
@click.option("-a", "--all", "everything", is_flag=True, help="Also those in the trash, or not usable now.")
@show.json_option
@api_options
def command(everything: bool, as_json: bool, flags: Flags) -> None:
    """List the vfolders you may access, under the names they have on a mount."""
    rows = with_client(flags, lambda client: _rows(client, everything))
    if as_json:
        show.as_json(rows)
        return
    titles = ("NAME", "HOST", "OWNER", "PERMISSION", "STATUS", "USAGE", "CREATED")
    show.table(titles, [_line(row) for row in rows])


async def _rows(client: Client, everything: bool) -> list[dict[str, Any]]:
    folders = await client.list_folders()
    names = {
        entry.folder.id: os.fsdecode(entry.name)
        for entry in shown_folders(folders, addressed_by_name=not client.traits.by_id)
    }
    found = [f for f in folders if everything or f.id in names]
    return sorted((describe(f, names.get(f.id, f.name)) for f in found), key=lambda row: row["name"])


def describe(folder: Folder, name: str) -> dict[str, Any]:
    """The fields that JSON has of a folder."""
    return {
        "name": name,
        "id": folder.id,
        "host": folder.host,
        "owner": folder.owner,
        "is_owner": folder.is_owner,
        "ownership": folder.ownership,
        "permission": folder.permission,
        "status": folder.status,
        "usage_mode": folder.usage_mode,
        "cloneable": folder.cloneable,
        "created": show.utc(folder.mtime_ns),
        "created_ns": folder.mtime_ns,
    }


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    owner = "you" if row["is_owner"] else row["owner"] or row["ownership"]
    created = show.moment(row["created_ns"])
    return row["name"], row["host"], owner, row["permission"], row["status"], row["usage_mode"], created
