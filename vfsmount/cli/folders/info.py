"""``vfsmount info NAME``: all that the server tells of one folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.folders.listing import describe, owner_of
from vfsmount.cli.folders.naming import about, find
from vfsmount.cli.options import Flags, api_options
from vfsmount.cli.remote import with_client

if TYPE_CHECKING:
    from vfsmount.api.client import Client


@click.command("info")
@click.argument("name", type=kinds.FOLDER)
@show.json_option
@api_options
def command(name: str, as_json: bool, flags: Flags) -> None:
    """Show all that the server tells of the folder NAME, its size included.

    The server counts by walking the whole folder, which takes up to half a minute for a large one.
    """
    row = with_client(flags, lambda client: _info(client, name))
    if as_json:
        show.as_json(row)
    else:
        show.table(("", ""), _lines(row), headed=False)


async def _info(client: Client, wanted: str) -> dict[str, Any]:
    folder, name = await find(client, wanted)
    with about(name):
        info = await client.folder_info(folder)
    counted = {"num_files": info.num_files, "used_bytes": info.used_bytes}
    return describe(info.folder, name) | counted


def _lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    unknown = "the server gave up counting"
    files, size = row["num_files"], row["used_bytes"]
    return [
        ("name", row["name"]),
        ("id", row["id"]),
        ("host", row["host"]),
        ("owner", f"{owner_of(row)} ({row['ownership']})"),
        ("permission", row["permission"]),
        ("status", row["status"]),
        ("usage mode", row["usage_mode"]),
        ("cloneable", "yes" if row["cloneable"] else "no"),
        ("files", unknown if files is None else str(files)),
        ("size", unknown if size is None else f"{show.size(size)} ({size} bytes)"),
        ("created", show.moment(row["created_ns"])),
    ]
