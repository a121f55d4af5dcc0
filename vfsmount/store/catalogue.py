"""What the cache files hold, which of them goes next, and how much room is left: one SQLite database.

It can be made anew from the cache files at any time, so nothing of it is ever synced. All access is
in `Turn`s, so SQLite itself never waits. A block's room is booked before it is written, in the same
turn in which what has to go for it goes: the limit holds at every moment, for all processes together.

Which goes next: S3-FIFO. What is new waits in a short queue; used again before it reaches the end, it
moves to the main queue, else it goes. So one long read passes through the short queue only. What comes
back soon after it went goes to the main queue at once. The main queue's oldest goes, unless it was
used since: then it goes to the back.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.store.segments import (
    SEGMENT_BLOCKS,
    FileKey,
    Layout,
    make_segment,
    remove_segment,
    segments_in,
    version_id,
)
from vfsmount.store.syscalls import boot_id
from vfsmount.store.turn import Turn

T = TypeVar("T")

FORMAT = 1
_SCHEMA = """
create table segments (
  name blob primary key,     -- Layout.name
  version blob not null,     -- Layout.version
  slots integer not null,    -- blocks that have room, a bit each
  bytes integer not null,
  queue integer not null,    -- NEW, MAIN or PINNED
  used integer not null,     -- how often since it was queued, up to MOST_USED
  place integer not null     -- in its queue; the lowest is the next
) without rowid;
create index by_place on segments (queue, place);
create index by_version on segments (version);
create table totals (queue integer primary key, bytes integer not null);
insert into totals values (0, 0), (1, 0), (2, 0);
create table gone (place integer primary key, name blob unique not null);
create table pins (version blob primary key, bytes integer not null) without rowid;
create table meta (boot text not null, size_limit integer not null);
"""
# Of who only looks: what the last mount gave stays recorded.
NO_LIMIT = 1 << 62
NEW, MAIN, PINNED = 0, 1, 2
MOST_USED = 3
# S3-FIFO's authors found a tenth good for nearly all of their traces.
NEW_SHARE = 10
# In one turn, so that nobody waits long for his; small files' segments are small.
_MOST_EVICTED = 512
_MOST_MOVED = 2048
_WAIT_S = 2.0
_TOUCH_WAIT_S = 0.05
_LOOK_S = 60.0  # while another looks through a million files
# Errors of SQLite that a new database would not cure.
_NOT_CORRUPT = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_CANTOPEN,
}


class Usage(NamedTuple):
    """How much there is; `files`: versions of remote files of which something is kept.

    `limit` is ours, or the last mount's for who gave none.
    """

    bytes: int
    limit: int
    files: int
    pinned_bytes: int


class Catalogue:
    """The catalogue below `root`, a private directory.

    Methods raise OSError or sqlite3.Error for the disk's troubles, TimeoutError among them when others
    are busy for long.
    """

    def __init__(self, root: Path, limit: int, floor: int, free_bytes: Callable[[], int]) -> None:
        self._root = root
        self._path = root / "catalogue.sqlite"
        self._blocks = root / "blocks"
        self._pins = root / "pins"
        self._limit = limit
        self._floor = floor
        self._free_bytes = free_bytes
        self._turn = Turn(root / "lock")
        self._db: sqlite3.Connection | None = None
        self._closed = False

    def close(self) -> None:
        """Let go of the database."""
        with self._turn.no_thread():
            self._closed = True
            self._disconnect()
        self._turn.close()

    def path_of(self, layout: Layout) -> Path:
        """Where the cache file of a segment is, if there is one."""
        return self._blocks / layout.name.hex()

    # --- the database --------------------------------------------------------------------------

    def _run(self, work: Callable[[sqlite3.Connection], T], wait_s: float = _WAIT_S) -> T:
        """Do `work` in a turn and a transaction; once more with a new database if this one is bad."""
        with self._turn.taken(wait_s):
            if self._closed:
                raise TimeoutError("the cache was closed")
            try:
                return self._in_transaction(work)
            except sqlite3.DatabaseError as e:
                # Errors without a code are not the file's.
                if getattr(e, "sqlite_errorcode", sqlite3.SQLITE_BUSY) & 0xFF in _NOT_CORRUPT:
                    raise
            except (TypeError, ValueError, AttributeError, OverflowError):
                pass  # damage that SQLite does not see gives rows that make no sense
            self._disconnect()
            self._remove()
            return self._in_transaction(work)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._connect()
        db.execute("begin")
        try:
            result = work(db)
            db.execute("commit")
        except BaseException:
            with suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("rollback")
            raise
        return result

    def _connect(self) -> sqlite3.Connection:
        """The database under its name, made if it is not there."""
        if self._db is not None and self._is_current():
            return self._db
        self._disconnect()
        self._blocks.mkdir(mode=0o700, exist_ok=True)
        self._pins.mkdir(mode=0o700, exist_ok=True)
        db = self._open()
        try:
            if not self._is_ours(db):
                db.close()
                self._remove()
                db = self._open()
                self._make(db)
        except BaseException:
            db.close()
            raise
        self._db = db
        self._identity = self._path.stat()
        return db

    def _open(self) -> sqlite3.Connection:
        # Made by us: SQLite would let others read it, and its journal has the same mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        with suppress(sqlite3.DatabaseError):  # one that is damaged; who uses it will see
            # Not WAL: its shared memory is a file, and a process ends that finds it cut by another.
            db.execute("pragma journal_mode = persist")
            db.execute("pragma synchronous = off")
        return db

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), self._identity)
        except FileNotFoundError:
            return False

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        try:
            if db.execute("pragma user_version").fetchone()[0] != FORMAT:
                return False
            # Never synced: what a machine leaves that went down may be anything.
            return bool(db.execute("select boot from meta").fetchone() == (boot_id(),))
        except sqlite3.DatabaseError:
            return False

    def _make(self, db: sqlite3.Connection) -> None:
        # One transaction, or whoever comes after a kill would find half of it.
        db.executescript(f"begin; {_SCHEMA}")
        db.execute(f"pragma user_version = {FORMAT}")
        db.execute("insert into meta values (?, ?)", (boot_id(), self._limit))
        self._look_through(db)
        db.execute("commit")

    def _remove(self) -> None:
        for suffix in ("", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _look_through(self, db: sqlite3.Connection) -> None:
        """Make the tables say what the cache files say; the order stays where it is known."""
        known = {row[0]: row[1:] for row in db.execute("select name, queue, used, place from segments")}
        db.execute("delete from segments")
        db.execute("delete from pins")
        for raw_key in self._pin_files():
            version, key = version_id(raw_key), FileKey.decoded(raw_key)
            db.execute("insert into pins values (?, ?)", (version, full_cost(key)))
        pinned = {row[0] for row in db.execute("select version from pins")}
        for found in sorted(segments_in(self._blocks), key=lambda found: found.mtime_ns):
            if found.layout is None:
                remove_segment(found.path)
                continue
            layout = found.layout
            queue, used, place = known.get(layout.name) or (NEW, 0, None)
            if layout.version in pinned:
                queue = PINNED
            elif queue == PINNED:
                queue = MAIN
            place = _next_place(db, queue) if place is None else place
            db.execute(
                "insert into segments values (?, ?, ?, ?, ?, ?, ?)",
                (layout.name, layout.version, found.slots, layout.cost(found.slots), queue, used, place),
            )
        for queue in (NEW, MAIN, PINNED):
            db.execute(
                "update totals set bytes = (select coalesce(sum(bytes), 0) from segments where queue = ?1)"
                " where queue = ?1",
                (queue,),
            )

    def _pin_files(self) -> Iterable[bytes]:
        for path in self._pins.iterdir():
            raw_key = path.read_bytes()
            with suppress(ValueError):
                FileKey.decoded(raw_key)
                if path.name == version_id(raw_key).hex():
                    yield raw_key

    # --- beginning -----------------------------------------------------------------------------

    def begin(self, presence: int) -> None:
        """Take the limit as given. Who has the files to himself looks what is really there: processes
        that were killed leave room booked that they never used.

        Args:
            presence: descriptor of a file that all who use the cache lock.
        """

        def work(db: sqlite3.Connection) -> None:
            try:
                fcntl.flock(presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._look_through(db)
            # Nobody locks it for himself but in his turn, so this does not wait.
            fcntl.flock(presence, fcntl.LOCK_SH)
            if self._limit < NO_LIMIT:
                db.execute("update meta set size_limit = ?", (self._limit,))

        self._run(work, _LOOK_S)
        while not self._run(lambda db: self._make_room(db, 0, b"") or not self._evict(db, b""), _LOOK_S):
            pass

    # --- room ----------------------------------------------------------------------------------

    def reserve(self, layout: Layout, slot: int, touched: Collection[bytes] = ()) -> bool:
        """Book the room of one block and make its cache file where there is none; False: no room.

        A block that has its room already needs none.

        Args:
            touched: names of segments that were used again.
        """
        name, bit = layout.name, 1 << slot

        def work(db: sqlite3.Connection) -> bool:
            _touch(db, touched)
            row = db.execute("select slots, bytes, queue from segments where name = ?", (name,)).fetchone()
            slots, held, queue = row or (0, 0, None)
            if slots & bit:
                return True
            cost = layout.cost(slots | bit)
            if not self._make_room(db, cost - held, name):
                return False
            if queue is None:
                make_segment(self.path_of(layout), layout)
                queue = self._first_queue(db, layout)
                db.execute(
                    "insert into segments values (?, ?, ?, ?, ?, 0, ?)",
                    (name, layout.version, bit, cost, queue, _next_place(db, queue)),
                )
            else:
                db.execute(
                    "update segments set slots = ?, bytes = ? where name = ?", (slots | bit, cost, name)
                )
            _add(db, queue, cost - held)
            return True

        return self._run(work)

    def _first_queue(self, db: sqlite3.Connection, layout: Layout) -> int:
        if db.execute("select 1 from pins where version = ?", (layout.version,)).fetchone():
            return PINNED
        came_back = db.execute("delete from gone where name = ?", (layout.name,)).rowcount
        return MAIN if came_back else NEW

    def _overhead(self) -> int:
        """What the catalogue itself takes; bytes."""
        taken = 0
        for path in (self._path, self._path.with_name(self._path.name + "-journal"), self._blocks):
            with suppress(FileNotFoundError):
                taken += path.stat().st_blocks * 512
        # The small files and directories beside it, and what this transaction may add.
        return taken + (64 << 10)

    def _make_room(self, db: sqlite3.Connection, need: int, keep: bytes) -> bool:
        """Evict until `need` bytes more are within the limit and above the floor."""
        total = int(db.execute("select sum(bytes) from totals").fetchone()[0])
        missing = max(total + self._overhead() + need - self._limit, self._floor + need - self._free_bytes())
        for _ in range(_MOST_EVICTED):
            if missing <= 0:
                return True
            freed = self._evict(db, keep)
            if not freed:
                return False
            missing -= freed
        return missing <= 0

    def _evict(self, db: sqlite3.Connection, keep: bytes) -> int:
        """Remove the next segment but `keep`; the bytes that this freed, 0: none may go."""
        for moved in range(_MOST_MOVED):
            new, main = (_total(db, queue) for queue in (NEW, MAIN))
            queues = (NEW, MAIN) if new * NEW_SHARE > self._limit or not main else (MAIN, NEW)
            row = _oldest(db, queues[0], keep) or _oldest(db, queues[1], keep)
            if row is None:
                return 0
            name, held, queue, used = row
            # So many in use again: go on as if they were not, others wait for their turn.
            if used and moved < _MOST_MOVED // 2:
                _move(db, name, held, queue, MAIN, used - 1 if queue == MAIN else 0)
                continue
            try:
                remove_segment(self._blocks / name.hex())
            except OSError:
                _move(db, name, held, queue, queue, 0)  # perhaps the next time
                continue
            _delete(db, name, held, queue)
            if queue == NEW:
                self._remember(db, name)
            return int(held)
        return 0

    def _remember(self, db: sqlite3.Connection, name: bytes) -> None:
        """That a segment went; as many as fit the cache are remembered."""
        place = db.execute("insert or replace into gone (name) values (?)", (name,)).lastrowid or 0
        most = max(4, self._limit // (SEGMENT_BLOCKS * BLOCK_SIZE))
        db.execute("delete from gone where place <= ?", (place - most,))

    def touch(self, names: Collection[bytes]) -> None:
        """These segments were used again; a reader tells, so this does not wait for long."""
        self._run(lambda db: _touch(db, names), _TOUCH_WAIT_S)

    # --- removal -------------------------------------------------------------------------------

    def forget(self, layout: Layout) -> None:
        """There is no such cache file, or none that is whole."""
        name = layout.name

        def work(db: sqlite3.Connection) -> None:
            remove_segment(self.path_of(layout))
            self._forget(db, "name = ?", name)

        self._run(work)

    def forget_file(self, path: Path) -> None:
        """Remove a worthless cache file."""

        def work(db: sqlite3.Connection) -> None:
            remove_segment(path)
            with suppress(ValueError):
                self._forget(db, "name = ?", bytes.fromhex(path.name))

        self._run(work)

    def drop(self, version: bytes) -> None:
        """Remove everything of a version, its pin included."""

        def work(db: sqlite3.Connection) -> None:
            self._unpin(db, version)
            self._forget(db, "version = ?", version)

        self._run(work)

    def clear(self) -> int:
        """Remove everything, pins included; the bytes that were held."""

        def work(db: sqlite3.Connection) -> int:
            held = db.execute("select sum(bytes) from totals").fetchone()[0]
            for path in (*self._blocks.iterdir(), *self._pins.iterdir()):
                with suppress(IsADirectoryError):  # not ours
                    remove_segment(path)
            for table in ("segments", "pins", "gone"):
                db.execute(f"delete from {table}")  # noqa: S608
            db.execute("update totals set bytes = 0")
            return int(held)

        return self._run(work)

    def _forget(self, db: sqlite3.Connection, where: str, what: bytes) -> None:
        query = f"select name, bytes, queue from segments where {where}"  # noqa: S608
        for name, held, queue in db.execute(query, (what,)).fetchall():
            remove_segment(self._blocks / name.hex())
            _delete(db, name, held, queue)

    # --- pins ----------------------------------------------------------------------------------

    def pin(self, key: FileKey) -> bool:
        """Keep what there is and will be of a version; False: the whole of it would not fit."""
        raw_key, cost = key.encoded(), full_cost(key)
        version = version_id(raw_key)

        def work(db: sqlite3.Connection) -> bool:
            if db.execute("select 1 from pins where version = ?", (version,)).fetchone():
                return True
            pinned = db.execute("select coalesce(sum(bytes), 0) from pins").fetchone()[0]
            held = db.execute(
                "select coalesce(sum(bytes), 0) from segments where version = ?", (version,)
            ).fetchone()[0]
            evictable = _total(db, NEW) + _total(db, MAIN) - held
            if pinned + cost + self._overhead() > self._limit:
                return False
            if cost - held > self._free_bytes() - self._floor + evictable:
                return False
            # The file is the pin: the catalogue may be lost. All or nothing, by its name.
            path = self._pins / version.hex()
            path.with_suffix(".new").write_bytes(raw_key)
            path.with_suffix(".new").replace(path)
            db.execute("insert into pins values (?, ?)", (version, cost))
            self._requeue(db, version, PINNED)
            return True

        return self._run(work)

    def unpin(self, key: FileKey) -> None:
        """Let a version be evicted again."""
        version = version_id(key.encoded())
        self._run(lambda db: self._unpin(db, version))

    def _unpin(self, db: sqlite3.Connection, version: bytes) -> None:
        (self._pins / version.hex()).unlink(missing_ok=True)
        if db.execute("delete from pins where version = ?", (version,)).rowcount:
            self._requeue(db, version, MAIN)

    def _requeue(self, db: sqlite3.Connection, version: bytes, queue: int) -> None:
        query = "select name, bytes, queue from segments where version = ?"
        for name, held, old in db.execute(query, (version,)).fetchall():
            _move(db, name, held, old, queue, 0)

    def pinned(self) -> list[FileKey]:
        """All pinned versions."""
        return self._run(lambda db: [FileKey.decoded(raw_key) for raw_key in self._pin_files()])

    # --- looking -------------------------------------------------------------------------------

    def capacity(self) -> int:
        """Bytes that may be held beside what is pinned, if everything else went."""

        def work(db: sqlite3.Connection) -> int:
            held = int(db.execute("select sum(bytes) from totals").fetchone()[0])
            pinned = int(db.execute("select coalesce(sum(bytes), 0) from pins").fetchone()[0])
            most = min(self._limit - self._overhead(), held + self._free_bytes() - self._floor)
            return max(0, most - pinned)

        return self._run(work)

    def usage(self) -> Usage:
        """How much is booked."""

        def work(db: sqlite3.Connection) -> Usage:
            total = db.execute("select sum(bytes) from totals").fetchone()[0]
            files = db.execute("select count(distinct version) from segments").fetchone()[0]
            limit = self._limit
            if limit == NO_LIMIT:
                limit = int(db.execute("select size_limit from meta").fetchone()[0])
            return Usage(total, limit, files, _total(db, PINNED))

        return self._run(work)


def full_cost(key: FileKey) -> int:
    """Bytes of disk for all blocks of a version."""
    segment = SEGMENT_BLOCKS * BLOCK_SIZE
    size = key.validator.size
    if not size:
        return 0
    last = Layout.of(key, (size - 1) // segment)
    whole = Layout.of(key, 0)
    every = (1 << SEGMENT_BLOCKS) - 1
    return whole.cost(every) * ((size - 1) // segment) + last.cost(every)


def _total(db: sqlite3.Connection, queue: int) -> int:
    return int(db.execute("select bytes from totals where queue = ?", (queue,)).fetchone()[0])


def _next_place(db: sqlite3.Connection, queue: int) -> int:
    last = db.execute("select max(place) from segments where queue = ?", (queue,)).fetchone()[0]
    return int(last or 0) + 1


def _oldest(db: sqlite3.Connection, queue: int, keep: bytes) -> tuple[bytes, int, int, int] | None:
    row: tuple[bytes, int, int, int] | None = db.execute(
        "select name, bytes, queue, used from segments where queue = ? and name != ? order by place limit 1",
        (queue, keep),
    ).fetchone()
    return row


def _add(db: sqlite3.Connection, queue: int, count: int) -> None:
    db.execute("update totals set bytes = bytes + ? where queue = ?", (count, queue))


def _move(db: sqlite3.Connection, name: bytes, held: int, old: int, queue: int, used: int) -> None:
    """To the end of a queue."""
    place = _next_place(db, queue)
    db.execute(
        "update segments set queue = ?, used = ?, place = ? where name = ?", (queue, used, place, name)
    )
    _add(db, old, -held)
    _add(db, queue, held)


def _delete(db: sqlite3.Connection, name: bytes, held: int, queue: int) -> None:
    db.execute("delete from segments where name = ?", (name,))
    _add(db, queue, -held)


def _touch(db: sqlite3.Connection, names: Collection[bytes]) -> None:
    if names:
        rows = [(MOST_USED, name) for name in names]
        db.executemany("update segments set used = min(used + 1, ?) where name = ?", rows)
