"""``vfsmount accept``, ``reject`` and ``cancel``: answers to invitations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.folders.naming import about, names_on_mount
from vfsmount.cli.folders.telling import tell_of_folders
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.sharing.naming import choose, describe
from vfsmount.cli.target import state_dir_option
from vfsmount.errors import AlreadyExists

if TYPE_CHECKING:
    from vfsmount.api.client import Client

_argument = click.argument("invitation", metavar="INVITATION")


@click.command("accept")
@_argument
@show.json_option
@state_dir_option
@api_options
def accept(invitation: str, as_json: bool, state_dir: Path, flags: Flags) -> None:
    """Accept INVITATION, given by the folder's name or by its id ('vfsmount invitations').

    The folder shows at once on mounts of yours on this machine.
    """
    row = _answer(flags, invitation, _accept)
    tell_of_folders(state_dir)
    _print(row, as_json, "{folder} of {inviter} is yours to use ({permission}), on a mount as {name}")


@click.command("reject")
@_argument
@show.json_option
@api_options
def reject(invitation: str, as_json: bool, flags: Flags) -> None:
    """Reject INVITATION, given by the folder's name or by its id ('vfsmount invitations')."""
    row = _answer(flags, invitation, _reject)
    _print(row, as_json, "the invitation to {folder} of {inviter} is rejected")


@click.command("cancel")
@_argument
@click.option("--to", metavar="EMAIL", help="Of several to one folder, the one to this user.")
@show.json_option
@api_options
def cancel(invitation: str, to: str | None, as_json: bool, flags: Flags) -> None:
    """Take back INVITATION, one of yours, given by the folder's name or by its id."""
    row = _answer(flags, invitation, lambda client, wanted: _cancel(client, wanted, to))
    _print(row, as_json, "{invitee} is no longer invited to {folder}")


def _answer(
    flags: Flags, wanted: str, work: Callable[[Client, str], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    return with_client(flags, lambda client: work(client, wanted))


def _print(row: dict[str, Any], as_json: bool, sentence: str) -> None:
    if as_json:
        show.as_json(row)
    else:
        show.say(sentence.format_map(row))


async def _accept(client: Client, wanted: str) -> dict[str, Any]:
    invitation = choose(await client.list_invitations(), wanted, with_whom="inviter")
    try:
        with about(invitation.folder_name):
            await client.accept_invitation(invitation)
    except AlreadyExists as e:
        name = invitation.folder_name
        raise AlreadyExists(
            f"you have a folder called {name} already; rename it first: vfsmount rename {name} NEW_NAME",
            detail=e.detail,
        ) from e
    names = names_on_mount(client, await client.list_folders())
    return describe(invitation) | {"name": names.get(invitation.folder_id, invitation.folder_name)}


async def _reject(client: Client, wanted: str) -> dict[str, Any]:
    invitation = choose(await client.list_invitations(), wanted, with_whom="inviter")
    with about(invitation.folder_name):
        await client.delete_invitation(invitation)
    return describe(invitation)


async def _cancel(client: Client, wanted: str, to: str | None) -> dict[str, Any]:
    sent = [i for i in await client.list_sent_invitations() if to in (None, i.invitee)]
    invitation = choose(sent, wanted, with_whom="invitee")
    with about(invitation.folder_name):
        await client.delete_invitation(invitation)
    return describe(invitation)
