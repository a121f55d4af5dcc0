"""``vfsmount completion SHELL``: the script that teaches a shell."""

from __future__ import annotations

import click

SHELL_NAMES = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELL_NAMES))
def command(shell: str) -> None:
    """Print the script that has SHELL complete commands, options, folders and paths in them.

    \b
        source <(vfsmount completion bash)      in ~/.bashrc
        source <(vfsmount completion zsh)       in ~/.zshrc, below compinit
        vfsmount completion fish | source       in ~/.config/fish/config.fish

    Names of folders and of files in them are asked of the server, in a moment or not at all.
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """The text of the script for one of `SHELL_NAMES`."""
    from vfsmount.cli import app
    from vfsmount.cli.completion.shells import PROGRAM, SHELLS, VARIABLE

    return SHELLS[shell](app, {}, PROGRAM, VARIABLE).source()
