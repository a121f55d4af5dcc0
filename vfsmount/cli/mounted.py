"""Folders that a running mount of this user shows: what it has not sent yet, and what it should see.

A command that goes to the server itself first lets the mounts send what they hold (`settle`), so that
it never works on an old state, and tells them afterwards what it changed (`tell`). What a program
writes on the mount in between is safe as ever: before each commit the mount compares the version on
the server with the one it began from, and keeps both where somebody was faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfsmount.cli import show
from vfsmount.errors import MountError, Unsent

if TYPE_CHECKING:
    from vfsmount.store.mounts import MountRecord

# Without a byte sent in this time the server is away, or refuses: a guess, above every retry's pause
# at the beginning of an outage.
STALL_S = 60.0
_QUIET_S = 1.0  # of waiting that nobody needs to hear of
_REQUEST_MAX = 500_000  # bytes of paths in one request, of the 1 MiB that the mount takes (vfs.control)


@dataclass(frozen=True, slots=True)
class Showing:
    """A running mount that shows a folder, and under which name."""

    record: MountRecord
    name: str

    def below(self, paths: Sequence[str]) -> list[str]:
        """Paths in the folder as paths below the mountpoint; all of it where they are too many."""
        if sum(len(os.fsencode(p)) for p in paths) * 6 + len(paths) * 300 > _REQUEST_MAX:
            paths = [""]
        return [f"{self.name}/{path}" if path else self.name for path in paths]


def folders(record: MountRecord) -> dict[str, str]:
    """Name → id of the folders that a mount shows, as far as it has looked.

    Raises:
        MountError: it does not answer.
    """
    from vfsmount.cli.control import ask

    found: dict[str, str] = {}
    for answer in ask(record, {"op": "folders"}):
        found |= {f["name"]: f["id"] for f in answer.get("folders", ())}
        if answer.get("done"):
            break
    return found


def showing(folder_id: str, state_dir: Path) -> list[Showing]:
    """The running mounts of this user that show a folder.

    A mount that does not answer is left out, with a word on stderr.
    """
    from vfsmount.cli.control import live_mounts

    found = []
    for record in live_mounts(state_dir):
        try:
            shown = folders(record)
        except MountError as e:
            show.say(f"{e}; what it holds is not waited for")
            continue
        found += [Showing(record, name) for name, ident in shown.items() if ident == folder_id]
    return found


def settle(
    folder_id: str,
    paths: Sequence[str],
    deadline: float | None = None,
    *,
    state_dir: Path,
    otherwise: str = "nothing was done",
) -> list[Showing]:
    """Return when nothing at or below these paths is unsent on any running mount of this user.

    Blocks; shows on stderr what it waits for. What is changed on the mount meanwhile is not waited for.

    Args:
        paths: in the folder, "" is all of it.
        deadline: of `time.monotonic`; None: for as long as something moves.
        otherwise: what to say of the command in an error.

    Returns:
        The mounts that show the folder, for `tell`.

    Raises:
        Unsent: something is refused, or does not get there in time; says which and why.
        MountError: a mount ended or fell silent meanwhile.
    """
    mounts = showing(folder_id, state_dir)
    with ExitStack() as stack:
        notice = _Notice(stack)
        for mount in mounts:
            try:
                for left in _waited(mount, paths, deadline):
                    notice.left(mount, left)
            except Unsent as e:
                raise Unsent(f"{e}; {otherwise}") from e
    return mounts


def tell(folder_id: str, paths: Iterable[str], *, state_dir: Path) -> None:
    """Have the running mounts of this user show what we changed at these paths, now.

    A mount that does not answer finds out by itself when its listings have expired.
    """
    tell_mounts(showing(folder_id, state_dir), paths)


def tell_mounts(mounts: Iterable[Showing], paths: Iterable[str]) -> None:
    """As `tell`, where `settle` has found the mounts already."""
    from vfsmount.cli.control import ask

    # A name that came or went is in the listing of its directory.
    directories = sorted({path.rpartition("/")[0] for path in paths})
    for mount in mounts:
        with suppress(MountError):
            next(ask(mount.record, {"op": "refresh", "paths": mount.below(directories)}))


def _waited(mount: Showing, paths: Sequence[str], deadline: float | None) -> Iterator[tuple[int, int]]:
    """(files, bytes) left, again and again, until none is."""
    from vfsmount.cli.control import ask

    mountpoint = mount.record.mountpoint
    last, moved_at = (-1, -1), time.monotonic()
    try:
        for answer in ask(mount.record, {"op": "wait", "paths": mount.below(paths)}, deadline):
            if answer.get("done"):
                return
            left = answer["left_files"], answer["left_bytes"]
            if "failed" in answer:
                raise Unsent(_refused(mountpoint, answer["failed"], left[0]))
            if left != last:
                last, moved_at = left, time.monotonic()
            elif time.monotonic() - moved_at > STALL_S:
                raise Unsent(
                    f"the mount on {mountpoint} has {_files(*left)} unsent here and has sent nothing for "
                    f"{show.duration(STALL_S)} ('vfsmount status' tells why)"
                )
            yield left
    except TimeoutError:
        left_here = _files(*last) if last[0] > 0 else "files"
        raise Unsent(f"time is up: the mount on {mountpoint} has {left_here} unsent here") from None


def _refused(mountpoint: str, failed: list[dict[str, Any]], files: int) -> str:
    if not failed:
        return (
            f"the mount on {mountpoint} ended with {_files(files, 0)} unsent here; mount again to send them"
        )
    first, more = failed[0], len(failed) - 1
    name = os.path.join(mountpoint, first["name"]).rstrip("/")
    others = f" (and {more} more)" if more else ""
    return f"{name} is not on the server: {first['reason']}{others}"


def _files(files: int, size: int) -> str:
    return f"{files} {'file' if files == 1 else 'files'}" + (f" ({show.size(size)})" if size > 0 else "")


class _Notice:
    """What is waited for: a line where somebody looks, one sentence elsewhere."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._since = time.monotonic()
        self._status: Any = None
        self._said = False

    def left(self, mount: Showing, left: tuple[int, int]) -> None:
        """So much is left on a mount."""
        if not any(left) or time.monotonic() - self._since < _QUIET_S:
            return
        text = f"waiting until {_files(*left)} of {mount.record.mountpoint} are on the server"
        if self._status is None and not self._said:
            from rich.text import Text

            console = show.stderr_console()
            if console.is_terminal:
                self._status = self._stack.enter_context(console.status(Text(text)))
            else:
                show.say(text)
                self._said = True
        elif self._status is not None:
            from rich.text import Text

            self._status.update(Text(text))
