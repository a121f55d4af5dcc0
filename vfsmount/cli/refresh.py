"""``vfsmount refresh``: what others have changed on the server shows now, not when its time comes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount import places
from vfsmount.cli.completion import kinds
from vfsmount.errors import MountError

if TYPE_CHECKING:
    from vfsmount.store.mounts import MountRecord


@click.command("refresh")
@click.argument("paths", nargs=-1, type=kinds.ON_MOUNT)
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(paths: tuple[str, ...], state_dir: Path | None) -> None:
    """Have mounts forget what they know of PATHs and of what is below them.

    The next program that looks there asks the server. Nothing unsent is touched. Without PATH: all
    mounts of yours. SIGHUP to a mount in the background does the same for the whole of it.
    """
    from vfsmount.cli.control import ask, live_mounts, mount_of

    state = (state_dir or places.state_dir()).absolute()
    wanted: dict[str, tuple[MountRecord, list[str]]] = {}
    if not paths:
        wanted = {record.mountpoint: (record, []) for record in live_mounts(state)}
        if not wanted:
            raise MountError("no mount of yours is running here")
    for path in paths:
        found = mount_of(path, state)
        if found is None:
            raise MountError(f"{path} is not on a running mount; if it is on one, give its --state-dir")
        record, below = found
        wanted.setdefault(record.mountpoint, (record, []))[1].append(below)
    for record, places_below in wanted.values():
        next(ask(record, {"op": "refresh", "paths": places_below}))
