"""``vfsmount umount MOUNTPOINT``: unmount, and say whether everything arrived."""

from __future__ import annotations

import time

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.exit_codes import OK, UNSENT
from vfsmount.errors import MountError

_NAMED = 20


@click.command("umount")
@click.argument("mountpoint", type=str)  # click.Path would look at it, and wait for what hangs
@click.option("--lazy", is_flag=True, help="Take it out of the tree at once, though programs still use it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds to wait for the rest to be sent.",
)
@click.option("--state-dir", type=click.Path(), help="As given to the mount.")
def command(mountpoint: str, lazy: bool, timeout: float, state_dir: str | None) -> int:
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
    kind = mounted_type(path)
    if kind == FS_TYPE:
        unmount(path, lazy=lazy, hung=records.has_died(path) and answer(path) is None)
    elif kind is not None:
        raise MountError(f"{path} is a {kind} mount, not one of vfsmount")
    elif record is None:
        raise MountError(f"{path} is not mounted")
    give_up = time.monotonic() + timeout
    while record is not None and is_alive(record):
        if time.monotonic() >= give_up:
            raise MountError(f"{path} is unmounted, but process {record.pid} is still sending what is left")
        time.sleep(0.05)
    record = records.read(path)
    records.remove(path)
    if record is None or not record.unsent:
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
