"""What mounts that ended left in a state directory, looked at without touching it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vfsmount.core.staging import State
from vfsmount.errors import LocalIOError
from vfsmount.store.mounts import start_time
from vfsmount.store.staged import StagedDetail
from vfsmount.store.staging import LOCK, is_held


@dataclass(frozen=True, slots=True)
class LeftFile:
    """One acknowledged file with no mount that would send it now.

    Attributes:
        name: path below its folder, for people. The records know folders by their id only.
        kept_at: the local file that holds the content.
    """

    name: str
    size: int
    kept_at: str


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What nobody is sending.

    Attributes:
        unsent: oldest first.
        removals: names that were removed here and that the server still has.
        aside: files in ``unsent/``, never acknowledged or torn by a power cut.
    """

    unsent: tuple[LeftFile, ...] = ()
    removals: int = 0
    aside: int = 0


def leftovers(state_dir: Path) -> Leftovers:
    """Look through a state directory.

    Raises:
        LocalIOError: it cannot be read, so nobody knows what is in it.
    """
    try:
        aside = sum(p.is_file() for p in (state_dir / "unsent").rglob("*"))
        orphans = _orphans(state_dir / "staging")
        database = state_dir / "records.sqlite"
        if not orphans or not database.exists():
            return Leftovers(aside=aside)
        # Quoted: in a URI "?" and "#" mean something.
        uri = f"file:{urllib.parse.quote(str(database.absolute()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
            if (version := db.execute("pragma user_version").fetchone()[0]) < 2:
                return Leftovers(aside=aside)  # from before files were sent in the background
            unsent = tuple(_unsent(db, orphans, state_dir / "staging"))
            rows = db.execute("select mount from removals").fetchall()
            if version >= 5:  # read only: nobody has brought it up to date yet
                rows += db.execute("select mount from removed_directories").fetchall()
    except (OSError, sqlite3.Error, msgspec.DecodeError) as e:
        raise LocalIOError(f"what ended mounts left in {state_dir} cannot be read: {e}") from e
    return Leftovers(unsent, sum(mount in orphans for (mount,) in rows), aside)


def _unsent(db: sqlite3.Connection, orphans: set[str], staging: Path) -> Iterator[LeftFile]:
    for mount, parent, name, raw in db.execute("select mount, parent, name, detail from staged order by id"):
        detail = msgspec.msgpack.decode(raw, type=StagedDetail)
        # What was sent is on the server; the next mount only looks whether it still is.
        if mount in orphans and detail.state is not State.SENT:
            path = bytes(parent) + b"/" + bytes(name) if parent else bytes(name)
            shown = path.decode("utf-8", "backslashreplace")
            yield LeftFile(shown, detail.size, str(staging / detail.content))


def _orphans(staging: Path) -> set[str]:
    """Staging directories whose mounts ended, those included that a mount has claimed and not emptied:
    it does not show the folders that their files belong to."""
    if not staging.exists():
        return set()
    # Whoever takes over what dead mounts left does so in turn with us: to find our lock on a
    # directory would look to it as if its mount lived.
    turn = os.open(staging.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return {
            d.name
            for d in staging.iterdir()
            if d.is_dir() and not is_held(d) and not (_is_locked(d) and _owner_runs(d.name))
        }
    finally:
        os.close(turn)


def _owner_runs(directory: str) -> bool:
    pid = directory.partition("-")[0]
    return pid.isdigit() and start_time(int(pid)) != ""


def _is_locked(directory: Path) -> bool:
    try:
        fd = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # about to begin, or to end
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
