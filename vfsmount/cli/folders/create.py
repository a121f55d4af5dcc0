"""``vfsmount create NAME [HOST]``: a new folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount.api.shapes import folder_id
from vfsmount.cli import show
from vfsmount.cli.folders.listing import describe
from vfsmount.cli.folders.naming import about, naming
from vfsmount.cli.folders.settings import folder_options
from vfsmount.cli.folders.telling import tell_of_folders
from vfsmount.cli.options import Flags, api_options_but
from vfsmount.cli.remote import with_client
from vfsmount.cli.target import state_dir_option
from vfsmount.errors import ConfigError

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("create")
@click.argument("name")
@click.argument("host", required=False)
@folder_options
@click.option(
    "-g",
    "--group",
    metavar="PROJECT",
    help="Make it the folder of this project (administrators); 26.x: its id.",
)
@show.json_option
@state_dir_option
@api_options_but("group")
def command(
    name: str,
    host: str | None,
    group: str | None,
    as_json: bool,
    state_dir: Path,
    flags: Flags,
    **options: Any,
) -> None:
    """Create the folder NAME on HOST, else on the cluster's default host.

    'vfsmount list-hosts' shows the hosts. Mounts of yours on this machine show the folder at once.
    """
    row = with_client(flags, lambda client: _create(client, name, host, group, options))
    tell_of_folders(state_dir)
    if as_json:
        show.as_json(row)
    else:
        show.say(f"{row['name']} is created on {row['host']}")


async def _create(
    client: Client, name: str, host: str | None, group: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    if group and client.traits.by_id and folder_id(group) is None:
        raise ConfigError(f"--group {group}: this server takes a project's id, 32 hex digits, not its name")
    with about(name):
        async with naming(client, name):
            folder = await client.create_folder(name, host=host, group=group, **options)
    return describe(folder, folder.name)
