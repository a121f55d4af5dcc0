"""``vfsmount pin``: files are on this machine's disk and stay there, also for when the server is away."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.errors import MountError


@click.command("pin")
@click.argument("paths", nargs=-1, type=kinds.ON_MOUNT)
@click.option("--recursive", "-r", is_flag=True, help="With all that is below directories.")
@click.option("--list", "listing", is_flag=True, help="Show what is pinned in the folders of your mounts.")
@click.option("--json", "as_json", is_flag=True, help="What the mount says as JSON objects, one a line.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(
    paths: tuple[str, ...], recursive: bool, listing: bool, as_json: bool, state_dir: Path | None
) -> int:
    """Fetch PATHs into the cache on disk and keep them there until 'vfsmount unpin'.

    While the server is away, a running mount opens and reads pinned files as they were. What is pinned is
    the version of now: pin again what was changed since. Otherwise as 'vfsmount warmup'.
    """
    from vfsmount.cli.warmup import bring

    if listing:
        return _list(paths, as_json, state_dir)
    if not paths:
        raise click.UsageError("which PATHs? Or give --list")
    return bring(paths, recursive, as_json, state_dir, pin=True)


def _list(paths: tuple[str, ...], as_json: bool, state_dir: Path | None) -> int:
    import json

    from vfsmount.cli.control import ask, live_mounts
    from vfsmount.cli.warmup import by_mount

    state = (state_dir or places.state_dir()).absolute()
    records = [record for record, _ in by_mount(paths, state_dir)] if paths else live_mounts(state)
    if not records:
        raise MountError("no mount of yours is running here; 'vfsmount cache info' shows what is pinned")
    for record in records:
        for answer in ask(record, {"op": "pins"}):
            if answer.get("done"):
                break
            for pin in answer["pins"]:
                path = os.path.join(record.mountpoint, pin["name"])
                shown = json.dumps({"path": path, "size": pin["size"]})
                click.echo(shown if as_json else f"{show.printable(path)}  {show.size(pin['size'])}")
    return 0
