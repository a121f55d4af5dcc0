"""What one mount left, the next one sends: all that was acknowledged, and nothing that may be torn."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.support.disks import contents
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.sending import (
    LONG,
    MIB,
    REQUEST,
    all_sent,
    background,
    kept_beside,
    replace,
    uploads_of,
    write_and_travel,
)
from tests.support.vfs import release, stall, until
from vfsmount.store.staged import StagedDetail
from vfsmount.vfs.staged import staged_of


def edit_rows(state_dir: Path, **changes: Any) -> None:
    """Have the records say something else of every unsent file."""
    with closing(sqlite3.connect(state_dir / "records.sqlite")) as db, db:
        for row_id, raw in db.execute("select id, detail from staged").fetchall():
            detail = msgspec.structs.replace(msgspec.msgpack.decode(raw, type=StagedDetail), **changes)
            db.execute("update staged set detail = ? where id = ?", (msgspec.msgpack.encode(detail), row_id))


def details(state_dir: Path) -> Iterator[StagedDetail]:
    with closing(sqlite3.connect(state_dir / "records.sqlite")) as db:
        for (raw,) in db.execute("select detail from staged").fetchall():
            yield msgspec.msgpack.decode(raw, type=StagedDetail)


def forget_what_was_synced(state_dir: Path) -> None:
    with closing(sqlite3.connect(state_dir / "records.sqlite")) as db, db:
        db.execute("delete from durable")


def is_durable(state_dir: Path) -> bool:
    """Whether everything that was acknowledged is written down to survive a power cut."""
    with closing(sqlite3.connect(state_dir / "records.sqlite")) as db:
        (acknowledged,) = db.execute("select max(seq) from staged").fetchone()
        return bool(db.execute("select 1 from durable where seq >= ?", (acknowledged,)).fetchall())


def set_aside(state_dir: Path) -> list[bytes]:
    return list(contents(state_dir / "unsent").values())


@pytest.mark.usefixtures("expect_warnings")
async def test_what_one_mount_left_the_next_one_sends(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "replaced").write_bytes(b"old")
    async with background(both, tmp_path) as d:
        assert await d.read(f"{name}/replaced") == b"old"
        await d.mkdir(f"{name}/dir")
        stall(both, "POST", REQUEST, times=None)
        for path in ("dir/f", "replaced", "empty"):
            await d.write(f"{name}/{path}", path.encode() if path != "empty" else b"")
        await d.write(f"{name}/a", b"renamed")
        await d.rename(f"{name}/a", f"{name}/b")
        await d.write(f"{name}/gone", b"x")
        await d.unlink(f"{name}/gone")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_sent(d)
    expected = {"dir/f": b"dir/f", "replaced": b"replaced", "empty": b"", "b": b"renamed"}
    assert contents(disk) == expected
    async with background(both, tmp_path) as d:  # once is enough
        assert d.fs.unsent() == []
    assert list((tmp_path / "staging").iterdir()) == [] and set_aside(tmp_path) == []


@pytest.mark.usefixtures("expect_warnings")
async def test_upload_goes_on_in_the_next_mount_where_it_stopped(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    data = os.urandom(40 * MIB)
    async with background(both, tmp_path) as d:
        cut = {"action": "cut_up", "half": "storage", "method": "PATCH", "after_bytes": 5 * MIB}
        silent = {"action": "stall", "half": "storage", "method": "HEAD", "times": None}
        both.faults({"rules": [cut, silent]})
        await d.write(f"{name}/f", data)
        await until(lambda: both.count("HEAD", "/upload") == 1)
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {"f": data}
    came = uploads_of(both, "f")
    assert came["sessions"] == 1 and came["bytes"] <= len(data) + 16 * MIB


@pytest.mark.usefixtures("expect_warnings")
async def test_what_was_appended_and_not_closed_does_not_spoil_what_was(
    both: Embedded, tmp_path: Path
) -> None:
    """The first part travels, more is written behind it, and the mount dies."""
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        await write_and_travel(d, both, f"{name}/f")
        fh = await d.open(f"{name}/f", os.O_WRONLY | os.O_APPEND)
        await d.fs.write(fh, len(LONG), b"not closed")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {"f": LONG}


@pytest.mark.usefixtures("expect_warnings")
async def test_rewrite_that_was_not_closed_leaves_what_was_closed_before(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "POST", REQUEST, times=None)
        await d.write(f"{name}/f", b"closed")
        fh = await d.open(f"{name}/f", os.O_RDWR | os.O_TRUNC)
        await d.fs.write(fh, 0, b"half")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {"f": b"closed"}
    assert set_aside(tmp_path) == [b"half"]


@pytest.mark.usefixtures("expect_warnings")
async def test_synced_and_not_closed_is_one_version_for_the_next_mount(
    both: Embedded, tmp_path: Path
) -> None:
    """Who opens it after the crash, and dies halfway in turn, has changed nothing."""
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        await write_and_travel(d, both, f"{name}/f")
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 0, b"synced")
        await d.fs.fsync(fh)
        await d.fs.write(fh, 6, b", later")
    now = b"synced, later" + LONG[13:]
    async with background(both, tmp_path) as d:
        assert await d.read(f"{name}/f") == now
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 0, b"TORN")
        await d.fs.write(fh, len(LONG), b" and longer")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        assert await d.read(f"{name}/f") == now
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {"f": now}


@pytest.mark.usefixtures("expect_warnings")
async def test_what_was_appended_after_an_fsync_is_part_of_what_is_found(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "POST", REQUEST, times=None)
        fh = await d.create(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 0, b"synced")
        await d.fs.fsync(fh)
        await d.fs.write(fh, 6, b", appended")
    async with background(both, tmp_path) as d:
        assert await d.read(f"{name}/f") == b"synced, appended"
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 0, b"S")  # to a clone
        await d.close(fh)
        assert await d.read(f"{name}/f") == b"Synced, appended"
        both.clear_faults()
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {"f": b"Synced, appended"}


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize("how", ["fsync", "close"])
async def test_part_of_a_large_file_that_was_changed_comes_to_the_whole_of_it(
    both: Embedded, tmp_path: Path, how: str
) -> None:
    """What is here is one byte; the rest of the file is the server's."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(LONG)
    async with background(both, tmp_path, deadline_s=2.0) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        both.faults({"rules": [{"action": "status", "half": "storage", "path": "/", "times": None}]})
        await d.fs.write(fh, 7, b"!")
        await (d.fs.fsync(fh) if how == "fsync" else d.close(fh))
    assert [x.written for x in details(tmp_path)] == [((7, 8),)]
    both.clear_faults()
    async with background(both, tmp_path) as d:
        assert (await d.stat(f"{name}/f")).size == len(LONG)
        await all_sent(d)
    assert contents(disk) == {"f": LONG[:7] + b"!" + LONG[8:]}


async def test_row_whose_content_is_gone_is_reported(
    both: Embedded, tmp_path: Path, expect_warnings: list[Any]
) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "POST", REQUEST, times=None)
        for n in ("lost", "kept"):
            await d.write(f"{name}/{n}", n.encode())
        staged = staged_of(d.node((await d.stat(f"{name}/lost")).ino))
        staged.content.path.unlink()
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_sent(d)
        assert await d.names(name) == ["kept"]
    assert contents(both.folder_dir(folder)) == {"kept": b"kept"}
    (lost,) = [r.getMessage() for r in expect_warnings if "recovery.lost" in r.getMessage()]
    assert f"{name}/lost" in lost


@pytest.mark.usefixtures("expect_warnings")
async def test_content_that_a_power_cut_may_have_torn_is_not_sent(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "POST", REQUEST, times=None)
        await d.write(f"{name}/f", b"who knows")
    both.clear_faults()
    edit_rows(tmp_path, boot="before", durable=False)
    forget_what_was_synced(tmp_path)
    async with background(both, tmp_path) as d:
        assert d.fs.unsent() == [] and await d.names(name) == []
    assert contents(both.folder_dir(folder)) == {}
    assert set_aside(tmp_path) == [b"who knows"]


@pytest.mark.parametrize("by", ["time", "fsync of a directory"])
@pytest.mark.usefixtures("expect_warnings")
async def test_what_was_synced_before_a_power_cut_survives_the_next_crash_too(
    both: Embedded, tmp_path: Path, by: str
) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "POST", REQUEST, times=None)
        await d.write(f"{name}/f", b"synced")
        if by == "time":
            await until(lambda: is_durable(tmp_path))
        else:
            await d.fs.fsyncdir()
            assert is_durable(tmp_path)
    edit_rows(tmp_path, boot="before", durable=False)
    async with background(both, tmp_path) as d:
        assert [u.name for u in d.fs.unsent()] == [f"{name}/f"]
    forget_what_was_synced(tmp_path)  # it died before it had synced anything
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {"f": b"synced"}
    assert set_aside(tmp_path) == []


@pytest.mark.parametrize("overwritten", [False, True])
@pytest.mark.usefixtures("expect_warnings")
async def test_mount_that_dies_right_after_it_has_sent_something(
    both: Embedded, tmp_path: Path, overwritten: bool
) -> None:
    """The next one has the second look that the dead one owed."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path, settle_s=60.0) as d:
        await d.write(f"{name}/f", b"ours")
        await d.fs.wait()
    if overwritten:
        replace(disk / "f", b"them")
    async with background(both, tmp_path) as d:
        await all_sent(d)
    files = contents(disk)
    assert kept_beside(files, "f") == ([b"ours"] if overwritten else [])
    assert files["f"] == (b"them" if overwritten else b"ours")
    assert list(details(tmp_path)) == []


@pytest.mark.usefixtures("expect_warnings")
async def test_older_version_that_arrived_as_we_died_is_known_for_ours(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is written down that the server has it, what was sent stays here to be compared with."""
    name, folder = fresh(both)
    dying = trio.Event()

    async def never_written(*_: object, **__: object) -> None:
        dying.set()
        await trio.sleep_forever()

    async with background(both, tmp_path) as d:
        await write_and_travel(d, both, f"{name}/f")
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 0, b"newer")
        await d.fs.fsync(fh)
        release(both)
        with monkeypatch.context() as patch:
            patch.setattr(d.fs.parts.recorder._rows, "update", never_written)
            with trio.fail_after(20):
                await dying.wait()
            # The process is killed here.
    assert contents(both.folder_dir(folder)) == {"f": LONG}
    async with background(both, tmp_path) as d:
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {"f": b"newer" + LONG[5:]}
