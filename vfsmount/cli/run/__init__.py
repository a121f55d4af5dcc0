"""``vfsmount run``: a command that sees folders where a session would see them.

Two forms, told apart by whether an IMAGE stands in front of the command: a session on the cluster
(`vfsmount.cli.run.cluster`), or a process on this machine (`vfsmount.cli.run.local`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from vfsmount import places
from vfsmount.cli.completion import kinds
from vfsmount.cli.options import Flags, api_options_but
from vfsmount.core.mountspec import parse_mounts
from vfsmount.errors import ConfigError, LocalIOError

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
        words = values.get("words")  # not there where completion waits for the value of an option
        cut = len(args) - (len(words) if isinstance(words, list | tuple) else 0)
        return args[:cut], args[cut:]


@click.command("run", cls=RunCommand, context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, metavar="IMAGE [COMMAND…] | -- COMMAND…")
@click.option(
    "-m",
    "--mount",
    "-v",
    "--volume",
    "mounts",
    multiple=True,
    metavar="NAME[:PATH[:ro]]",
    type=kinds.FOLDER,
    help="Folder to mount, at /home/work/NAME or at PATH; may be repeated.",
)
@click.option("-e", "--env", "environment", multiple=True, metavar="KEY=VALUE", help="Environment variable.")
@click.option("--rm", "remove", is_flag=True, help="Destroy the session when the command has ended.")
@click.option(
    "-r",
    "--resources",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of a session: cpu=1, mem=1g, …; may be repeated.",
)
@click.option("--resource-opts", multiple=True, metavar="KEY=VALUE", help="Of a session: shmem=64m.")
@click.option("-t", "--name", "--client-token", metavar="NAME", help="Name of the session. [a random one]")
@click.option("-c", "--code", metavar="CODE", help="Code in the image's own language instead of COMMAND.")
@click.option("--exec", "shell", metavar="LINE", help="Line for the session's shell instead of COMMAND.")
@click.option(
    "--timeout",
    "--max-wait",
    "timeout",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    help="Seconds that a session may take to start, queue included; 0 for any time.",
)
@click.option("--arch", "--architecture", "architecture", default="x86_64", show_default=True, metavar="ARCH")
@click.option(
    "--scaling-group", "--sgroup", metavar="NAME", help="Where on the cluster. [the server's choice]"
)
@click.option("--tag", help="Note on the session.")
@click.option(
    "--bootstrap-script", metavar="FILE", type=kinds.FILE, help="Script that the session runs first."
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what the command says.")
@click.option("--local-image", metavar="IMAGE", help="Here, in a container of IMAGE (podman or docker).")
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mounts.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Here: seconds to wait for unsent files at the end; the next mount sends the rest.",
)
@api_options_but(short={"group": "-g", "domain": "-d"})
def command(
    words: tuple[str, ...],
    mounts: tuple[str, ...],
    environment: tuple[str, ...],
    local_image: str | None,
    state_dir: Path | None,
    drain_timeout: float,
    flags: Flags,
    **options: Any,
) -> int:
    """Run COMMAND where folders stand as a session sees them.

    \b
        vfsmount run --rm -m mydata1 IMAGE COMMAND…   in a session on the cluster
        vfsmount run -m mydata1 -- COMMAND…           on this machine

    In a session: first waits until what mounts on this machine hold unsent of these folders is on the
    server; passes output and exit status on. Without --rm the session goes on afterwards. What stops
    this command (Ctrl-C) ends the session too if --rm was given.

    On this machine: in namespaces of its own, or with --local-image in a container, with the folders and
    your dotfiles in /home/work. Returns when everything is sent; exit status 6 where something is not.
    """
    ctx = click.get_current_context()
    specs = parse_mounts((*mounts, *_always_mounted(mounts)))
    variables = _pairs("-e", environment)
    if ctx.meta[_LOCAL] or local_image is not None:
        from vfsmount.cli.run.local import run_local

        return run_local(
            specs,
            words,
            environment=variables,
            image=local_image,
            flags=flags,
            state_dir=state_dir,
            drain_timeout=drain_timeout,
        )
    if not words:
        raise click.UsageError("no IMAGE and no command; for one on this machine: run … -- COMMAND", ctx)
    image, *command = words
    given = [bool(command), options["code"] is not None, options["shell"] is not None]
    if sum(given) != 1:
        raise click.UsageError("it needs one of COMMAND, --code and --exec", ctx)

    from vfsmount.cli.run.cluster import Job, run_session

    script = options["bootstrap_script"]
    job = Job(
        image,
        shell=options["shell"] or shlex.join(command),
        code=options["code"] or "",
        name=options["name"],
        mounts=specs,
        environ=variables,
        resources=_resources(options["resources"]),
        resource_opts=_pairs("--resource-opts", options["resource_opts"]),
        architecture=options["architecture"],
        scaling_group=options["scaling_group"],
        tag=options["tag"],
        bootstrap_script=None if script is None else _script(script),
        remove=options["remove"],
        timeout_s=options["timeout"] or None,
        quiet=options["quiet"],
    )
    return run_session(job, flags=flags, state_dir=(state_dir or places.state_dir()).absolute())


def _always_mounted(mounts: Iterable[str]) -> list[str]:
    """What BACKEND_VFOLDER_MOUNTS adds to every session, unless it was named.

    Source: contract 1.1.
    """
    names = os.environ.get("BACKEND_VFOLDER_MOUNTS") or os.environ.get("SORNA_VFOLDER_MOUNTS") or ""
    named = {spec.folder for spec in parse_mounts(mounts)}
    return [name for name in map(str.strip, names.split(",")) if name and name not in named]


def _pairs(option: str, pairs: Iterable[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ConfigError(f"{option} {pair}: it must be KEY=VALUE")
        found[name] = value
    return found


def _resources(pairs: Iterable[str]) -> dict[str, str]:
    """As the official client: memory without a unit is in MiB."""
    found = _pairs("-r", pairs)
    if found.get("mem", "m")[-1:].isdigit():
        found["mem"] += "m"
    return found


def _script(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise LocalIOError(f"--bootstrap-script {path}: {e}") from e
