"""``vfsmount rename NAME NEW_NAME``: another name for a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.folders.listing import describe
from vfsmount.cli.folders.naming import about, find, naming
from vfsmount.cli.folders.telling import tell_of_folders
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.target import state_dir_option

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("rename")
@click.argument("name", type=kinds.FOLDER)
@click.argument("new_name")
@show.json_option
@state_dir_option
@api_options
def command(name: str, new_name: str, as_json: bool, state_dir: Path, flags: Flags) -> None:
    """Give the folder NAME, which must be yours, the name NEW_NAME."""
    row = with_client(flags, lambda client: _rename(client, name, new_name))
    tell_of_folders(state_dir)
    if as_json:
        show.as_json(row)
    else:
        show.say(f"{row['old_name']} is now called {row['name']}")


async def _rename(client: Client, wanted: str, new_name: str) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    with about(f"{name} to {new_name}"):
        async with naming(client, new_name):
            await client.rename_folder(folder, new_name)
    return describe(replace(folder, name=new_name), new_name) | {"old_name": name}
