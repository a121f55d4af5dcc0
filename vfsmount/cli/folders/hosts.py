"""``vfsmount list-hosts``: storage hosts on which folders can be created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client
from vfsmount.values import HostUsage

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("list-hosts")
@show.json_option
@api_options
def command(as_json: bool, flags: Flags) -> None:
    """List the storage hosts you may create folders on, and how full they say they are."""
    found = with_client(flags, _hosts)
    if as_json:
        show.as_json(found)
        return
    show.table(("HOST", "DEFAULT", ">USED", ">TOTAL", ">FULL"), [_line(host) for host in found["hosts"]])


async def _hosts(client: Client) -> dict[str, Any]:
    hosts = await client.list_hosts()
    return {
        "default": hosts.default,
        "hosts": [
            {
                "host": host,
                "is_default": host == hosts.default,
                "used": (usage := hosts.usage.get(host, HostUsage())).used,
                "total": usage.total,
                "percentage": usage.percentage,
            }
            for host in hosts.allowed
        ],
    }


def _line(host: dict[str, Any]) -> tuple[str, ...]:
    sizes = ("-" if host[key] is None else show.size(host[key]) for key in ("used", "total"))
    full = "-" if host["percentage"] is None else f"{host['percentage']:.0f} %"
    return host["host"], "yes" if host["is_default"] else "", *sizes, full
