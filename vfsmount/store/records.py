"""Durable records: unsent files (`staged`), and what programs set and the server cannot keep.

One `Database`, shared by all mounts of one state directory. Rows are written before the call that made
them is answered, so they survive the daemon's death.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from vfsmount.store.database import Database
from vfsmount.store.staged import (
    BELOW,
    MOVES_REPLACE_SCHEMA,
    REMOVED_DIRECTORIES_SCHEMA,
    STAGED_SCHEMA,
    StagedRecords,
    below,
)
from vfsmount.values import Kind, LocalAttrs, Validator

# What each version of the database added to the one before.
_SCHEMAS = (
    """
create table attributes (
  folder text not null,      -- 32 hex digits
  parent blob not null,      -- path of the directory inside the folder, empty for its root
  name blob not null,
  kind text not null,        -- values.Kind
  size integer, mtime_ns integer,  -- the version they belong to; null for directories and local kinds
  attrs blob not null,       -- values.LocalAttrs as msgpack
  primary key (folder, parent, name)
) without rowid;
""",
    STAGED_SCHEMA,
    MOVES_REPLACE_SCHEMA,
    REMOVED_DIRECTORIES_SCHEMA,
    REMOVED_DIRECTORIES_SCHEMA,
)
SCHEMA_VERSION = len(_SCHEMAS)


class AttrRecord(msgspec.Struct, frozen=True):
    """Attributes of one name.

    Attributes:
        version: the remote version they belong to; None for directories and for what exists here only.
    """

    name: bytes
    kind: Kind
    version: Validator | None
    attrs: LocalAttrs


class Records:
    """The records of one account. Methods raise LocalIOError when the disk or the database fails."""

    def __init__(self, path: Path) -> None:
        """Open or make the database; its directory must exist and be private."""
        self._database = Database(path, _SCHEMAS)
        self._run = self._database.run
        self.staged = StagedRecords(self._run)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    # --- attributes ----------------------------------------------------------------------------

    async def read_directory(self, folder: str, parent: bytes) -> list[AttrRecord]:
        """All records of names in one directory."""

        def work(db: sqlite3.Connection) -> list[AttrRecord]:
            rows = db.execute(
                "select name, kind, size, mtime_ns, attrs from attributes where folder = ? and parent = ?",
                (folder, parent),
            )
            return [_record(*row) for row in rows]

        return await self._run(work)

    async def read_name(self, folder: str, parent: bytes, name: bytes) -> AttrRecord | None:
        """The record of one name."""

        def work(db: sqlite3.Connection) -> AttrRecord | None:
            row = db.execute(
                "select name, kind, size, mtime_ns, attrs from attributes"
                " where folder = ? and parent = ? and name = ?",
                (folder, parent, name),
            ).fetchone()
            return _record(*row) if row else None

        return await self._run(work)

    async def read_folders(self) -> dict[str, LocalAttrs]:
        """Attributes of the top directories of all folders, by folder id; their name is empty."""

        def work(db: sqlite3.Connection) -> dict[str, LocalAttrs]:
            rows = db.execute("select folder, attrs from attributes where name = x''")
            return {folder: msgspec.msgpack.decode(attrs, type=LocalAttrs) for folder, attrs in rows}

        return await self._run(work)

    async def count_local(self) -> int:
        """How many names exist on this machine only: links, FIFOs, sockets."""
        kinds = [k.value for k in Kind if k.is_local]
        marks = ", ".join("?" * len(kinds))
        query = f"select count(*) from attributes where kind in ({marks})"  # noqa: S608, question marks
        return await self._run(lambda db: int(db.execute(query, kinds).fetchone()[0]))

    async def put(self, folder: str, parent: bytes, record: AttrRecord) -> None:
        """Write or replace one name's record."""
        version = record.version
        row = (
            folder,
            parent,
            record.name,
            record.kind.value,
            version.size if version else None,
            version.mtime_ns if version else None,
            msgspec.msgpack.encode(record.attrs),
        )
        await self._run(
            lambda db: db.execute("insert or replace into attributes values (?, ?, ?, ?, ?, ?, ?)", row)
        )

    async def remove(self, folder: str, parent: bytes, name: bytes) -> None:
        """Forget a name and, where it was a directory, everything below it."""
        await self._run(lambda db: _remove(db, folder, parent, name))

    async def rename(
        self, folder: str, parent: bytes, name: bytes, new_parent: bytes, new_name: bytes
    ) -> None:
        """Move the records of a name and of everything below it over those of another name."""
        old, new = _join(parent, name), _join(new_parent, new_name)

        def work(db: sqlite3.Connection) -> None:
            _remove(db, folder, new_parent, new_name)
            db.execute(
                "update attributes set parent = ?, name = ? where folder = ? and parent = ? and name = ?",
                (new_parent, new_name, folder, parent, name),
            )
            db.execute(
                "update attributes set parent = cast(? || substr(parent, ?) as blob) where " + BELOW,  # noqa: S608, a constant
                (new, len(old) + 1, folder, *below(old)),
            )

        await self._run(work)

    async def remove_folder(self, folder: str) -> None:
        """Forget everything in a folder that was deleted."""
        await self._run(lambda db: db.execute("delete from attributes where folder = ?", (folder,)))


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _remove(db: sqlite3.Connection, folder: str, parent: bytes, name: bytes) -> None:
    db.execute("delete from attributes where folder = ? and parent = ? and name = ?", (folder, parent, name))
    args = (folder, *below(_join(parent, name)))
    db.execute("delete from attributes where " + BELOW, args)  # noqa: S608, a constant


def _record(name: bytes, kind: str, size: int | None, mtime_ns: int | None, attrs: bytes) -> AttrRecord:
    version = Validator(mtime_ns, size) if size is not None and mtime_ns is not None else None
    return AttrRecord(bytes(name), Kind(kind), version, msgspec.msgpack.decode(attrs, type=LocalAttrs))
