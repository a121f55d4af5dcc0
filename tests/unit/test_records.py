"""The records' file: whose it is, what may be wrong with it, and two mounts at once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from vfsmount.errors import LocalIOError, RecordsFull
from vfsmount.store.records import SCHEMA_VERSION, AttrRecord, Records
from vfsmount.values import Kind, LocalAttrs, Validator

FOLDER = "f" * 32
RECORD = AttrRecord(
    b"n", Kind.FILE, Validator(7, 9), LocalAttrs(mode=0o600, xattrs=((b"user.a", b"\0\xff"),))
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


def names(records: list[AttrRecord]) -> set[bytes]:
    return {r.name for r in records}


async def test_records_outlive_their_object(file: Path) -> None:
    with closing(Records(file)) as records:
        await records.put(FOLDER, b"d/e", RECORD)
    with closing(Records(file)) as records:
        assert await records.read_directory(FOLDER, b"d/e") == [RECORD]


async def test_records_outlive_a_process_that_never_closed_them(file: Path) -> None:
    dead = Records(file)
    await dead.put(FOLDER, b"", RECORD)
    with closing(Records(file)) as records:
        assert await records.read_directory(FOLDER, b"") == [RECORD]
    dead.close()


async def test_nobody_else_may_read_them(file: Path) -> None:
    with closing(Records(file)) as records:
        await records.put(FOLDER, b"", RECORD)
        made = list(file.parent.iterdir())
        assert file in made
        assert {p.name: p.stat().st_mode & 0o777 for p in made} == {p.name: 0o600 for p in made}


@pytest.mark.parametrize("content", [b"no database, but long enough to be one" * 40, b"\xff" * 4096])
def test_file_that_is_no_database_is_refused_and_left_alone(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(LocalIOError, match=r"records\.sqlite cannot be used.*move the file away"):
        Records(file)
    assert file.read_bytes() == content


def test_directory_in_the_way_is_refused(file: Path) -> None:
    file.mkdir()
    with pytest.raises(LocalIOError, match="cannot be used"):
        Records(file)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_database_of_another_version_is_refused_and_left_alone(file: Path, version: int) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("create table of_the_future (x)")
        db.execute(f"pragma user_version = {version}")
    with pytest.raises(LocalIOError, match="written by another version of vfsmount"):
        Records(file)
    with closing(sqlite3.connect(file)) as db:
        assert [r[0] for r in db.execute("select name from sqlite_master")] == ["of_the_future"]
        assert db.execute("pragma user_version").fetchone() == (version,)


async def test_two_mounts_see_and_keep_each_others_records(file: Path) -> None:
    with closing(Records(file)) as one, closing(Records(file)) as other:

        async def put(records: Records, prefix: str) -> None:
            for n in range(40):
                name = f"{prefix}{n}".encode()
                await records.put(FOLDER, b"d", AttrRecord(name, Kind.FILE, None, LocalAttrs(mode=n)))

        async with trio.open_nursery() as nursery:
            for prefix in "abc":
                nursery.start_soon(put, one, prefix)
                nursery.start_soon(put, other, prefix.upper())
        everything = {f"{p}{n}".encode() for p in "abcABC" for n in range(40)}
        assert names(await one.read_directory(FOLDER, b"d")) == everything
        assert names(await other.read_directory(FOLDER, b"d")) == everything


async def test_mounts_that_start_at_once_make_one_database(file: Path) -> None:
    opened: list[Records] = []

    async def start() -> None:
        opened.append(await trio.to_thread.run_sync(Records, file))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(start)
    for n, records in enumerate(opened):
        await records.put(FOLDER, b"", AttrRecord(b"%d" % n, Kind.FIFO, None, LocalAttrs()))
    assert names(await opened[0].read_directory(FOLDER, b"")) == {b"%d" % n for n in range(8)}
    for records in opened:
        records.close()


async def test_rename_that_cannot_be_finished_changes_nothing(file: Path) -> None:
    with closing(Records(file)) as records:
        for parent, name in ((b"", b"old"), (b"old", b"in it"), (b"", b"new")):
            await records.put(FOLDER, parent, AttrRecord(name, Kind.DIRECTORY, None, LocalAttrs(mode=0o700)))
        with closing(sqlite3.connect(file)) as db:
            db.execute(
                "create trigger full before update on attributes when old.parent = cast('old' as blob)"
                " begin select raise(abort, 'disk full'); end"
            )
        with pytest.raises(LocalIOError, match="disk full"):
            await records.rename(FOLDER, b"", b"old", b"", b"new")
        assert names(await records.read_directory(FOLDER, b"")) == {b"old", b"new"}
        assert names(await records.read_directory(FOLDER, b"old")) == {b"in it"}


@pytest.mark.parametrize(
    ("column", "value"), [("attrs", b"\xc1"), ("attrs", b"\x81\xa4mode\xa1x"), ("kind", "x")]
)
async def test_row_that_cannot_be_understood_is_a_local_error(file: Path, column: str, value: object) -> None:
    with closing(Records(file)) as records:
        await records.put(FOLDER, b"", RECORD)
        with closing(sqlite3.connect(file)) as db, db:
            db.execute(f"update attributes set {column} = ?", (value,))
        with pytest.raises(LocalIOError, match="cannot be used"):
            await records.read_directory(FOLDER, b"")
        await records.put(FOLDER, b"", RECORD)
        assert await records.read_directory(FOLDER, b"") == [RECORD]


async def test_database_that_was_full_or_locked_for_a_while_works_again(file: Path) -> None:
    with closing(Records(file)) as records:
        await records.put(FOLDER, b"", RECORD)
        pages = records._database.connection.execute("pragma page_count").fetchone()[0]
        records._database.connection.execute(f"pragma max_page_count = {pages}")
        big = AttrRecord(b"big", Kind.FILE, None, LocalAttrs(xattrs=((b"user.big", bytes(60_000)),)))
        with pytest.raises(RecordsFull, match="full"):
            await records.put(FOLDER, b"", big)
        records._database.connection.execute("pragma max_page_count = 100000")
        await records.put(FOLDER, b"", big)
        assert await records.read_directory(FOLDER, b"") == [big, RECORD]
