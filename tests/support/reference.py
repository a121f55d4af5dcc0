"""All commands there are, as their users type them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from vfsmount.cli.commands import COMMANDS, load


def leaves() -> dict[str, click.Command]:
    """ "cache info" → command, for all that do something themselves."""
    return {path: command for name in COMMANDS for path, command in _below(name, load(name))}


def _below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from _below(f"{path} {name}", below)
