"""Rows of what the server does not have yet: unsent files, removals, moves under way, conflicts.

A row says what was acknowledged; the content lies in a staging file that it names. Which states a
row goes through, and what the next mount does with each, is `core.staging`'s.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import msgspec

from vfsmount.core.staging import State
from vfsmount.values import NO_ATTRS, Grant, LocalAttrs, Validator

T = TypeVar("T")

STAGED_SCHEMA = """
create table staged (
  id integer primary key autoincrement,
  folder text not null,       -- 32 hex digits
  parent blob not null,       -- path of the directory inside the folder, empty for its root
  name blob not null,
  mount text not null,        -- name of the staging directory of the mount that owns the row
  seq integer not null,       -- counts what this mount acknowledged
  detail blob not null        -- StagedDetail as msgpack
);
create index staged_by_mount on staged (mount);
create index staged_by_parent on staged (folder, parent);
create table durable (        -- content of rows up to seq survives a power cut
  mount text primary key,
  seq integer not null,
  boot text not null
) without rowid;
create table removals (       -- acknowledged, not yet done on the server
  folder text not null,
  parent blob not null,
  name blob not null,
  mount text not null,
  mtime_ns integer, size integer,  -- the version that was removed; null: unknown
  primary key (folder, parent, name)
) without rowid;
create table moves (          -- a rename that was sent to the server and whose rows are not moved yet
  id integer primary key autoincrement,
  mount text not null,
  folder text not null,
  parent blob not null, name blob not null,
  new_parent blob not null, new_name blob not null
);
create table conflicts (
  folder text not null,
  path blob not null,
  kept_as blob not null,
  at real not null            -- seconds since the epoch
);
"""
# Added in version 3 of the database.
MOVES_REPLACE_SCHEMA = """
alter table moves add column mtime_ns integer;  -- the version that was in the way; null: nothing, or unknown
alter table moves add column size integer;
"""
# Added in version 4, and again in 5: there are databases of a version 4 that had it otherwise.
REMOVED_DIRECTORIES_SCHEMA = """
create table if not exists removed_directories (  -- as removals, which mounts of before may be reading
  folder text not null,
  parent blob not null,
  name blob not null,
  mount text not null,
  primary key (folder, parent, name)
) without rowid;
"""
CONFLICTS_KEPT = 200  # newest; older ones have been seen or never will be


class StagedDetail(msgspec.Struct, frozen=True):
    """What a row says of its content.

    Attributes:
        content: name of the staging file, as `Content.name`.
        size: bytes acknowledged.
        sealed: they are not changed in place.
        written: extents that are here; of the rest below `remote_size` the server's version is meant.
        base: the version on the server this was made from, or took the place of; None: there was none.
        sent: the version it became, in state SENT.
        attrs: what was set for it.
        acked_at: seconds since the epoch.
        boot: names the machine's run in which the content was written.
        durable: the content itself was synced before the row.
        upload: the content that is being sent, where it is not `content` any more.
        upload_size: its size.
        session: the upload session, a secret.
        reason: why it is parked.
        fallback: what was acknowledged before and does survive a power cut, as long as this may not.
    """

    content: str
    size: int
    sealed: bool
    acked_at: float
    boot: str
    state: State = State.WAITING
    written: tuple[tuple[int, int], ...] = ()
    remote_size: int = 0
    base: Validator | None = None
    sent: Validator | None = None
    attrs: LocalAttrs = NO_ATTRS
    durable: bool = False
    upload: str = ""
    upload_size: int = 0
    session: Grant | None = None
    reason: str = ""
    fallback: StagedDetail | None = None


class StagedRow(msgspec.Struct, frozen=True):
    """One unsent file: where it belongs, and `detail`."""

    folder: str
    parent: bytes
    name: bytes
    mount: str
    seq: int
    detail: StagedDetail
    id: int = 0

    @property
    def path(self) -> bytes:
        """Inside the folder."""
        return _join(self.parent, self.name)


class Removal(msgspec.Struct, frozen=True):
    """One name that is gone here and not yet on the server.

    Attributes:
        version: what was removed, if known.
        directory: it was one, and nothing was in it but what was removed as well.
    """

    folder: str
    parent: bytes
    name: bytes
    version: Validator | None
    directory: bool = False

    @property
    def path(self) -> bytes:
        """Inside the folder."""
        return _join(self.parent, self.name)

    def holds(self, directory: bytes) -> bool:
        """Whether a directory is what was removed, or lies below."""
        return _is_within(directory, self.path)


class Move(msgspec.Struct, frozen=True):
    """One rename with unsent files below it, as sent to the server.

    Attributes:
        replaces: the version that was in the way: while it is there, nothing was moved.
    """

    id: int
    folder: str
    parent: bytes
    name: bytes
    new_parent: bytes
    new_name: bytes
    replaces: Validator | None = None

    def takes(self, row: StagedRow) -> bool:
        """Whether a file is what was renamed, or lies below, by the name it had before."""
        return row.folder == self.folder and _is_within(row.path, _join(self.parent, self.name))


class ConflictRecord(msgspec.Struct, frozen=True):
    """A file that was kept under another name because somebody had changed its target."""

    folder: str
    path: bytes
    kept_as: bytes
    at: float


class Run(Protocol):
    """Runs work in a transaction; see `Records`."""

    async def __call__(self, work: Callable[[sqlite3.Connection], T], durable: bool = False) -> T: ...


class StagedRecords:
    """The rows. Methods raise NoSpace and LocalIOError."""

    def __init__(self, run: Run) -> None:
        self._run = run

    # --- unsent files --------------------------------------------------------------------------

    async def put(self, row: StagedRow, *, durable: bool = False) -> int:
        """Insert (id 0) or replace a row; return its id. Its name has no other row afterwards."""

        def work(db: sqlite3.Connection) -> int:
            _forget_name(db, row.mount, row.folder, row.parent, row.name, but=row.id)
            values = (row.folder, row.parent, row.name, row.mount, row.seq, _pack(row.detail))
            if row.id:
                db.execute("insert or replace into staged values (?, ?, ?, ?, ?, ?, ?)", (row.id, *values))
                return row.id
            done = db.execute(
                "insert into staged (folder, parent, name, mount, seq, detail) values (?, ?, ?, ?, ?, ?)",
                values,
            )
            assert done.lastrowid is not None
            return done.lastrowid

        return await self._run(work, durable)

    async def update(self, row_id: int, detail: StagedDetail) -> None:
        """Replace what a row says of its content, wherever it has been moved meanwhile."""
        packed = _pack(detail)
        await self._run(lambda db: db.execute("update staged set detail = ? where id = ?", (packed, row_id)))

    async def remove(self, ids: Iterable[int]) -> None:
        """Forget rows: the server has them, or nobody wants them any more."""
        wanted = [(i,) for i in ids]
        if wanted:
            await self._run(lambda db: db.executemany("delete from staged where id = ?", wanted))

    async def remove_sent(self, row_id: int, version: Validator) -> None:
        """Forget a row that says its content became `version`; one that was written anew stays."""

        def work(db: sqlite3.Connection) -> None:
            found = db.execute("select detail from staged where id = ?", (row_id,)).fetchone()
            if found is not None:
                detail = _unpack(found[0])
                if detail.state is State.SENT and detail.sent == version:
                    db.execute("delete from staged where id = ?", (row_id,))

        await self._run(work)

    async def set_durable(self, mount: str, seq: int, boot: str) -> None:
        """What was acknowledged up to `seq` was synced; this call survives a power cut itself."""
        row = (mount, seq, boot)
        await self._run(
            lambda db: db.execute("insert or replace into durable values (?, ?, ?)", row), durable=True
        )

    async def read_mount(self, mount: str) -> tuple[list[StagedRow], int]:
        """A mount's rows, oldest first, and the number up to which their content is durable."""

        def work(db: sqlite3.Connection) -> tuple[list[StagedRow], int]:
            rows = db.execute(
                "select folder, parent, name, mount, seq, detail, id from staged where mount = ?"
                " order by seq, id",
                (mount,),
            ).fetchall()
            found = db.execute("select seq from durable where mount = ?", (mount,)).fetchone()
            return [StagedRow(f, bytes(p), bytes(n), m, s, _unpack(d), i) for f, p, n, m, s, d, i in rows], (
                found[0] if found else 0
            )

        return await self._run(work)

    async def has_any(self, mount: str) -> bool:
        """Whether anything stands under a mount's name that the next mount has to look at."""
        tables = ("staged", "removals", "removed_directories", "moves")

        def work(db: sqlite3.Connection) -> bool:
            return any(
                db.execute(f"select 1 from {table} where mount = ? limit 1", (mount,)).fetchone()  # noqa: S608
                for table in tables
            )

        return await self._run(work)

    async def take_over(self, row_id: int, mount: str, seq: int) -> None:
        """A row of a dead mount becomes one of `mount`."""
        await self._run(
            lambda db: db.execute("update staged set mount = ?, seq = ? where id = ?", (mount, seq, row_id))
        )

    # --- names ---------------------------------------------------------------------------------

    async def removed(self, mount: str, removal: Removal | None, row_ids: Iterable[int] = ()) -> None:
        """A name was removed here: in one step its rows go and, where the server has it, the removal
        is noted."""
        ids = [(i,) for i in row_ids]
        version = removal.version if removal else None

        def work(db: sqlite3.Connection) -> None:
            db.executemany("delete from staged where id = ?", ids)
            if removal is not None and removal.directory:
                db.execute(
                    "insert or replace into removed_directories values (?, ?, ?, ?)",
                    (removal.folder, removal.parent, removal.name, mount),
                )
            elif removal is not None:
                db.execute(
                    "insert or replace into removals (folder, parent, name, mount, mtime_ns, size)"
                    " values (?, ?, ?, ?, ?, ?)",
                    (
                        removal.folder,
                        removal.parent,
                        removal.name,
                        mount,
                        version.mtime_ns if version else None,
                        version.size if version else None,
                    ),
                )

        await self._run(work)

    async def removals_done(self, removals: Iterable[Removal]) -> None:
        """The server has done them, or they are not wanted any more."""
        done = list(removals)

        def work(db: sqlite3.Connection) -> None:
            for table, directory in (("removals", False), ("removed_directories", True)):
                db.executemany(
                    f"delete from {table} where folder = ? and parent = ? and name = ?",  # noqa: S608
                    [(r.folder, r.parent, r.name) for r in done if r.directory is directory],
                )

        await self._run(work)

    async def read_removals(self, mount: str) -> list[Removal]:
        """A mount's removals that are not done."""

        def work(db: sqlite3.Connection) -> list[Removal]:
            names = db.execute(
                "select folder, parent, name, mtime_ns, size from removals where mount = ?", (mount,)
            ).fetchall()
            directories = db.execute(
                "select folder, parent, name from removed_directories where mount = ?", (mount,)
            ).fetchall()
            return [
                Removal(f, bytes(p), bytes(n), None if m is None else Validator(m, s))
                for f, p, n, m, s in names
            ] + [Removal(f, bytes(p), bytes(n), None, directory=True) for f, p, n in directories]

        return await self._run(work)

    async def take_removals_over(self, old: str, new: str) -> None:
        """Removals of a dead mount become those of another."""

        def work(db: sqlite3.Connection) -> None:
            for table in ("removals", "removed_directories"):
                db.execute(f"update {table} set mount = ? where mount = ?", (new, old))  # noqa: S608

        await self._run(work)

    async def begin_move(self, mount: str, move: Move) -> int:
        """A rename is about to be sent; the id for `end_move`."""
        old = move.replaces
        version = (old.mtime_ns, old.size) if old is not None else (None, None)
        values = (mount, move.folder, move.parent, move.name, move.new_parent, move.new_name, *version)

        def work(db: sqlite3.Connection) -> int:
            done = db.execute(
                "insert into moves (mount, folder, parent, name, new_parent, new_name, mtime_ns, size)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            assert done.lastrowid is not None
            return done.lastrowid

        return await self._run(work)

    async def end_move(self, mount: str, move: Move, *, happened: bool, replaced: Iterable[int] = ()) -> None:
        """A rename is done (its rows get their new names, those of what it replaced go) or was not."""
        ids = [(i,) for i in replaced]

        def work(db: sqlite3.Connection) -> None:
            if move.id:
                db.execute("delete from moves where id = ?", (move.id,))
            if not happened:
                return
            db.executemany("delete from staged where id = ?", ids)
            _forget_name(db, mount, move.folder, move.new_parent, move.new_name)
            db.execute(
                "update staged set parent = ?, name = ?"
                " where folder = ? and parent = ? and name = ? and mount = ?",
                (move.new_parent, move.new_name, move.folder, move.parent, move.name, mount),
            )
            old, new = _join(move.parent, move.name), _join(move.new_parent, move.new_name)
            db.execute(
                "update staged set parent = cast(? || substr(parent, ?) as blob) where mount = ? and "  # noqa: S608
                + BELOW,
                (new, len(old) + 1, mount, move.folder, *below(old)),
            )

        await self._run(work)

    async def read_moves(self, mount: str) -> list[Move]:
        """A mount's renames of which it never said how they ended, oldest first."""

        def work(db: sqlite3.Connection) -> list[Move]:
            rows = db.execute(
                "select mtime_ns, size, id, folder, parent, name, new_parent, new_name from moves"
                " where mount = ? order by id",
                (mount,),
            )
            return [
                Move(i, f, bytes(p), bytes(n), bytes(np), bytes(nn), None if m is None else Validator(m, s))
                for m, s, i, f, p, n, np, nn in rows
            ]

        return await self._run(work)

    # --- conflicts -----------------------------------------------------------------------------

    async def add_conflict(self, conflict: ConflictRecord) -> None:
        """Remember that a file was kept under another name."""
        row = (conflict.folder, conflict.path, conflict.kept_as, conflict.at)

        def work(db: sqlite3.Connection) -> None:
            db.execute("insert into conflicts values (?, ?, ?, ?)", row)
            db.execute(
                "delete from conflicts where rowid not in"
                " (select rowid from conflicts order by at desc limit ?)",
                (CONFLICTS_KEPT,),
            )

        await self._run(work)

    async def read_conflicts(self) -> list[ConflictRecord]:
        """Conflicts, newest first."""

        def work(db: sqlite3.Connection) -> list[ConflictRecord]:
            rows = db.execute("select folder, path, kept_as, at from conflicts order by at desc")
            return [ConflictRecord(f, bytes(p), bytes(k), at) for f, p, k, at in rows]

        return await self._run(work)


# Everything in a directory and below it, by the key's order: "/" is followed by "0".
BELOW = "folder = ? and (parent = ? or (parent > ? and parent < ?))"


def below(path: bytes) -> tuple[bytes, bytes, bytes]:
    """Arguments of `BELOW` after the folder."""
    return path, path + b"/", path + b"0"


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _is_within(path: bytes, top: bytes) -> bool:
    """Whether a path is another or lies below."""
    return (path + b"/").startswith(top + b"/")


def _forget_name(
    db: sqlite3.Connection, mount: str, folder: str, parent: bytes, name: bytes, but: int = 0
) -> None:
    # Only ours: another mount of this user may have unsent content under the same name.
    db.execute(
        "delete from staged where folder = ? and parent = ? and name = ? and mount = ? and id != ?",
        (folder, parent, name, mount, but),
    )


def _pack(detail: StagedDetail) -> bytes:
    return msgspec.msgpack.encode(detail)


def _unpack(raw: bytes) -> StagedDetail:
    return msgspec.msgpack.decode(raw, type=StagedDetail)
