"""``vfsmount delete NAME``: for good on 23.09, into the trash on 26.x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount.cli import show
from vfsmount.cli.ask import may_go_on
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import FAILED, OK
from vfsmount.cli.folders.naming import about, find
from vfsmount.cli.folders.settings import yes_option
from vfsmount.cli.folders.telling import tell_of_folders, unsent_files
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.target import state_dir_option
from vfsmount.errors import PermissionDenied
from vfsmount.values import Folder

if TYPE_CHECKING:
    from vfsmount.api.client import Client

_GONE_WITHIN_S = 10.0  # a folder of some thousand files; larger ones go on by themselves


@click.command("delete")
@click.argument("name", type=kinds.FOLDER)
@yes_option
@show.json_option
@state_dir_option
@api_options
def command(name: str, yes: bool, as_json: bool, state_dir: Path, flags: Flags) -> int:
    """Delete the folder NAME with all it holds.

    A server of the 23.09 line removes it for good; one of 26.x puts it into the trash, from where
    'vfsmount trash restore' brings it back. Asks first, on the terminal, unless told --yes.
    """
    found = with_client(flags, lambda client: _look(client, name))
    if not yes and not may_go_on(show.printable(found.question(unsent_files(found.folder.id, state_dir)))):
        show.say("nothing was deleted")
        return FAILED
    # By its id: the name may lead elsewhere by the time somebody has answered.
    outcome = with_client(flags, lambda client: _delete(client, found))
    tell_of_folders(state_dir)
    if as_json:
        show.as_json({"name": found.name, "id": found.folder.id, "outcome": outcome})
    else:
        show.say(f"{found.name} {_TOLD[outcome].format(name=found.name)}")
    return OK


_TOLD = {
    "trash": "is in the trash; 'vfsmount trash restore {name}' brings it back",
    "deleted": "is deleted",
    "deleting": "is being deleted; a large folder takes the server a while, and its name so long",
}


@dataclass(frozen=True, slots=True)
class _Found:
    folder: Folder
    name: str
    has_trash: bool

    def question(self, unsent: int) -> str:
        """What to ask; so many of its files were written here and are not on the server."""
        end = "It goes to the trash." if self.has_trash else "This is final: this server has no trash."
        whose = ""
        if not self.folder.is_owner:
            owner = self.folder.owner or "somebody else"
            whose = f" It belongs to {owner}, who loses it too ('vfsmount leave' gives up your share only)."
        files = "1 file" if unsent == 1 else f"{unsent} files"
        here = f" With {files} that this machine has not sent yet." if unsent else ""
        return f"Delete {self.name} with all it holds? {end}{whose}{here}"


async def _look(client: Client, wanted: str) -> _Found:
    folder, name = await find(client, wanted)
    has_trash = client.traits.has_trash
    if not (folder.is_owner or has_trash or folder.permission == "wd"):
        raise PermissionDenied(
            f"{name} belongs to {folder.owner or 'somebody else'}; you can leave it: vfsmount leave"
        )
    return _Found(folder, name, has_trash)


async def _delete(client: Client, found: _Found) -> str:
    folder, _ = await find(client, found.folder.id)
    with about(found.name):
        await client.delete_folder(folder)
    if found.has_trash:
        return "trash"
    return "deleted" if await is_gone(client, lambda f: f.id == folder.id) else "deleting"


async def is_gone(client: Client, which: Callable[[Folder], bool]) -> bool:
    """Wait a little until no such folder is listed any more; whether it came to that."""
    import trio

    pause_s = 0.05
    with trio.move_on_after(_GONE_WITHIN_S):
        while any(map(which, await client.list_folders())):
            await trio.sleep(pause_s)
            pause_s = min(1.0, pause_s * 2)
        return True
    return False
