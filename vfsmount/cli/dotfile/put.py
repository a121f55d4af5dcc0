"""``vfsmount dotfile create`` and ``update``: content from stdin or a file, byte for byte."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.dotfile.scope import described, known, scope_options
from vfsmount.cli.options import Flags
from vfsmount.cli.remote import with_client
from vfsmount.errors import LocalIOError, NotFound

if TYPE_CHECKING:
    from vfsmount.api.client import Client
    from vfsmount.api.dotfilerules import Packed
    from vfsmount.api.dotfiles import Dotfile, Scope

_FILE = click.option(
    "-f", "--file", "source", metavar="FILE", type=kinds.FILE, help="Content from FILE instead of stdin."
)
# More than any dotfile may have, in the longest encoding of a character.
_READ_MAX = 4 * (64 << 10) + 1


@click.command("create")
@click.argument("path")
@click.option(
    "--permission", "--perm", metavar="MODE", default="755", show_default=True, help="Three octal digits."
)
@_FILE
@show.json_option
@scope_options
def create(path: str, permission: str, source: str | None, as_json: bool, scope: Scope, flags: Flags) -> None:
    """Add a dotfile: sessions find it at PATH below their home directory.

    The content comes from stdin, or from a file, and is kept byte for byte; it must be UTF-8 text.

    \b
        vfsmount dotfile create .aws/config < ~/.aws/config
    """
    from vfsmount.api import dotfilerules as rules
    from vfsmount.api.dotfiles import Dotfile

    rules.check_path(path, os.path.expanduser("~"))
    rules.check_permission(permission)
    dotfile = Dotfile(path, permission, _content(source))

    async def work(client: Client) -> None:
        rules.check_data(dotfile.data, may_be_empty=client.traits.by_id)
        await check_new(client, dotfile, scope)
        await client.create_dotfile(dotfile, scope)

    with_client(flags, work)
    if as_json:
        show.as_json(described(dotfile))
    else:
        show.say(f"created {path} ({show.size(len(dotfile.data.encode()))}, {permission})")


@click.command("update")
@click.argument("path")
@click.option("--permission", "--perm", metavar="MODE", help="Three octal digits. [as it was]")
@_FILE
@show.json_option
@scope_options
def update(
    path: str, permission: str | None, source: str | None, as_json: bool, scope: Scope, flags: Flags
) -> None:
    """Replace the dotfile at PATH.

    The content comes from stdin, or from a file, and is kept byte for byte; it must be UTF-8 text.
    """
    from vfsmount.api import dotfilerules as rules
    from vfsmount.api.dotfiles import Dotfile

    if permission is not None:
        rules.check_permission(permission)
    data = _content(source)

    async def work(client: Client) -> Dotfile:
        rules.check_data(data, may_be_empty=client.traits.by_id)
        old = await read(client, path, scope)
        new = Dotfile(path, permission or old.permission, data)
        await replace(client, new, scope)
        return new

    new = with_client(flags, work)
    if as_json:
        show.as_json(described(new))
    else:
        show.say(f"updated {path} ({show.size(len(data.encode()))}, {new.permission})")


async def read(client: Client, path: str, scope: Scope) -> Dotfile:
    """The dotfile at `path`.

    Raises:
        NotFound: there is none; names the command that lists them.
    """
    try:
        return await client.read_dotfile(path, scope)
    except NotFound as e:
        # The project or domain may be what is missing; the server's title tells.
        raise NotFound(f"{path}: {e} ('vfsmount dotfile list' shows those there are)", detail=e.detail) from e


async def check_new(client: Client, dotfile: Dotfile, scope: Scope) -> None:
    """Refuse a new dotfile that the server would refuse, with its reason.

    Raises:
        AlreadyExists: another dotfile, or a folder, has its path.
        QuotaExceeded: no room beside the others.
    """
    from vfsmount.api import dotfilerules as rules
    from vfsmount.api.dotfiles import ScopeKind

    others = await known(client, scope) or []
    names: set[str] = set()
    # Only sessions of the user mount the user's folders; those of others are not ours to see.
    if scope.kind is ScopeKind.USER and scope.owner_access_key is None and "/" not in dotfile.path:
        names = {folder.name for folder in await client.list_folders()}
    rules.check_free(dotfile.path, [d.path for d in others], names)
    rules.check_room(_packed(dotfile), map(_packed, others))


async def replace(client: Client, dotfile: Dotfile, scope: Scope) -> None:
    """Send other content for a dotfile that there is.

    Raises:
        QuotaExceeded: no room beside the others.
    """
    from vfsmount.api import dotfilerules as rules

    others = await known(client, scope) or []
    rules.check_room(_packed(dotfile), map(_packed, others))
    await client.update_dotfile(dotfile, scope)


def _packed(dotfile: Dotfile) -> Packed:
    from vfsmount.api.dotfilerules import Packed

    return Packed(dotfile.path, dotfile.permission, dotfile.data)


def _content(source: str | None) -> str:
    """What is to be stored, as text.

    Raises:
        InvalidRequest, LocalIOError: it is not UTF-8, or cannot be read.
    """
    from vfsmount.api import dotfilerules as rules

    if source is None:
        if sys.stdin.isatty():
            show.say("type the content; Ctrl-D on a line of its own ends it")
        return rules.decode(sys.stdin.buffer.read(_READ_MAX), "stdin")
    try:
        with Path(source).open("rb") as file:
            return rules.decode(file.read(_READ_MAX), source)
    except OSError as e:
        raise LocalIOError(f"{source}: {e.strerror or e}") from e
