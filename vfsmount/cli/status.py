"""``vfsmount status``: what is not on the server yet, and what else a mount has to say."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import FAILED, MOUNT, OK, UNSENT
from vfsmount.cli.status_view import SHOWN, View
from vfsmount.errors import LocalIOError, MountError

if TYPE_CHECKING:
    from vfsmount.store.mounts import MountRecord

_ANSWER_S = 10.0


@click.command("status")
@click.argument("mountpoints", nargs=-1, type=kinds.MOUNT)
@show.json_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(mountpoints: tuple[str, ...], as_json: bool, state_dir: Path | None) -> int:
    """Show what running mounts have not sent yet, errors, conflicts and budgets.

    Without MOUNTPOINT: all mounts of yours, and what mounts that ended have left. Exit status 6:
    something is not on the server; 5: a mount does not answer.
    """
    state = (state_dir or places.state_dir()).absolute()
    report = _report(_records(mountpoints, state), state, everything=not mountpoints, as_json=as_json)
    if as_json:
        show.as_json(report)
    else:
        View().report(report, state)
    if any("error" in mount for mount in report["mounts"]):
        return MOUNT
    if report["error"]:
        return FAILED
    return OK if report["everything_sent"] else UNSENT


def _records(mountpoints: tuple[str, ...], state: Path) -> list[MountRecord]:
    """The running mounts asked about."""
    from vfsmount.cli.control import live_mounts, running_mount

    if not mountpoints:
        return live_mounts(state)
    return [running_mount(path, state) for path in mountpoints]


def _report(records: list[MountRecord], state: Path, *, everything: bool, as_json: bool) -> dict[str, Any]:
    from vfsmount.store.leftovers import Leftovers, leftovers

    limit = 1000 if as_json else SHOWN
    mounts = [_answer_of(record, limit) for record in records]
    error, left = "", Leftovers()
    if everything:
        try:
            left = leftovers(state)
        except LocalIOError as e:
            error = str(e)
    waiting = any(m.get("unsent_files") or m.get("removals_pending") for m in mounts)
    unknown = bool(error) or any("error" in m for m in mounts)
    return {
        "everything_sent": not (waiting or unknown or left.unsent or left.removals),
        "mounts": mounts,
        "dead_mounts": _dead_mounts(state) if everything else [],
        "left_behind": {
            "unsent_files": len(left.unsent),
            "unsent": [asdict(f) for f in left.unsent[:limit]],
            "removals_pending": left.removals,
        },
        "unsent_dir_files": left.aside,
        "error": error,
    }


def _dead_mounts(state: Path) -> list[str]:
    """Mountpoints that lead nowhere, because their daemons died."""
    from vfsmount.fuse.mountpoint import FS_TYPE, mounted_type
    from vfsmount.store.mounts import MountRecords, is_alive

    dead = (r.mountpoint for r in MountRecords(state).read_all() if not is_alive(r))
    return [mountpoint for mountpoint in dead if mounted_type(mountpoint) == FS_TYPE]


def _answer_of(record: MountRecord, limit: int) -> dict[str, Any]:
    from vfsmount.cli.control import ask

    try:
        return next(ask(record, {"op": "status", "limit": limit}, time.monotonic() + _ANSWER_S))
    except TimeoutError:
        error = f"no answer within {_ANSWER_S:g} s"
    except MountError as e:
        error = str(e)
    return {"mountpoint": record.mountpoint, "pid": record.pid, "error": error}
