"""``vfsmount options NAME``: what may be changed of a folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.folders.listing import describe
from vfsmount.cli.folders.naming import about, find
from vfsmount.cli.folders.settings import permission_option
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.errors import PermissionDenied

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("options")
@click.argument("name", type=kinds.FOLDER)
@permission_option("What members of a project may do", default=None)
@click.option("--cloneable/--no-cloneable", default=None, help="Whether who can read it may clone it.")
@click.option(
    "--set-cloneable", type=bool, metavar="BOOL", help="The same, as the official client spells it."
)
@show.json_option
@api_options
def command(
    name: str,
    permission: str | None,
    cloneable: bool | None,
    set_cloneable: bool | None,
    as_json: bool,
    flags: Flags,
) -> None:
    """Show the options of the folder NAME, or change those that are given (its owner)."""
    cloneable = set_cloneable if cloneable is None else cloneable
    row = with_client(flags, lambda client: _update(client, name, cloneable, permission))
    if as_json:
        show.as_json(row)
        return
    lines = [("permission", row["permission"]), ("cloneable", "yes" if row["cloneable"] else "no")]
    show.table(("", ""), lines, headed=False)


async def _update(
    client: Client, wanted: str, cloneable: bool | None, permission: str | None
) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    if cloneable is not None or permission is not None:
        if not folder.is_owner:
            raise PermissionDenied(f"{name}: only the owner may change its options")
        with about(name):
            await client.update_folder_options(folder, cloneable=cloneable, permission=permission)
        folder = replace(
            folder,
            cloneable=folder.cloneable if cloneable is None else cloneable,
            permission=permission or folder.permission,
        )
    return describe(folder, name)
