"""The command line: ``vfsmount MOUNTPOINT`` mounts; everything else is a named command.

Commands are loaded when they are called, so that ``vfsmount --help`` imports neither httpx nor
pyfuse3. `main` is the one place that turns errors into exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from vfsmount import __version__
from vfsmount.cli.commands import CHAPTERS, COMMANDS, load, vfolder
from vfsmount.cli.exit_codes import exit_code


class DefaultGroup(click.Group):
    """A group whose first word may also be a mountpoint, meaning ``mount``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "vfolder":
            return vfolder
        return load(cmd_name) if cmd_name in COMMANDS else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"-h", "--help", "--version", "vfolder"}
        if args and args[0] not in COMMANDS and args[0] not in own:
            args = ["mount", *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for chapter, commands in CHAPTERS.items():
            with formatter.section(chapter):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])


@click.group(
    cls=DefaultGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Run 'vfsmount COMMAND --help' for the options of one command; "
    "'vfsmount mount --help' for those of a mount.",
)
@click.version_option(__version__, prog_name="vfsmount")
def app() -> None:
    """Mount Backend.AI virtual folders as ordinary directories.

    \b
        vfsmount MOUNTPOINT [OPTIONS]      mount every vfolder you may access
        vfsmount umount MOUNTPOINT         unmount, nothing lost
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (docs/exit-codes.md)."""
    try:
        result = app.main(
            args=list(argv) if argv is not None else None, prog_name="vfsmount", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.Abort:
        click.echo("vfsmount: stopped", err=True)
        return 130
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except Exception as e:
        code = exit_code(e)
        if code is None:
            raise
        click.echo(f"vfsmount: {e}", err=True)
        return code
