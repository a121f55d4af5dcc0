"""``vfsmount invitations``: those that wait for an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.cli.sharing.naming import describe

if TYPE_CHECKING:
    from vfsmount.api.client import Client

_WAYS = ("received", "sent")


@click.command("invitations")
@click.argument("which", type=click.Choice(_WAYS), required=False)
@show.json_option
@api_options
def command(which: str | None, as_json: bool, flags: Flags) -> None:
    """List the invitations you have received and sent that wait for an answer, or only one kind.

    'vfsmount accept' and 'vfsmount reject' answer those received, 'vfsmount cancel' takes a sent one
    back, 'vfsmount permission' changes what it offers.
    """
    found = with_client(flags, lambda client: _invitations(client, (which,) if which else _WAYS))
    if as_json:
        show.as_json(found)
        return
    lines = [_line(way, row) for way, rows in found.items() for row in rows]
    show.table(("FOLDER", "FROM OR TO", "PERMISSION", "SINCE", "ID"), lines)


async def _invitations(client: Client, ways: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    calls = {"received": client.list_invitations, "sent": client.list_sent_invitations}
    return {way: [describe(invitation) for invitation in await calls[way]()] for way in ways}


def _line(way: str, row: dict[str, Any]) -> tuple[str, ...]:
    whom = f"from {row['inviter']}" if way == "received" else f"to {row['invitee']}"
    return row["folder"], whom, row["permission"], show.moment(row["created_ns"]), row["id"]
