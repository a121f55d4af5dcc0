"""What `upload`, `download` and `sync` remember, so that they go on where they were stopped.

Upload sessions by where they lead; downloads by where they end; and which version a file became when
it was sent, because the server has no way to keep a file's own time. One `Database` for all servers
and folders of a user. Two commands that work on one file at once would spoil each other's work: whoever
writes somewhere claims the place, and the kernel lets go of the claim when the process ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vfsmount.errors import Conflict, LocalIOError
from vfsmount.store.database import Database
from vfsmount.store.syscalls import boot_id
from vfsmount.values import Grant, Validator

_SCHEMAS = (
    """
create table uploads (
  server text not null, folder text not null, path blob not null,  -- where it leads; folder: 32 hex digits
  file blob not null,        -- Local as msgpack: what is sent
  url text not null, token text not null, expires_at real not null,
  at real not null,          -- when it was begun, seconds since the epoch
  primary key (server, folder, path)
) without rowid;
create table downloads (
  target blob primary key,   -- absolute path of the file to be
  server text not null, folder text not null, path blob not null,
  mtime_ns integer not null, size integer not null,  -- the version
  boot text not null,        -- time since when `arrived` is true: after another start only `synced` is
  arrived blob not null,     -- extents in the part file, as msgpack
  synced blob not null,      -- those that were on the disk for certain
  at real not null
) without rowid;
create table sent (
  server text not null, folder text not null, path blob not null,
  local blob not null,       -- absolute path of the file it is a copy of
  size integer not null, local_mtime_ns integer not null, remote_mtime_ns integer not null,
  primary key (server, folder, path, local)
) without rowid;
create table salt (value blob not null);
""",
)
_LEAST_AGE_S = 30 * 86400.0  # of what nobody came back for

Runs = list[tuple[int, int]]


class Local(msgspec.Struct, frozen=True):
    """A version of a file on this machine.

    Attributes:
        path: absolute.
    """

    path: bytes
    size: int
    mtime_ns: int
    ino: int


class Place(msgspec.Struct, frozen=True):
    """A file's place on a server.

    Attributes:
        server: address of the manager.
        folder: id of the folder.
        path: in the folder.
    """

    server: str
    folder: str
    path: str


class Partial(msgspec.Struct, frozen=True):
    """A download that was begun.

    Attributes:
        arrived: extents that are in the part file.
    """

    place: Place
    version: Validator
    arrived: Runs


class TransferRecords:
    """The records. Methods raise LocalIOError when the disk or the database fails."""

    def __init__(self, path: Path) -> None:
        """Open or make them; their directory must exist and be private."""
        self._database = Database(path, _SCHEMAS)
        self._run = self._database.run
        self._boot = boot_id()
        try:
            self._salt = _salt(self._database.connection)
            self._claims = os.open(path.with_suffix(".claims"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, sqlite3.Error) as e:
            self._database.close()
            raise LocalIOError(f"the records in {path} cannot be used: {e}") from e
        self._claimed: set[int] = set()

    def close(self) -> None:
        """Let go of the records, and of all claims."""
        os.close(self._claims)
        self._database.close()

    # --- claims --------------------------------------------------------------------------------

    @contextmanager
    def claim(self, what: Place | bytes) -> Iterator[None]:
        """Be the only one of this user's commands to write there.

        Args:
            what: a place on a server, or the absolute path of a file here.

        Raises:
            Conflict: another one is at it.
        """
        byte = int.from_bytes(self._digest(what)[:7])
        if byte in self._claimed:
            raise Conflict("named twice in this command")
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as e:
            raise Conflict("another vfsmount command of yours is at this very file") from e
        self._claimed.add(byte)
        try:
            yield
        finally:
            self._claimed.discard(byte)
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def part_name(self, target: bytes) -> str:
        """Name of the file, beside the target, in which its content is collected. No server can guess it."""
        return f".vfsmount-{self._digest(target).hex()[:24]}.part"

    def _digest(self, what: Place | bytes) -> bytes:
        words = (
            [what] if isinstance(what, bytes) else [_text(w) for w in (what.server, what.folder, what.path)]
        )
        return hashlib.sha256(b"\0".join((self._salt, *words))).digest()

    # --- uploads -------------------------------------------------------------------------------

    async def session_for(self, place: Place) -> tuple[Local, Grant] | None:
        """The upload session that leads there, and what it was begun to send."""

        def work(db: sqlite3.Connection) -> tuple[Local, Grant] | None:
            row = db.execute(
                "select file, url, token, expires_at from uploads"
                " where server = ? and folder = ? and path = ?",
                _key(place),
            ).fetchone()
            return (msgspec.msgpack.decode(row[0], type=Local), Grant(*row[1:])) if row else None

        return await self._run(work)

    async def keep_session(self, place: Place, file: Local, grant: Grant | None, durable: bool) -> None:
        """Remember an upload session, or None: that there is none any more."""

        def work(db: sqlite3.Connection) -> None:
            if grant is None:
                _forget_session(db, place)
                return
            row = (*_key(place), msgspec.msgpack.encode(file), grant.url, grant.token, grant.expires_at)
            db.execute("insert or replace into uploads values (?, ?, ?, ?, ?, ?, ?, ?)", (*row, time.time()))

        await self._run(work, durable)

    async def expired_sessions(self, server: str, folder: str, now: float) -> list[tuple[str, Grant]]:
        """Sessions of a folder that can lead nowhere any more, and not of a file that was just begun."""

        def work(db: sqlite3.Connection) -> list[tuple[str, Grant]]:
            rows = db.execute(
                "select path, url, token, expires_at from uploads"
                " where server = ? and folder = ? and (expires_at between 1 and ? or at < ?)",
                (server, folder, now, now - _LEAST_AGE_S),
            )
            return [(_path(path), Grant(*rest)) for path, *rest in rows]

        return await self._run(work)

    # --- what was sent -------------------------------------------------------------------------

    async def same(self, place: Place, file: Local, version: Validator) -> None:
        """Remember that a file here and a version there are the same; no session is needed any more."""
        row = (*_key(place), file.path, file.size, file.mtime_ns, version.mtime_ns)

        def work(db: sqlite3.Connection) -> None:
            _forget_session(db, place)
            db.execute("insert or replace into sent values (?, ?, ?, ?, ?, ?, ?)", row)

        await self._run(work)

    async def known_same(self, places: list[Place], local: list[bytes]) -> list[tuple[int, int, int] | None]:
        """For each pair (size, mtime_ns here, mtime_ns there) when they were the same."""
        keys = [(*_key(p), path) for p, path in zip(places, local, strict=True)]

        def work(db: sqlite3.Connection) -> list[tuple[int, int, int] | None]:
            query = (
                "select size, local_mtime_ns, remote_mtime_ns from sent"
                " where server = ? and folder = ? and path = ? and local = ?"
            )
            return [db.execute(query, key).fetchone() for key in keys]

        return await self._run(work)

    async def forget_same(self, places: list[Place]) -> None:
        """Files that were deleted."""
        query = "delete from sent where server = ? and folder = ? and path = ?"
        await self._run(lambda db: db.executemany(query, [_key(p) for p in places]))

    # --- downloads -----------------------------------------------------------------------------

    async def partial_for(self, target: bytes) -> Partial | None:
        """What there is of a download, as far as the part file can be believed."""

        def work(db: sqlite3.Connection) -> Partial | None:
            row = db.execute(
                "select server, folder, path, mtime_ns, size, boot, arrived, synced from downloads"
                " where target = ?",
                (target,),
            ).fetchone()
            if row is None:
                return None
            server, folder, path, mtime_ns, size, boot, arrived, synced = row
            runs = msgspec.msgpack.decode(arrived if boot == self._boot else synced, type=Runs)
            return Partial(Place(server, folder, _path(path)), Validator(mtime_ns, size), runs)

        return await self._run(work)

    async def keep_partial(self, target: bytes, partial: Partial, synced: Runs) -> None:
        """Remember what there is of a download.

        Args:
            synced: extents that were there when the part file was synced last.
        """
        version, encode = partial.version, msgspec.msgpack.encode
        runs = encode(partial.arrived), encode(synced)
        row = (target, *_key(partial.place), version.mtime_ns, version.size, self._boot, *runs, time.time())
        query = "insert or replace into downloads values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        await self._run(lambda db: db.execute(query, row))

    async def forget_partial(self, target: bytes) -> None:
        """A download has come to its end, or begins anew."""
        await self._run(lambda db: db.execute("delete from downloads where target = ?", (target,)))


def _forget_session(db: sqlite3.Connection, place: Place) -> None:
    db.execute("delete from uploads where server = ? and folder = ? and path = ?", _key(place))


def _key(place: Place) -> tuple[str, str, bytes]:
    return place.server, place.folder, _text(place.path)


def _text(text: str) -> bytes:
    # A server's names need not be UTF-8; a database's text has to.
    return os.fsencode(text)


def _path(raw: bytes) -> str:
    return os.fsdecode(raw)


def _salt(db: sqlite3.Connection) -> bytes:
    db.execute("begin immediate")
    row = db.execute("select value from salt").fetchone()
    if row is None:
        row = (secrets.token_bytes(16),)
        db.execute("insert into salt values (?)", row)
    db.execute("commit")
    return bytes(row[0])
