"""``vfsmount dotfile``: small files that every session starts with."""

from __future__ import annotations

import importlib

import click

# name → (module and attribute, one line for --help)
_COMMANDS = {
    "create": ("vfsmount.cli.dotfile.put:create", "Add a dotfile, from stdin or a file."),
    "list": ("vfsmount.cli.dotfile.look:list_", "List dotfiles."),
    "get": ("vfsmount.cli.dotfile.look:get", "Print a dotfile, byte for byte."),
    "update": ("vfsmount.cli.dotfile.put:update", "Replace a dotfile, from stdin or a file."),
    "edit": ("vfsmount.cli.dotfile.edit:edit", "Change a dotfile in your editor."),
    "delete": ("vfsmount.cli.dotfile.look:delete", "Remove a dotfile."),
}


class Dotfile(click.Group):
    """Loads a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group("dotfile", cls=Dotfile)
def command() -> None:
    """Small text files that every session finds in its home directory.

    \b
        vfsmount dotfile create .aws/config < ~/.aws/config
        vfsmount dotfile edit .aws/config

    They are yours unless --group or --domain says whose. A session takes the first it finds of
    yours, the project's and the domain's.
    """
