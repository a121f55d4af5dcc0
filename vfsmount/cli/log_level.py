"""``vfsmount log-level``: have a running mount log more, or less."""

from __future__ import annotations

import time
from pathlib import Path

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.errors import MountError
from vfsmount.log import LEVELS

_ANSWER_S = 10.0


@click.command("log-level")
@click.argument("words", nargs=-1, required=True, type=kinds.MOUNT_THEN_LEVEL, metavar="[MOUNTPOINT] LEVEL")
@show.json_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(words: tuple[str, ...], as_json: bool, state_dir: Path | None) -> None:
    """Have the mount on MOUNTPOINT log from LEVEL on: debug, info, warning or error.

    It holds until the mount ends. Where the log goes does not change (--log-file of the mount, else
    vfsmount.log in the state directory); keys and tokens are in it at no level. At debug it names files.
    Without MOUNTPOINT: the one mount that runs.
    """
    from vfsmount.cli.control import ask, chosen_mount

    *mountpoints, level = words
    if len(mountpoints) > 1:
        raise click.UsageError("one MOUNTPOINT and one LEVEL")
    if level.lower() not in LEVELS:
        raise click.UsageError(f"LEVEL is one of {', '.join(LEVELS)}, not {level!r}")
    state = (state_dir or places.state_dir()).absolute()
    record = chosen_mount(mountpoints[0] if mountpoints else None, state)
    try:
        answer = next(ask(record, {"op": "log-level", "level": level}, time.monotonic() + _ANSWER_S))
    except TimeoutError:
        raise MountError(f"the mount on {record.mountpoint} does not answer") from None
    now, was = answer["level"].lower(), answer["was"].lower()
    if as_json:
        show.as_json({"mountpoint": record.mountpoint, "level": now, "was": was})
    else:
        click.echo(f"{record.mountpoint}: {now} (was {was})")
