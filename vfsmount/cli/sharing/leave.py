"""``vfsmount leave NAME``: give up a folder that somebody shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.folders.listing import describe
from vfsmount.cli.folders.naming import about, find
from vfsmount.cli.folders.telling import tell_of_folders
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.target import state_dir_option
from vfsmount.errors import InvalidRequest

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("leave")
@click.argument("name", type=kinds.FOLDER)
@show.json_option
@state_dir_option
@api_options
def command(name: str, as_json: bool, state_dir: Path, flags: Flags) -> None:
    """Give up the folder NAME that somebody shares with you. It stays theirs, with all it holds."""
    row = with_client(flags, lambda client: _leave(client, name))
    tell_of_folders(state_dir)
    if as_json:
        show.as_json(row)
    else:
        show.say(f"you have left {row['name']}; only {row['owner'] or 'its owner'} can invite you again")


async def _leave(client: Client, wanted: str) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    if folder.ownership == "group":
        raise InvalidRequest(f"{name} is a project's folder; who is a member of the project has it")
    if folder.is_owner:
        raise InvalidRequest(f"{name} is yours: vfsmount delete {name} removes it, with all it holds")
    with about(name):
        await client.leave_folder(folder)
    return describe(folder, name)
