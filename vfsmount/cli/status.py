"""``vfsmount status``: what is not on the server yet, and what else a mount has to say."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.exit_codes import FAILED, MOUNT, OK, UNSENT
from vfsmount.errors import LocalIOError, MountError

if TYPE_CHECKING:
    from rich.console import Console

    from vfsmount.store.mounts import MountRecord

SHOWN = 20  # entries of each list, for people
_ANSWER_S = 10.0


@click.command("status")
@click.argument("mountpoints", nargs=-1, type=str)
@click.option("--json", "as_json", is_flag=True, help="One JSON object; docs/status.md has its keys.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(mountpoints: tuple[str, ...], as_json: bool, state_dir: Path | None) -> int:
    """Show what running mounts have not sent yet, errors, conflicts and budgets.

    Without MOUNTPOINT: all mounts of yours, and what mounts that ended have left. Exit status 6:
    something is not on the server; 5: a mount does not answer.
    """
    state = (state_dir or places.state_dir()).absolute()
    report = _report(_records(mountpoints, state), state, everything=not mountpoints, as_json=as_json)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report, state)
    if any("error" in mount for mount in report["mounts"]):
        return MOUNT
    if report["error"]:
        return FAILED
    return OK if report["everything_sent"] else UNSENT


def _records(mountpoints: tuple[str, ...], state: Path) -> list[MountRecord]:
    """The running mounts asked about."""
    from vfsmount.cli.control import live_mounts
    from vfsmount.fuse.mountpoint import real_path
    from vfsmount.store.mounts import MountRecords, is_alive

    if not mountpoints:
        return live_mounts(state)
    records, found = MountRecords(state), []
    for path in map(real_path, mountpoints):
        record = records.read(path)
        if record is None or not is_alive(record):
            raise MountError(f"{path} is not a running mount of this state directory ({state})")
        found.append(record)
    return found


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


# --- for people ----------------------------------------------------------------------------------


def _show(report: dict[str, Any], state: Path) -> None:
    console = show.stdout_console()
    if not report["mounts"]:
        console.print("nothing is mounted")
    for answer in report["mounts"]:
        _show_mount(console, answer)
    for mountpoint in report["dead_mounts"]:
        console.print(
            show.printable(f"{mountpoint}: the process of this mount has died; mount again to go on")
        )
    _show_left(console, report["left_behind"], state)
    if report["unsent_dir_files"]:
        console.print(
            f"{_files(report['unsent_dir_files'])} in {state / 'unsent'} never closed, or torn by a power "
            "cut: they are not sent; look at them, then remove them"
        )
    if report["error"]:
        console.print(report["error"])


def _show_left(console: Console, left: dict[str, Any], state: Path) -> None:
    if left["unsent_files"]:
        console.print(
            f"{_files(left['unsent_files'], 'unsent file')} of mounts that ended: "
            f"mount again to send them (state directory {state})"
        )
        _table(console, ("file", "size", "kept in"), left["unsent"], ("name", "size", "kept_at"))
        _rest(console, left["unsent_files"], left["unsent"])
    if left["removals_pending"]:
        console.print(
            f"{left['removals_pending']} names removed on mounts that ended are still on the server: "
            "mount again to remove them"
        )


def _show_mount(console: Console, a: dict[str, Any]) -> None:
    if "error" in a:
        console.print(show.printable(f"{a['mountpoint']} (process {a['pid']}): {a['error']}"))
        return
    ending = ", unmounted and sending what is left" if a["draining"] else ""
    console.print(
        show.printable(f"{a['mountpoint']} (process {a['pid']}, up {show.duration(a['uptime_s'])}{ending})")
    )
    if not a["unsent_files"] and not a["removals_pending"]:
        console.print("  everything is on the server")
    if a["unsent_files"]:
        console.print(
            f"  {_files(a['unsent_files'])} not on the server yet, {show.size(a['unsent_bytes'])}, "
            f"oldest {show.duration(a['oldest_s'])}"
        )
        _table(
            console,
            ("file", "size", "state", "since", "why"),
            a["unsent"],
            ("name", "size", "state", "age_s", "reason"),
        )
        _rest(console, a["unsent_files"], a["unsent"])
    if a["removals_pending"]:
        console.print(f"  {a['removals_pending']} names removed here are on their way out of the server")
    for c in a["conflicts"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(c["at"]))
        console.print(show.printable(f"  conflict {at}: {c['path']} kept as {c['kept_as']}"))
    for name in a["partial"]:
        console.print(show.printable(f"  the server's listing of {name} may be cut"))
    if a["local_only"]:
        console.print(f"  {a['local_only']} links, FIFOs and sockets exist on this machine only")
    limit = f" of {show.size(a['staging_limit'])}" if a["staging_limit"] else ""
    calls = "" if a["calls_left"] is None else f"; {a['calls_left']} manager calls left"
    console.print(f"  {show.size(a['staging_used'])}{limit} kept here for sending{calls}")


def _table(
    console: Console, titles: tuple[str, ...], rows: list[dict[str, Any]], keys: tuple[str, ...]
) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = {"size": show.size, "age_s": show.duration}
    table = Table(*titles, box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for column in table.columns:
        column.overflow = "fold"  # a name that is cut off is of no use
    for row in rows:
        table.add_row(*(Text(show.printable(str(shown.get(key, str)(row[key])))) for key in keys))
    console.print(table)


def _rest(console: Console, count: int, shown: list[Any]) -> None:
    if count > len(shown):
        console.print(f"  and {count - len(shown)} more; --json lists up to 1000")


def _files(count: int, what: str = "file") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
