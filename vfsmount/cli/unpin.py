"""``vfsmount unpin``: pinned files may go again when the cache needs their room."""

from __future__ import annotations

from pathlib import Path

import click

from vfsmount.cli import show
from vfsmount.cli.completion import kinds


@click.command("unpin")
@click.argument("paths", nargs=-1, type=kinds.ON_MOUNT, required=True)
@click.option("--recursive", "-r", is_flag=True, help="With all that is below directories.")
@show.json_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(paths: tuple[str, ...], recursive: bool, as_json: bool, state_dir: Path | None) -> None:
    """Let the pinned files at PATHs, and in directories there, go when the cache needs their room.

    They need not exist on the server any more, and it need not answer.
    """
    from vfsmount.cli.control import ask
    from vfsmount.cli.warmup import by_mount

    files = 0
    for record, below in by_mount(paths, state_dir):
        request = {"op": "unpin", "paths": below, "recursive": recursive}
        files += next(ask(record, request))["files"]
    if as_json:
        show.as_json({"files": files})
    else:
        click.echo(f"{files} {'file' if files == 1 else 'files'} unpinned")
