"""``vfsmount umount MOUNTPOINT``: unmount, and say whether everything arrived."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import OK, UNSENT
from vfsmount.errors import MountError

if TYPE_CHECKING:
    from vfsmount.store.mounts import MountRecord

_NAMED = 20
_COPIED_S = 3.0  # after which a mount that nobody uses here is still used somewhere else
_ENDS_WITHIN_S = 30.0  # of a daemon that was told to; the session itself lingers for five


@click.command("umount")
@click.argument("mountpoint", type=kinds.MOUNT)  # click.Path would look at it, and wait for what hangs
@click.option("--lazy", is_flag=True, help="Take it out of the tree at once, though programs still use it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds to wait for the rest to be sent.",
)
@show.json_option
@click.option("--state-dir", type=click.Path(), help="As given to the mount.")
def command(mountpoint: str, lazy: bool, timeout: float, as_json: bool, state_dir: str | None) -> int:
    """Unmount MOUNTPOINT and return when everything is on the server.

    Exit status 6: something could not be sent; it is named, with the place that keeps it.
    """
    from pathlib import Path

    from vfsmount.fuse.device import unmount
    from vfsmount.fuse.mountpoint import FS_TYPE, answer, mounted_type, real_path
    from vfsmount.store.mounts import MountRecords, is_alive

    path = real_path(mountpoint)
    records = MountRecords(Path(state_dir).absolute() if state_dir else places.state_dir())
    record = records.read(path)
    ran = record is not None and is_alive(record)
    kind = mounted_type(path)
    if record is not None and record.passed and is_alive(record) and os.geteuid():
        raise MountError(
            f"{path} was mounted by somebody else, who has to unmount it; "
            f"'kill {record.pid}' ends our part in it, with everything sent"
        )
    if kind == FS_TYPE:
        unmount(path, lazy=lazy, hung=records.has_died(path) and answer(path) is None)
    elif kind is not None:
        raise MountError(f"{path} is a {kind} mount, not one of vfsmount")
    elif record is None:
        raise MountError(f"{path} is not mounted")
    if record is not None:
        _wait_for_its_end(record, lazy, time.monotonic() + timeout)
    record = records.read(path)
    if ran and record is not None and not record.ended:
        raise MountError(
            f"{path} is unmounted, but its process died before everything was sent; the next mount with "
            "this state directory sends the rest"
        )
    records.remove(path)
    unsent = record.unsent if record is not None else ()
    if as_json:
        left = [{"name": name, "kept_at": kept_at} for name, kept_at in unsent]
        show.as_json({"mountpoint": path, "everything_sent": not left, "unsent": left})
    if record is None or not unsent:
        return OK
    for name, kept_at in record.unsent[:_NAMED]:
        click.echo(
            f"vfsmount: not on the server: {show.printable(name)}; kept in {show.printable(kept_at)}",
            err=True,
        )
    if len(record.unsent) > _NAMED:
        more = len(record.unsent) - _NAMED
        click.echo(f"vfsmount: and {more} more; 'vfsmount status' names them", err=True)
    click.echo("vfsmount: the next mount with this state directory goes on with them", err=True)
    return UNSENT


def _wait_for_its_end(record: MountRecord, lazy: bool, give_up: float) -> None:
    """Wait until the daemon of a mount that is out of the tree has sent what is left, and ended.

    A container that was started meanwhile has a copy of the mount, which the daemon goes on serving: it
    is told to end. Not where programs may go on with what they have open, unless time is up.

    Raises:
        MountError: time is up.
    """
    from vfsmount.store.mounts import is_alive

    tell_at = give_up if lazy else min(give_up, time.monotonic() + _COPIED_S)
    while is_alive(record):
        if time.monotonic() >= tell_at:
            draining = _is_draining(record)
            tell_at = time.monotonic() + _COPIED_S if draining is None else math.inf
            if draining is False:
                with suppress(ProcessLookupError):
                    os.kill(record.lasting[0], signal.SIGTERM)
                give_up = max(give_up, time.monotonic() + _ENDS_WITHIN_S)
        if time.monotonic() >= give_up:
            raise MountError(
                f"{record.mountpoint} is unmounted, but process {record.pid} is still sending what is left"
            )
        time.sleep(0.05)


def _is_draining(record: MountRecord) -> bool | None:
    """Whether it knows that its mount is gone; None: it says nothing now, and is left alone."""
    from vfsmount.cli.control import ask

    try:
        return bool(next(ask(record, {"op": "status", "limit": 0}, time.monotonic() + 2))["draining"])
    except (MountError, TimeoutError):
        return None
