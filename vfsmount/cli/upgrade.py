"""``vfsmount upgrade``: this very version takes a running mount over, under open files."""

from __future__ import annotations

import time
from pathlib import Path

import click

from vfsmount import __version__, places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import OK
from vfsmount.errors import MountError

_TAKES_OVER_S = 30.0  # from the old daemon's end to the new one's record
_PAUSE_S = 0.05


@click.command("upgrade")
@click.argument("mountpoint", type=kinds.MOUNT)
@show.json_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(mountpoint: str, as_json: bool, state_dir: Path | None) -> int:
    """Have the version of this command serve MOUNTPOINT.

    Programs go on with their open files, mappings and directories, and see a pause. The mount keeps the
    options it was mounted with. Where this version cannot go on with it, the mount stays as it was, and the
    error says why.
    """
    from vfsmount.cli.control import Declined, ask, running_mount
    from vfsmount.cli.holding import command_of_generation

    state = (state_dir or places.state_dir()).absolute()
    before = running_mount(mountpoint, state)
    if not before.holder:
        raise MountError(
            f"{before.mountpoint} was mounted without a holder, so nobody can take it over: "
            "unmount it, and mount it again"
        )
    try:
        for _ in ask(before, {"op": "upgrade", "command": command_of_generation()}):
            pass
    except Declined:
        raise
    except MountError:  # its last word, and then the old one was gone, as it should be
        pass
    give_up = time.monotonic() + _TAKES_OVER_S
    while (now := running_mount(mountpoint, state)).pid == before.pid:
        if time.monotonic() >= give_up:
            raise MountError(f"nobody serves {before.mountpoint} after the old daemon has ended")
        time.sleep(_PAUSE_S)
    hello = next(ask(now, {"op": "hello"}))
    told = {"mountpoint": now.mountpoint, "pid": now.pid, "was": before.pid, "version": hello["version"]}
    if as_json:
        show.as_json(told)
    else:
        show.say(f"{now.mountpoint}: process {now.pid} (vfsmount {hello['version']}) serves it now")
    if hello["version"] != __version__:
        raise MountError(f"it is version {hello['version']} that serves {now.mountpoint}, not {__version__}")
    return OK
