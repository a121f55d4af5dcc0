"""``vfsmount run``: a command that sees folders where a session would see them.

Two forms, told apart by whether an IMAGE stands in front of the command: a session on the cluster
(`vfsmount.cli.run.cluster`), or a process on this machine (`vfsmount.cli.run.local`).
"""

from __future__ import annotations

from typing import Any

import click

from vfsmount.cli.options import Flags, api_options
from vfsmount.core.mountspec import MountSpec, parse_mounts
from vfsmount.errors import ConfigError

_LOCAL = "vfsmount.run.local"


class RunCommand(click.Command):
    """Knows where the options end: behind IMAGE and what follows it, the words are the command's own.

    Options directly behind IMAGE are still ours, as in the official client: no command begins with "-".
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            return super().parse_args(ctx, args)
        ours, rest = self._split(ctx, args)
        local = ours[-1:] == ["--"]
        if not local and rest[1:] and rest[1].startswith("-"):
            more, behind = self._split(ctx, rest[1:])
            ours, rest = [*ours, *more[: -1 if more[-1:] == ["--"] else None]], [rest[0], *behind]
        ctx.meta[_LOCAL] = local
        return super().parse_args(ctx, [*ours[: -1 if local else None], "--", *rest])

    def _split(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str]]:
        """Options with their values, and what begins with the first word that is none; "--" ends them."""
        values, _, _ = self.make_parser(ctx).parse_args(list(args))
        words = values["words"]
        cut = len(args) - (len(words) if isinstance(words, list | tuple) else 0)
        return args[:cut], args[cut:]


@click.command(
    "run", cls=RunCommand, context_settings={"allow_interspersed_args": False}, no_args_is_help=True
)
@click.argument("words", nargs=-1, metavar="IMAGE [COMMAND…] | -- COMMAND…")
@click.option(
    "-m",
    "--mount",
    "-v",
    "--volume",
    "mounts",
    multiple=True,
    metavar="NAME[:PATH[:ro]]",
    help="Folder to mount, at /home/work/NAME or at PATH; may be repeated.",
)
@click.option("-e", "--env", "environment", multiple=True, metavar="KEY=VALUE", help="Environment variable.")
@click.option("--rm", "remove", is_flag=True, help="Destroy the session when the command has ended.")
@click.option("--local-image", metavar="IMAGE", help="Here, in a container of IMAGE (podman or docker).")
@api_options
def command(
    words: tuple[str, ...],
    mounts: tuple[str, ...],
    environment: tuple[str, ...],
    remove: bool,
    local_image: str | None,
    flags: Flags,
    **options: Any,
) -> int:
    """Run COMMAND where folders stand as a session sees them.

    \b
        vfsmount run --rm -m mydata1 IMAGE COMMAND…   in a session on the cluster
        vfsmount run -m mydata1 -- COMMAND…           on this machine
    """
    ctx = click.get_current_context()
    specs = parse_mounts(mounts)
    variables = _variables(environment)
    if ctx.meta[_LOCAL] or local_image is not None:
        from vfsmount.cli.run.local import run_local

        return run_local(specs, words, environment=variables, image=local_image, flags=flags)
    if not words:
        raise click.UsageError("no IMAGE and no command; for one on this machine: run … -- COMMAND", ctx)
    return run_session(specs, words[0], words[1:])


def run_session(mounts: tuple[MountSpec, ...], image: str, command: tuple[str, ...]) -> int:
    """In a session on the cluster; the command's exit status."""
    raise ConfigError(f"no session can be made of {image} yet")


def _variables(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ConfigError(f"-e {pair}: it must be KEY=VALUE")
        found[name] = value
    return found
