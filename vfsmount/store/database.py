"""A SQLite database of ours: made, upgraded, and used from one thread that keeps the order of things.

In WAL mode, so that processes may share it. What is committed survives the process; a power cut may
take the last moments with it (what must survive that too is committed `durable`), never the database.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from vfsmount.errors import LocalIOError, RecordsFull
from vfsmount.store.syscalls import FULL, boundary

T = TypeVar("T")


class Database:
    """One database. Methods raise LocalIOError when the disk or the database fails.

    Attributes:
        connection: for the one thread at a time that `run` gives it to.
    """

    def __init__(self, path: Path, schemas: Sequence[str]) -> None:
        """Open or make it; its directory must exist and be private.

        Args:
            schemas: what each version of the database added to the one before.
        """
        self._limiter = trio.CapacityLimiter(1)
        try:
            self.connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            with _alone(path):
                self.connection.execute("pragma journal_mode = wal")
                self.connection.execute("pragma synchronous = normal")
                self._upgrade(schemas)
                found = self._version()
        except (sqlite3.Error, OSError) as e:
            raise LocalIOError(
                f"the records in {path} cannot be used ({e}); move the file away to start anew"
            ) from e
        if found != len(schemas):
            raise LocalIOError(f"the records in {path} were written by another version of vfsmount")

    def _upgrade(self, schemas: Sequence[str]) -> None:
        for version in range(self._version(), len(schemas)):
            # executescript is a transaction only where the script says so.
            self.connection.executescript(
                f"begin exclusive; {schemas[version]}; pragma user_version = {version + 1}; commit"
            )

    def _version(self) -> int:
        return int(self.connection.execute("pragma user_version").fetchone()[0])

    def close(self) -> None:
        """Let go of the database."""
        self.connection.close()

    async def run(self, work: Callable[[sqlite3.Connection], T], durable: bool = False) -> T:
        """Run `work` in a transaction; `durable`: it survives a power cut, with all before it."""
        db = self.connection

        def in_thread() -> T:
            # Cannot change inside a transaction. FULL syncs the write-ahead log with the commit.
            db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            db.execute("begin immediate")
            try:
                result = work(db)
                boundary()
                db.execute("commit")
            except BaseException:
                # A full disk may fail the commit and leave it open, or have rolled back already.
                if db.in_transaction:
                    db.execute("rollback")
                raise
            return result

        try:
            return await trio.to_thread.run_sync(in_thread, limiter=self._limiter)
        except (sqlite3.Error, ValueError) as e:  # ValueError: a row whose content is damaged
            if isinstance(e, sqlite3.OperationalError) and e.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise RecordsFull(FULL) from e
            raise LocalIOError(f"the records cannot be used: {e}") from e


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of processes that start at once, one sets the database up and the others wait.

    SQLite's own waiting does not cover the change to WAL: where two connections would wait for each
    other, one is told "database is locked" at once, whatever its timeout.
    """
    with open(path.with_suffix(".lock"), "w", opener=_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
