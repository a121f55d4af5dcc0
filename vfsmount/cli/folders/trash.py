"""``vfsmount trash``: deleted folders of a 26.x server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.ask import may_go_on
from vfsmount.cli.exit_codes import FAILED, OK
from vfsmount.cli.folders.delete import is_gone
from vfsmount.cli.folders.listing import describe, print_table
from vfsmount.cli.folders.naming import IN_TRASH, about
from vfsmount.cli.folders.settings import yes_option
from vfsmount.cli.folders.telling import tell_of_folders
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.target import state_dir_option
from vfsmount.errors import Ambiguous, NotFound, NotSupported
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.group("trash")
def command() -> None:
    """List, restore or purge deleted folders. Servers of the 23.09 line have no trash."""


@command.command("list")
@show.json_option
@api_options
def list_trash(as_json: bool, flags: Flags) -> None:
    """List what is in the trash."""
    found = with_client(flags, _trashed)
    rows = sorted((describe(f, f.name) for f in found), key=lambda row: row["name"])
    if as_json:
        show.as_json(rows)
    else:
        print_table(rows)


@command.command("restore")
@click.argument("name")
@show.json_option
@state_dir_option
@api_options
def restore(name: str, as_json: bool, state_dir: Path, flags: Flags) -> None:
    """Bring the folder NAME back; it may also be given by its id."""
    row = with_client(flags, lambda client: _restore(client, name))
    tell_of_folders(state_dir)
    if as_json:
        show.as_json(row)
    else:
        show.say(f"{row['name']} is back")


@command.command("purge")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that is in the trash.")
@yes_option
@show.json_option
@api_options
def purge(names: tuple[str, ...], everything: bool, yes: bool, as_json: bool, flags: Flags) -> int:
    """Remove the folders NAMES, given by name or id, for good. Asks first, unless told --yes."""
    if everything == bool(names):
        raise click.UsageError("give NAMES, or --all and none")
    chosen = with_client(flags, lambda client: _choose(client, names))
    if not chosen:
        show.say("the trash is empty")
    elif not yes and not may_go_on(_question(chosen)):
        show.say("nothing was removed")
        return FAILED
    rows = with_client(flags, lambda client: _purge(client, chosen)) if chosen else []
    if as_json:
        show.as_json(rows)
        return OK
    for row in rows:
        still = "" if row["outcome"] == "deleted" else " being"
        show.say(f"{row['name']} is{still} removed for good")
    return OK


def _question(chosen: list[Folder]) -> str:
    return show.printable(f"Remove {', '.join(f.name for f in chosen)} for good?")


async def _trashed(client: Client) -> list[Folder]:
    if not client.traits.has_trash:
        raise NotSupported("this server has no trash: deleting a folder is final")
    return [f for f in await client.list_folders() if f.status in IN_TRASH]


async def _choose(client: Client, names: tuple[str, ...]) -> list[Folder]:
    """Those of these names, each once; all without names."""
    trashed = await _trashed(client)
    return list(dict.fromkeys(_one(trashed, name) for name in names)) if names else trashed


def _one(trashed: list[Folder], wanted: str) -> Folder:
    alike = [f for f in trashed if f.id == wanted.replace("-", "").lower()]
    alike = alike or [f for f in trashed if f.name == wanted]
    if not alike:
        raise NotFound(f"there is no folder {wanted!r} in the trash (vfsmount trash list shows what is)")
    if len(alike) > 1:
        raise Ambiguous(f"several folders called {wanted!r} are in the trash; say which: " + _ids(alike))
    return alike[0]


def _ids(folders: list[Folder]) -> str:
    return ", ".join(f.id for f in folders)


async def _restore(client: Client, wanted: str) -> dict[str, Any]:
    (folder,) = await _choose(client, (wanted,))
    with about(folder.name):
        await client.restore_folder(folder)
    return describe(replace(folder, status="ready"), folder.name)


async def _purge(client: Client, chosen: list[Folder]) -> list[dict[str, Any]]:
    for folder in chosen:
        with about(folder.name):
            await client.delete_from_trash(folder)
    ids = {f.id for f in chosen}
    gone = await is_gone(client, lambda f: f.id in ids)
    left = set() if gone else {f.id for f in await client.list_folders()}
    return [
        {"name": f.name, "id": f.id, "outcome": "deleting" if f.id in left else "deleted"} for f in chosen
    ]
