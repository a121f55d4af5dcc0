"""The command line: ``vfsmount MOUNTPOINT`` mounts; everything else is a named command.

Commands are loaded when they are called, so that ``vfsmount --help`` imports neither httpx nor
pyfuse3. `main` is the one place that turns errors into exit codes.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vfsmount import __version__
from vfsmount.cli.commands import CHAPTERS, COMMANDS, load, vfolder
from vfsmount.cli.exit_codes import INTERRUPTED, QUOTA, READER_GONE, exit_code

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_OF_STDOUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
_COMPLETE = "_VFSMOUNT_COMPLETE"  # set by a shell whose user pressed TAB


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
            if not ctx.resilient_parsing:
                refuse_mistyped(args[0], ctx)
            args = ["mount", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        lines = {name: line for name, (_, line) in COMMANDS.items()} | {
            "vfolder": vfolder.get_short_help_str()
        }
        found = [CompletionItem(name, help=lines[name]) for name in lines if name.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="dir")]

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


def refuse_mistyped(word: str, ctx: click.Context) -> None:
    """Let a first word pass that may be meant as a mountpoint.

    A new directory is made to mount on, so a command that we do not have would become one. What has a
    slash or is there already is taken as it is.

    Raises:
        UsageError: names what may be meant.
    """
    from vfsmount.cli.mistyped import alike

    if word.startswith("-") or "/" in word or os.path.lexists(word):
        return
    names = alike(word, [*COMMANDS, "vfolder"])
    meant = f" Did you mean {' or '.join(names)}?" if names else ""
    raise click.UsageError(
        f"there is no command {word!r}, and no directory.{meant} "
        f"To mount on a new directory of that name: vfsmount ./{word}",
        ctx,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (docs/exit-codes.md)."""
    if _COMPLETE in os.environ:
        from vfsmount.cli.completion.entry import run

        return run()
    try:
        status = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
    except OSError as e:
        return _stdout_failed(e)
    return status


def _run(words: list[str]) -> int:
    try:
        # Not app.main(), which gives a closed pipe a status of its own.
        with app.make_context("vfsmount", words.copy(), obj=words) as ctx:
            result = app.invoke(ctx)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except (click.Abort, KeyboardInterrupt, EOFError) as e:
        from vfsmount.cli.interrupted import how_to_go_on

        if isinstance(e, KeyboardInterrupt) and sys.stderr.isatty():
            click.echo(err=True)  # behind the terminal's ^C
        click.echo(f"vfsmount: stopped{how_to_go_on(words)}", err=True)
        return INTERRUPTED
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except Exception as e:
        code = exit_code(e)
        if code is None:
            raise
        click.echo(f"vfsmount: {e}", err=True)
        return code


def _stdout_failed(error: OSError) -> int:
    """The exit status where what we say cannot be written, because its reader has ended or the disk is full.

    Errors of files have their names, and those of the network and of our own files are `VfsError`.

    Raises:
        OSError: it was about something else.
    """
    if error.filename is not None or error.errno not in _OF_STDOUT:
        raise error
    # Python flushes once more at its end, to where it can.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return READER_GONE  # without a word, as programs that SIGPIPE ends
    click.echo(f"vfsmount: standard output: {error.strerror}", err=True)
    return QUOTA
