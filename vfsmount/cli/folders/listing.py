"""``vfsmount list``: the folders you may access."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.folders.naming import names_on_mount
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
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
    else:
        print_table(rows)


async def _rows(client: Client, everything: bool) -> list[dict[str, Any]]:
    folders = await client.list_folders()
    names = names_on_mount(client, folders)
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


def print_table(rows: list[dict[str, Any]]) -> None:
    """Folders as `describe` has them, for people."""
    titles = ("NAME", "HOST", "OWNER", "PERMISSION", "STATUS", "USAGE", "CREATED")
    show.table(titles, [_line(row) for row in rows])


def owner_of(row: dict[str, Any]) -> str:
    """Whose a folder is, for people."""
    return "you" if row["is_owner"] else str(row["owner"] or row["ownership"])


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    created = show.moment(row["created_ns"])
    owner = owner_of(row)
    return row["name"], row["host"], owner, row["permission"], row["status"], row["usage_mode"], created
