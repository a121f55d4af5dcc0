"""``vfsmount status``: what is not on the server yet, and what else a mount has to say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.cli.exit_codes import OK, UNSENT
from vfsmount.errors import MountError

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 20  # entries of each list, for people


@click.command("status")
@click.argument("mountpoints", nargs=-1, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object; docs/status.md has its keys.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(mountpoints: tuple[str, ...], as_json: bool, state_dir: Path | None) -> int:
    """Show what running mounts have not sent yet, errors, conflicts and budgets.

    Without MOUNTPOINT: all mounts of yours. Exit status 6: something is not on the server.
    """
    from vfsmount.cli.control import ask, live_mounts
    from vfsmount.fuse.mountpoint import real_path
    from vfsmount.store.leftovers import leftovers

    state = (state_dir or places.state_dir()).absolute()
    mounts = live_mounts(state)
    if mountpoints:
        wanted = [real_path(m) for m in mountpoints]
        known = {r.mountpoint: r for r in mounts}
        missing = [m for m in wanted if m not in known]
        if missing:
            raise MountError(f"{missing[0]} is not a running mount of this state directory ({state})")
        mounts = [known[m] for m in wanted]
    limit = 1000 if as_json else SHOWN
    answers = [next(iter(ask(record, {"op": "status", "limit": limit}))) for record in mounts]
    left = leftovers(state)
    report = {"mounts": answers, "left_behind": left.unsent, "unsent_dir_files": left.aside}
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report, state)
    waiting = any(a["unsent_files"] or a["removals_pending"] for a in answers)
    return UNSENT if waiting or left.unsent else OK


def _show(report: dict[str, Any], state: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not report["mounts"]:
        console.print("nothing is mounted")
    for answer in report["mounts"]:
        _show_mount(console, answer)
    if report["left_behind"]:
        console.print(
            f"{report['left_behind']} unsent files of mounts that ended: mount again to send them "
            f"(state directory {state})",
            markup=False,
        )
    if report["unsent_dir_files"]:
        console.print(
            f"{report['unsent_dir_files']} files in {state / 'unsent'} were never closed", markup=False
        )


def _show_mount(console: Console, a: dict[str, Any]) -> None:
    from rich.table import Table

    ending = ", ending" if a["draining"] else ""
    console.print(f"{a['mountpoint']} (process {a['pid']}, up {_time(a['uptime_s'])}{ending})", markup=False)
    if not a["unsent_files"] and not a["removals_pending"]:
        console.print("  everything is on the server")
    if a["unsent_files"]:
        console.print(
            f"  {a['unsent_files']} files not on the server yet, {_size(a['unsent_bytes'])}, "
            f"oldest {_time(a['oldest_s'])}"
        )
        table = Table("file", "size", "state", "since", "why", box=None, pad_edge=False, padding=(0, 2))
        for f in a["unsent"]:
            table.add_row(
                *map(_plain, (f["name"], _size(f["size"]), f["state"], _time(f["age_s"]), f["reason"]))
            )
        console.print(table)
        if a["unsent_files"] > len(a["unsent"]):
            console.print(f"  and {a['unsent_files'] - len(a['unsent'])} more")
    if a["removals_pending"]:
        console.print(f"  {a['removals_pending']} names removed here are on their way out of the server")
    for c in a["conflicts"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(c["at"]))
        console.print(f"  conflict {at}: {c['path']} kept as {c['kept_as']}", markup=False)
    for name in a["partial"]:
        console.print(f"  the server's listing of {name} may be cut", markup=False)
    if a["local_only"]:
        console.print(f"  {a['local_only']} links, FIFOs and sockets exist on this machine only")
    limit = f" of {_size(a['staging_limit'])}" if a["staging_limit"] else ""
    calls = "" if a["calls_left"] is None else f"; {a['calls_left']} manager calls left"
    console.print(f"  {_size(a['staging_used'])}{limit} kept here for sending{calls}")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
