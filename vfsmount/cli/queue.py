"""``vfsmount queue``: what is on its way to the server, in the order in which it goes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.errors import MountError

_ANSWER_S = 30.0
SHOWN = 100


@click.command("queue")
@click.argument("mountpoint", required=False, type=kinds.MOUNT)
@show.json_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(mountpoint: str | None, as_json: bool, state_dir: Path | None) -> int:
    """List the files that the mount on MOUNTPOINT has not sent yet, the next one first.

    State and reason say how the last try ended; the time in the column 'next try' is when another begins.
    Without MOUNTPOINT: of the one mount that runs.
    """
    from vfsmount.cli.control import ask, chosen_mount

    record = chosen_mount(mountpoint, (state_dir or places.state_dir()).absolute())
    files: list[dict[str, Any]] = []
    try:
        for answer in ask(record, {"op": "queue"}, time.monotonic() + _ANSWER_S):
            files += answer.get("queue", [])
            if answer.get("done"):
                break
    except TimeoutError:
        raise MountError(f"the mount on {record.mountpoint} does not answer") from None
    if as_json:
        show.as_json({"mountpoint": record.mountpoint, "queue": files})
        return 0
    if not files:
        click.echo("nothing is on its way to the server")
        return 0
    show.table(
        (">", "file", ">size", "state", ">age", ">next try", "why"),
        (
            (
                str(number),
                f["name"],
                show.size(f["size"]),
                f["state"],
                show.duration(f["age_s"]),
                "now" if not f["next_try_s"] else f"in {show.duration(f['next_try_s'])}",
                f["reason"],
            )
            for number, f in enumerate(files[:SHOWN], 1)
        ),
    )
    if len(files) > SHOWN:
        click.echo(f"and {len(files) - SHOWN} more; --json lists all")
    return 0
