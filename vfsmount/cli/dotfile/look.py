"""``vfsmount dotfile list``, ``get`` and ``delete``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vfsmount.cli import show
from vfsmount.cli.ask import may_go_on
from vfsmount.cli.dotfile.scope import described, listed, scope_options
from vfsmount.cli.exit_codes import FAILED, OK
from vfsmount.cli.options import Flags
from vfsmount.cli.remote import with_client

if TYPE_CHECKING:
    from vfsmount.api.client import Client
    from vfsmount.api.dotfiles import Dotfile, Scope


@click.command("list")
@show.json_option
@scope_options
def list_(as_json: bool, scope: Scope, flags: Flags) -> None:
    """List dotfiles, without their content."""
    found = with_client(flags, lambda client: listed(client, scope))
    rows = sorted((described(d) for d in found), key=lambda row: row["path"])
    if as_json:
        show.as_json(rows)
        return
    lines = [(row["path"], row["permission"], show.size(row["size"])) for row in rows]
    show.table(("PATH", "PERMISSION", ">SIZE"), lines)


@click.command("get")
@click.argument("path")
@show.json_option
@scope_options
def get(path: str, as_json: bool, scope: Scope, flags: Flags) -> None:
    """Print the dotfile at PATH on stdout, byte for byte."""
    from vfsmount.cli.dotfile.put import read

    async def work(client: Client) -> Dotfile:
        return await read(client, path, scope)

    found = with_client(flags, work)
    if as_json:
        show.as_json({**described(found), "data": found.data})
        return
    sys.stdout.buffer.write(found.data.encode("utf-8", "surrogatepass"))
    sys.stdout.buffer.flush()


@click.command("delete")
@click.argument("path")
@click.option("-y", "--yes", "-f", "--force", "sure", is_flag=True, help="Do not ask.")
@show.json_option
@scope_options
def delete(path: str, sure: bool, as_json: bool, scope: Scope, flags: Flags) -> int:
    """Remove the dotfile at PATH; sessions that run keep theirs."""
    from vfsmount.cli.dotfile.put import read

    async def look(client: Client) -> None:
        await read(client, path, scope)

    if not sure:
        with_client(flags, look)  # nobody is asked about what there is not
        if not may_go_on(f"Remove {show.printable(path)}? There is no way back"):
            show.say("nothing was removed")
            return FAILED

    async def work(client: Client) -> None:
        await read(client, path, scope)
        await client.delete_dotfile(path, scope)

    with_client(flags, work)
    if as_json:
        show.as_json({"path": path})
    else:
        show.say(f"removed {path}")
    return OK
