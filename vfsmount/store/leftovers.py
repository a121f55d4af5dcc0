"""What mounts that ended left in a state directory, looked at without touching it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vfsmount.store.staging import LOCK


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Counts of files.

    Attributes:
        unsent: acknowledged, with no mount that would send them now.
        aside: in ``unsent/``, never acknowledged or torn by a power cut.
    """

    unsent: int
    aside: int


def leftovers(state_dir: Path) -> Leftovers:
    """Look through a state directory; what cannot be read counts as nothing."""
    staging = state_dir / "staging"
    dead = (
        {d.name for d in staging.iterdir() if d.is_dir() and not _is_locked(d)} if staging.exists() else set()
    )
    aside = sum(p.is_file() for p in (state_dir / "unsent").rglob("*"))
    database = state_dir / "records.sqlite"
    if not dead or not database.exists():
        return Leftovers(0, aside)
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
            rows = db.execute("select mount, count(*) from staged group by mount").fetchall()
    except sqlite3.Error:
        return Leftovers(0, aside)
    return Leftovers(sum(count for mount, count in rows if mount in dead), aside)


def _is_locked(directory: Path) -> bool:
    """Whether a mount lives there. Asked with a shared lock, so that a new mount is not in our way."""
    try:
        fd = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True  # about to begin, or to end
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
