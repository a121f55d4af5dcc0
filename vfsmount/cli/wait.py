"""``vfsmount wait``: return when what was written is on the server."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsmount import places
from vfsmount.cli import show
from vfsmount.cli.completion import kinds
from vfsmount.cli.exit_codes import OK, UNSENT
from vfsmount.errors import MountError

if TYPE_CHECKING:
    from vfsmount.store.mounts import MountRecord

_WAIT_ATTRIBUTE = "user.vfsmount.wait"
_NO_ANSWER = {errno.ENOTCONN, errno.ECONNABORTED}  # of a mount whose daemon died


@click.command("wait")
@click.argument("paths", nargs=-1, type=kinds.ON_MOUNT)
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait. [as long as it takes]")
@show.json_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="As given to the mount.")
def command(paths: tuple[str, ...], timeout: float | None, as_json: bool, state_dir: Path | None) -> int:
    """Wait until everything below PATHS is on the server, verified.

    Without PATHS: everything on all mounts of yours. What is changed after the command began is not
    waited for; a server that is away is. Exit status 6: something is refused, or time is up.
    """
    from vfsmount.cli.control import live_mounts

    state = (state_dir or places.state_dir()).absolute()
    deadline = None if timeout is None else time.monotonic() + timeout
    told = _Told()
    if paths:
        barriers, elsewhere = _sort_out(paths, state, told)
    else:
        barriers, elsewhere = [_Barrier(record, [], told) for record in live_mounts(state)], []
    code = _wait_for(barriers, deadline)
    for path in elsewhere:
        code = max(code, _wait_in_band(path, deadline, told))
    if not paths:
        code = max(code, _left_behind(state, told))
    if as_json:
        show.as_json({"everything_sent": code == OK, "unsent": told.rows})
    return code


class _Told:
    """What is not on the server and why, told as it turns out."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def add(self, path: str, reason: str, sentence: str) -> None:
        """A file, or a mount as a whole."""
        show.say(sentence)
        self.rows.append({"path": path, "reason": reason})


@dataclass(slots=True)
class _Barrier:
    """What is waited for on one mount.

    Attributes:
        below: paths below its mountpoint; none: all of it.
        left: (files, bytes) as last heard; None: nothing was heard yet.
    """

    record: MountRecord
    below: list[str]
    told: _Told
    left: tuple[int, int] | None = None

    def run(self, deadline: float | None) -> Iterator[int | None]:
        """None whenever there is news in `left`; at last the exit status, with the reason told."""
        from vfsmount.cli.control import ask

        paths = [] if "" in self.below else self.below
        try:
            for answer in ask(self.record, {"op": "wait", "paths": paths}, deadline):
                if answer.get("done"):
                    yield OK
                    return
                self.left = answer["left_files"], answer["left_bytes"]
                if "failed" in answer:
                    yield self._failed(answer["failed"], self.left[0])
                    return
                yield None
        except TimeoutError:
            left = "it has not answered" if self.left is None else f"{_left(*self.left)} not on the server"
            mountpoint = self.record.mountpoint
            self.told.add(mountpoint, f"time is up: {left}", f"{mountpoint}: time is up: {left}")
            yield UNSENT

    def _failed(self, failed: list[dict[str, Any]], files: int) -> int:
        mountpoint = self.record.mountpoint
        for f in failed:
            path = os.path.join(mountpoint, f["name"]).rstrip("/")
            self.told.add(path, f["reason"], f"not on the server: {path} ({f['reason']})")
        if not failed:
            left = "1 file" if files == 1 else f"{files} files"
            self.told.add(
                mountpoint,
                f"ended with {left} unsent",
                f"the mount on {mountpoint} ended with {left} unsent; the next one goes on with them",
            )
        return UNSENT


def _wait_for(barriers: list[_Barrier], deadline: float | None) -> int:
    """Ask all mounts, then listen to them by turns: each says something twice a second."""
    codes, error = [OK], None
    with ExitStack() as stack:
        bar = _Bar(stack)
        running = [(b, b.run(deadline)) for b in barriers]
        while running:
            for barrier, news in list(running):
                try:
                    code = next(news)
                except MountError as e:  # the others are waited for all the same
                    error, code = e, UNSENT
                if code is not None:
                    codes.append(code)
                    running.remove((barrier, news))
            bar.left([b.left for b, _ in running if b.left is not None])
    if error is not None:
        raise error
    return max(codes)


def _sort_out(paths: tuple[str, ...], state: Path, told: _Told) -> tuple[list[_Barrier], list[str]]:
    """Paths by mount, and those on mounts whose records are not here (in a container, say)."""
    from vfsmount.cli.control import mount_of
    from vfsmount.fuse.mountpoint import FS_TYPE, mounted_type

    by_mount: dict[str, _Barrier] = {}
    elsewhere = []
    for path in paths:
        found = mount_of(path, state)
        if found is not None:
            record, below = found
            by_mount.setdefault(record.mountpoint, _Barrier(record, [], told)).below.append(below)
            continue
        full = Path(os.path.realpath(path))
        kinds = (mounted_type(str(p)) for p in (full, *full.parents))
        if next((k for k in kinds if k is not None), None) != FS_TYPE:
            raise MountError(f"{path} is not on a running mount; if it is on one, give its --state-dir")
        elsewhere.append(path)
    return list(by_mount.values()), elsewhere


def _wait_in_band(path: str, deadline: float | None, told: _Told) -> int:
    """As a program without our records may: the mount answers the attribute when it is done.

    In a process of its own, because ours could not be ended while it waits. Reading the attribute, not
    setting it, which would lock the file meanwhile.
    """
    code = "import os,sys\ntry: os.getxattr(*sys.argv[1:])\nexcept OSError as e: sys.exit(e.errno)"
    command = [sys.executable, "-S", "-c", code, path, _WAIT_ATTRIBUTE]
    left_s = None if deadline is None else max(0.25, deadline - time.monotonic())
    # None of our streams: it cannot die before the mount answers, and who reads ours waits for us only.
    null = subprocess.DEVNULL
    child = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
    try:
        number = child.wait(left_s)
    except subprocess.TimeoutExpired:
        child.kill()
        told.add(path, "time is up", f"{path}: time is up; it is not on the server")
        return UNSENT
    if number in _NO_ANSWER:
        raise MountError(f"the mount that {path} is on has died; mount again to send what is left")
    if number == errno.ENOENT:
        raise MountError(f"{path} does not exist")
    if number:
        told.add(path, os.strerror(number), f"not on the server: {path} ({os.strerror(number)})")
    return UNSENT if number else OK


def _left_behind(state: Path, told: _Told) -> int:
    from vfsmount.store.leftovers import leftovers

    left = leftovers(state)
    if not left.unsent and not left.removals:
        return OK
    told.add(
        str(state),
        f"{len(left.unsent)} files and {left.removals} removals of mounts that ended",
        f"{len(left.unsent)} files and {left.removals} removals of mounts that ended are not on the server; "
        "mount again to send them, 'vfsmount status' names them",
    )
    return UNSENT


def _left(files: int, size: int) -> str:
    return f"{files} {'file' if files == 1 else 'files'}, {size} bytes"


class _Bar:
    """A progress bar where somebody looks, nothing elsewhere."""

    def __init__(self, stack: ExitStack) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        console = show.stderr_console()
        columns = (BarColumn(), TextColumn("{task.fields[left]}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = stack.enter_context(self._progress).add_task("", total=None, left="")
        self._most = 1

    def left(self, left: list[tuple[int, int]]) -> None:
        """Show what is left of all mounts."""
        files, size = sum(f for f, _ in left), sum(b for _, b in left)
        self._most = max(self._most, size)
        text = f"{files} {'file' if files == 1 else 'files'}, {size >> 20} MiB left"
        self._progress.update(self._task, total=self._most, completed=self._most - size, left=text)
