"""``vfsmount wait``: return when what was written is on the server."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsmount import places
from vfsmount.cli.exit_codes import OK, UNSENT
from vfsmount.errors import MountError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vfsmount.store.mounts import MountRecord


@click.command("wait")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait. [as long as it takes]")
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(paths: tuple[str, ...], timeout: float | None, state_dir: Path | None) -> int:
    """Wait until everything below PATHS is on the server, verified.

    Without PATHS: everything on all mounts of yours. What is changed after the command began is not
    waited for; a server that is away is. Exit status 6: something is refused, or time is up.
    """
    from vfsmount.cli.control import live_mounts

    state = (state_dir or places.state_dir()).absolute()
    deadline = None if timeout is None else time.monotonic() + timeout
    mounts = live_mounts(state)
    wanted, elsewhere = _sort_out(paths, mounts)
    for path in elsewhere:
        _wait_in_band(path)
    codes = [_wait(record, below, deadline) for record, below in wanted]
    return max(codes, default=OK)


def _sort_out(
    paths: tuple[str, ...], mounts: list[MountRecord]
) -> tuple[list[tuple[MountRecord, list[str]]], list[str]]:
    """Paths by mount, and those on mounts whose records are not here (in a container, say)."""
    from vfsmount.cli.control import mount_of
    from vfsmount.fuse.mountpoint import FS_TYPE, mounted_type

    if not paths:
        return [(record, []) for record in mounts], []
    by_mount: dict[str, tuple[MountRecord, list[str]]] = {}
    elsewhere = []
    for path in paths:
        found = mount_of(path, mounts)
        if found is not None:
            by_mount.setdefault(found[0].mountpoint, (found[0], []))[1].append(found[1])
        elif any(
            mounted_type(str(p)) == FS_TYPE for p in (Path(path).absolute(), *Path(path).absolute().parents)
        ):
            elsewhere.append(path)
        else:
            raise MountError(f"{path} is not on a running mount; if it is on one, give its --state-dir")
    return list(by_mount.values()), elsewhere


def _upwards(path: str) -> list[Path]:
    full = Path(os.path.abspath(path))
    return [full, *full.parents]


def _wait_in_band(path: str) -> None:
    """As a program without our records may: the mount answers the attribute when it is done."""
    try:
        os.setxattr(path, "user.vfsmount.wait", b"1")
    except OSError as e:
        raise MountError(f"{path}: not on the server: {e.strerror}") from e


def _wait(record: MountRecord, below: list[str], deadline: float | None) -> int:
    from vfsmount.cli.control import ask

    # The whole mount: an empty path means its root.
    request = {"op": "wait", "paths": [] if "" in below else below}
    left_files = left_bytes = 0
    with ExitStack() as stack:
        show = _Bar(stack)
        try:
            for answer in ask(record, request, deadline):
                if answer.get("done"):
                    return OK
                left_files, left_bytes = answer["left_files"], answer["left_bytes"]
                if "failed" in answer:
                    return _failed(record, answer["failed"], left_files)
                show.left(record, left_files, left_bytes)
        except TimeoutError:
            click.echo(
                f"vfsmount: {record.mountpoint}: time is up; {left_files} files, {left_bytes} bytes are not "
                "on the server yet",
                err=True,
            )
            return UNSENT
    raise MountError(f"the mount on {record.mountpoint} ended in the middle of its answer")


def _failed(record: MountRecord, failed: list[dict[str, str]], left: int) -> int:
    for f in failed:
        name = f["name"] or record.mountpoint
        click.echo(f"vfsmount: not on the server: {name} ({f['reason']})", err=True)
    if not failed:
        click.echo(f"vfsmount: {record.mountpoint}: {left} files are not on the server", err=True)
    return UNSENT


class _Bar:
    """A progress bar where somebody looks, nothing elsewhere."""

    def __init__(self, stack: ExitStack) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        self._progress: Progress | None = None
        if console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
            self._progress = stack.enter_context(Progress(*columns, console=console, transient=True))
        self._task: TaskID | None = None
        self._most = 0

    def left(self, record: MountRecord, files: int, size: int) -> None:
        if self._progress is None:
            return
        self._most = max(self._most, size, 1)
        left = f"{files} files, {size >> 20} MiB left"
        if self._task is None:
            self._task = self._progress.add_task(record.mountpoint, total=self._most, left=left)
        self._progress.update(self._task, total=self._most, completed=self._most - size, left=left)
