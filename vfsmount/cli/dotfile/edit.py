"""``vfsmount dotfile edit``: in an editor, and never over somebody else's change."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from vfsmount.cli import show
from vfsmount.cli.dotfile.scope import scope_options
from vfsmount.cli.options import Flags
from vfsmount.cli.remote import with_client
from vfsmount.errors import ConfigError, Conflict, LocalIOError, NotFound, VfsError

if TYPE_CHECKING:
    from vfsmount.api.client import Client
    from vfsmount.api.dotfiles import Dotfile, Scope

_USUAL = ("sensible-editor", "vi", "nano")


@click.command("edit")
@click.argument("path")
@show.json_option
@scope_options
def edit(path: str, as_json: bool, scope: Scope, flags: Flags) -> None:
    """Change the dotfile at PATH in your editor ($VISUAL, else $EDITOR).

    It is sent when the editor has ended and something is changed. Where somebody else was faster, or
    the server does not take it, nothing is sent, and the file you edited is kept and named.
    """
    from vfsmount.cli.dotfile.put import read

    editor = _editor()

    async def look(client: Client) -> Dotfile:
        return await read(client, path, scope)

    old = with_client(flags, look)
    # A directory of its own, 0700, because editors put what they please beside the file.
    directory = Path(tempfile.mkdtemp(prefix="vfsmount-dotfile-"))
    copy = directory / (PurePosixPath(path).name or "dotfile")
    before = old.data.encode("utf-8", "surrogatepass")
    copy.write_bytes(before)
    copy.chmod(0o600)
    try:
        sent = _edited(editor, copy, before) and _send(flags, path, old, copy, scope)
    except BaseException as e:
        if _read(copy) in (None, before):
            shutil.rmtree(directory, ignore_errors=True)
        elif isinstance(e, VfsError):
            e.args = (f"{e}; what you edited is in {copy}",)
        else:
            show.say(f"what you edited is in {copy}")
        raise
    shutil.rmtree(directory, ignore_errors=True)
    if as_json:
        show.as_json({"path": path, "changed": sent})
    else:
        show.say(f"updated {path}" if sent else f"{path} is unchanged")


def _edited(editor: list[str], copy: Path, before: bytes) -> bool:
    """Whether the editor left something else in the file."""
    try:
        status = subprocess.run([*editor, str(copy)], check=False).returncode
    except OSError as e:
        raise ConfigError(f"the editor {editor[0]} cannot be run: {e.strerror or e}") from e
    if status:
        raise ConfigError(f"the editor {editor[0]} ended with status {status}; nothing was sent")
    after = _read(copy)
    if after is None:
        raise LocalIOError("the editor removed the file; nothing was sent")
    return after != before


def _send(flags: Flags, path: str, old: Dotfile, copy: Path, scope: Scope) -> bool:
    from vfsmount.api import dotfilerules as rules
    from vfsmount.api.dotfiles import Dotfile
    from vfsmount.cli.dotfile.put import replace

    data = rules.decode(_read(copy) or b"", path)

    async def work(client: Client) -> None:
        rules.check_data(data, may_be_empty=client.traits.by_id)
        try:
            now = await client.read_dotfile(path, scope)
        except NotFound:
            raise Conflict(f"{path} was removed meanwhile, nothing was sent") from None
        if now != old:
            raise Conflict(f"{path} was changed meanwhile, nothing was sent")
        await replace(client, Dotfile(path, old.permission, data), scope)

    with_client(flags, work)
    return True


def _read(copy: Path) -> bytes | None:
    try:
        return copy.read_bytes()
    except OSError:
        return None


def _editor() -> list[str]:
    """The words of the user's editor.

    Raises:
        ConfigError: there is none, or nobody who could use it.
    """
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if named:
        try:
            words = shlex.split(named)
        except ValueError as e:
            raise ConfigError(f"VISUAL or EDITOR makes no sense: {e}") from e
        if words:
            return words
    found = next((path for name in _USUAL if (path := shutil.which(name))), None)
    if found is None or not sys.stdin.isatty():
        raise ConfigError("set VISUAL or EDITOR to your editor, or use 'vfsmount dotfile update'")
    return [found]
