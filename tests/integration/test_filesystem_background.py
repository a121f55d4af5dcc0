"""Closes that are acknowledged here, and sent behind: nothing is lost, torn or sent under a wrong name."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import contents
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.sending import (
    DELETE,
    LONG,
    MIB,
    REQUEST,
    REQUESTED,
    all_sent,
    background,
    deletions,
    patches,
    replace,
    rewrite,
    staging_files,
    uploads_of,
    write_and_travel,
)
from tests.support.vfs import release, stall, until
from vfsmount.core.staging import State
from vfsmount.errors import NoSpace, PermissionDenied, VfsError
from vfsmount.values import Folder, RangeReply
from vfsmount.vfs.staged import OPEN_REST_S, staged_of

# --- closing -------------------------------------------------------------------------------------


async def test_close_does_not_wait_for_the_server(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    files = {f"f{i}": b"%d" % i for i in range(5)}
    async with background(both, tmp_path) as d:
        await d.names(name)
        stall(both, "POST", REQUEST, times=None)
        for n, data in files.items():
            await d.write(f"{name}/{n}", data)
        assert contents(both.folder_dir(folder)) == {}
        assert {u.name for u in d.fs.unsent()} == {f"{name}/{n}" for n in files}
        assert await d.names(name) == sorted(files)
        for n, data in files.items():
            assert await d.read(f"{name}/{n}") == data
        both.clear_faults()
        await all_sent(d)
        assert contents(both.folder_dir(folder)) == files
        assert d.fs.unsent() == []
        await until(lambda: staging_files(d) == [])


async def test_files_travel_side_by_side(both: Embedded, tmp_path: Path) -> None:
    """As many as may have a request with content open, and others beside them that do not yet."""
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        both.reset_calls()
        stall(both, "PATCH", "/upload", times=None)
        for i in range(6):
            await d.write(f"{name}/f{i}", b"x")
        await until(lambda: patches(both) == 4 and both.count("POST", REQUESTED) == 6)
        both.clear_faults()
        await all_sent(d)
        assert len(contents(both.folder_dir(folder))) == 6


async def test_fsync_remote_waits_for_the_server_and_close_does_not(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path, fsync_remote=True) as d:
        fh = await d.create(f"{name}/f")
        await d.fs.write(fh, 0, b"synced")
        await d.fs.fsync(fh)
        assert contents(disk) == {"f": b"synced"}
        stall(both, "POST", REQUEST, times=None)
        await d.fs.write(fh, 6, b" and closed")
        await d.close(fh)
        assert contents(disk) == {"f": b"synced"}
        both.clear_faults()
        await all_sent(d)
        assert contents(disk) == {"f": b"synced and closed"}


async def test_what_fsync_put_on_the_disk_stays_durable_when_it_is_closed(
    both: Embedded, tmp_path: Path
) -> None:
    name, _ = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "POST", REQUEST, times=None)
        fh = await d.create(f"{name}/f")
        await d.fs.write(fh, 0, b"x")
        await d.fs.fsync(fh)
        node = d.node(d.fs.ino_of(fh))
        await d.close(fh)
        detail = staged_of(node).detail
        assert detail is not None and detail.durable and detail.sealed
        both.clear_faults()
        await all_sent(d)


# --- writing to what travels ---------------------------------------------------------------------


async def test_newer_version_follows_the_one_that_travels(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path) as d:
        fh = await d.create(f"{name}/f")
        stall(both, "PATCH", "/upload")
        await rewrite(d, fh, LONG)
        await d.close(fh)
        await until(lambda: patches(both) == 1)
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 5, b"changed")
        release(both)
        await until(lambda: (disk / "f").exists())
        assert (disk / "f").read_bytes() == LONG
        await d.close(fh)
        await all_sent(d)
        assert contents(disk) == {"f": LONG[:5] + b"changed" + LONG[12:]}
        assert uploads_of(both, "f") | {"patches": 0} == {"bytes": 2 * len(LONG), "patches": 0, "sessions": 2}


async def test_appending_to_what_travels_copies_nothing(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "PATCH", "/upload")
        await d.write(f"{name}/f", b"1" * 1000)
        await until(lambda: patches(both) == 1)
        fh = await d.open(f"{name}/f", os.O_WRONLY | os.O_APPEND)
        await d.fs.write(fh, 1000, b"2")
        assert len(staging_files(d)) == 1
        await d.fs.write(fh, 0, b"3")  # not an append: what travels stays as it is
        assert len(staging_files(d)) == 2
        await d.close(fh)
        release(both)
        await all_sent(d)
        assert contents(both.folder_dir(folder)) == {"f": b"3" + b"1" * 999 + b"2"}


async def test_file_that_keeps_changing_is_not_sent_every_time(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    times = 30
    async with background(both, tmp_path) as d:
        for i in range(times):
            await d.write(f"{name}/log", b"x" * i)
        await until(lambda: (disk / "log").exists())
        node = d.node((await d.stat(f"{name}/log")).ino)
        await all_sent(d)
        assert contents(disk) == {"log": b"x" * (times - 1)}
        assert uploads_of(both, "log")["sessions"] < times / 3
        assert node.staged is None


async def test_close_that_overtakes_the_end_of_an_upload_is_not_taken_for_sent(
    both: Embedded, tmp_path: Path
) -> None:
    """Both write the row; whoever comes second must not undo what the first one said."""
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        stall(both, "PATCH", "/upload")
        await d.write(f"{name}/f", b"first")
        await until(lambda: patches(both) == 1)
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 0, b"newer")
        node = d.node(d.fs.ino_of(fh))
        lock = staged_of(node).row_lock
        async with trio.open_nursery() as nursery, lock:
            nursery.start_soon(d.close, fh)
            await until(lambda: lock.statistics().tasks_waiting == 1)
            release(both)
            await until(lambda: lock.statistics().tasks_waiting == 2)
            stall(both, "POST", REQUEST, times=None)
        await until(lambda: staged_of(node).session is None)
        detail = staged_of(node).detail
        assert detail is not None and detail.state is State.WAITING
        both.clear_faults()
        await all_sent(d)
        assert contents(both.folder_dir(folder)) == {"f": b"newer"}


# --- names that change while content travels -----------------------------------------------------


async def test_rename_of_what_travels_leaves_the_new_name_only(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        await write_and_travel(d, both, f"{name}/a")
        await d.rename(f"{name}/a", f"{name}/b")
        assert await d.names(name) == ["b"]
        both.clear_faults()
        await all_sent(d)
        assert contents(both.folder_dir(folder)) == {"b": LONG}


@pytest.mark.parametrize("size", [7, len(LONG)])
async def test_unlink_of_what_travels_leaves_nothing(both: Embedded, tmp_path: Path, size: int) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        await write_and_travel(d, both, f"{name}/a", LONG[:size])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.unlink, f"{name}/a")
            await until(lambda: bool(d.fs._gate._moving) or d.fs.node_at(f"{name}/a".encode()) is None)
            release(both)
        assert await d.names(name) == []
        await all_sent(d)
        assert contents(both.folder_dir(folder)) == {}
        await d.look_again(name)
        assert await d.names(name) == []
        await until(lambda: staging_files(d) == [])


@pytest.mark.parametrize("size", [7, len(LONG)])
async def test_temporary_file_that_travels_is_renamed_over_its_target(
    both: Embedded, tmp_path: Path, size: int
) -> None:
    """As editors save: the target is there at every moment, old or new, and nothing else is left."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"old")
    async with background(both, tmp_path) as d:
        assert await d.read(f"{name}/f") == b"old"
        await write_and_travel(d, both, f"{name}/.f.tmp", LONG[:size])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.rename, f"{name}/.f.tmp", f"{name}/f")
            await until(lambda: bool(d.fs._gate._moving) or len(d.fs.unsent()) == 1)
            release(both)
        assert await d.read(f"{name}/f") == LONG[:size]
        assert (disk / "f").read_bytes() in (b"old", LONG[:size])
        await all_sent(d)
        assert contents(disk) == {"f": LONG[:size]}
        assert await d.names(name) == ["f"]


async def test_rename_over_what_travels(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path) as d:
        await d.write(f"{name}/new", b"new")
        await all_sent(d)
        await write_and_travel(d, both, f"{name}/f")
        await d.rename(f"{name}/new", f"{name}/f")
        both.clear_faults()
        await all_sent(d)
        assert contents(disk) == {"f": b"new"}
        assert await d.read(f"{name}/f") == b"new"


async def test_directory_is_renamed_while_files_below_it_travel_and_wait(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        await d.mkdir(f"{name}/dir")
        await d.mkdir(f"{name}/dir/sub")
        await write_and_travel(d, both, f"{name}/dir/travels")
        stall(both, "POST", REQUEST, times=None)
        await d.write(f"{name}/dir/sub/waits", b"waits")
        await d.rename(f"{name}/dir", f"{name}/moved")
        assert sorted(u.name for u in d.fs.unsent()) == [f"{name}/moved/sub/waits", f"{name}/moved/travels"]
        both.clear_faults()
        await all_sent(d)
        disk = both.folder_dir(folder)
        assert contents(disk) == {"moved/travels": LONG, "moved/sub/waits": b"waits"}
        assert not (disk / "dir").exists()


# --- removing ------------------------------------------------------------------------------------


async def test_name_is_made_anew_while_its_removal_is_under_way(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"old")
    async with background(both, tmp_path) as d:
        await d.names(name)
        both.reset_calls()
        stall(both, "", DELETE)
        await d.unlink(f"{name}/f")
        await until(lambda: deletions(both) == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.write, f"{name}/f", b"new")
            await until(lambda: bool(d.fs._removals._wanted))
            release(both)
        await all_sent(d)
        assert contents(disk) == {"f": b"new"}
        assert await d.read(f"{name}/f") == b"new"


async def test_removed_names_are_gone_at_once_and_cost_few_calls(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    count = 600
    for i in range(count):
        (disk / f"f{i}").touch()
    async with background(both, tmp_path) as d:
        names = await d.names(name)
        both.reset_calls()
        stall(both, "", DELETE, times=None)
        for n in names:
            await d.unlink(f"{name}/{n}")
        await d.look_again(name)
        assert await d.names(name) == []  # whatever the listing says
        status = await d.fs.status()
        assert set(status.removals) <= {f"{name}/{n}" for n in names} and status.removals
        both.clear_faults()
        await all_sent(d)
        assert contents(disk) == {}
        assert deletions(both) <= count / 100 + 2


async def test_removal_that_is_refused_shows_the_name_again(
    both: Embedded, tmp_path: Path, expect_warnings: list[Any]
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"stays")
    async with background(both, tmp_path) as d:
        await d.names(name)
        both.faults({"rules": [{"action": "status", "path": DELETE, "status": 403}]})
        await d.unlink(f"{name}/f")
        with pytest.raises(PermissionDenied):
            await all_sent(d)
        assert await d.names(name) == ["f"]
        assert await d.read(f"{name}/f") == b"stays"
        assert any("removal.refused" in r.getMessage() for r in expect_warnings)
        assert (await d.fs.status()).removals == ()


async def test_removals_of_a_mount_that_ended_are_done_by_the_next(both: Embedded, tmp_path: Path) -> None:
    """… unless somebody has made a new file of that name since."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in ("gone", "made anew"):
        (disk / n).write_bytes(b"old")
    async with background(both, tmp_path) as d:
        await d.names(name)
        both.faults({"rules": [{"action": "status", "path": DELETE, "status": 503, "times": None}]})
        for n in ("gone", "made anew"):
            await d.unlink(f"{name}/{n}")
        await until(lambda: deletions(both) >= 1)
    replace(disk / "made anew", b"somebody's")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_sent(d)
        assert contents(disk) == {"made anew": b"somebody's"}
        assert await d.names(name) == ["made anew"]


# --- what the server refuses ---------------------------------------------------------------------


@pytest.mark.usefixtures("expect_warnings")
async def test_refused_file_is_kept_named_and_sent_when_it_changes(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path) as d:
        both.faults({"rules": [{"action": "status", "path": REQUEST, "status": 403, "times": None}]})
        await d.write(f"{name}/f", b"first")
        await until(lambda: [u.state for u in d.fs.unsent()] == ["parked"])
        (unsent,) = (await d.fs.status()).unsent
        assert unsent.name == f"{name}/f" and "refuses" in unsent.reason
        assert d.fs.get_xattr((await d.stat(f"{name}/f")).ino, b"user.vfsmount.state") == b"parked"
        with pytest.raises(PermissionDenied):
            await d.fs.wait()
        assert await d.read(f"{name}/f") == b"first" and contents(disk) == {}
        both.clear_faults()
        await d.write(f"{name}/f", b"second")
        await until(lambda: contents(disk) == {"f": b"second"})
        await all_sent(d)


@pytest.mark.usefixtures("expect_warnings")
async def test_refusal_in_the_middle_of_a_file_ends_when_the_server_accepts_it(
    both: Embedded, tmp_path: Path
) -> None:
    """The session that was refused is brought to its end; the row must know the way from there."""
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        both.faults(
            {
                "rules": [
                    {"action": "status", "method": "PATCH", "path": "/upload", "status": 403, "times": None},
                    {"action": "status", "method": "HEAD", "path": "/upload", "status": 403, "times": None},
                ]
            }
        )
        await d.write(f"{name}/f", LONG)
        await until(lambda: d.fs.unsent()[0].state == "parked" and not d.fs._uploader._running)
        both.clear_faults()
        await all_sent(d)
        assert contents(both.folder_dir(folder)) == {"f": LONG}


# --- room ----------------------------------------------------------------------------------------


async def test_limit_of_unsent_data_refuses_and_loses_nothing(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    limit = 4 * MIB
    sent: dict[str, bytes] = {}
    async with background(both, tmp_path, staging_size=limit, deadline_s=1.0) as d:
        stall(both, "POST", REQUEST, times=None)
        with pytest.raises(NoSpace):
            for i in range(20):
                data = bytes([i]) * MIB
                fh = await d.create(f"{name}/f{i}")
                try:
                    await d.fs.write(fh, 0, data)
                    await d.fs.flush(fh)
                    sent[f"f{i}"] = data
                finally:
                    await d.fs.release(fh)
        assert len(sent) >= 3 and d.area.used <= limit
        refused = f"f{len(sent)}"
        both.clear_faults()
        await all_sent(d)
        files = contents(both.folder_dir(folder))
        assert files.pop(refused, b"") == b""  # it was made, and nothing could be put into it
        assert files == sent


async def test_writer_waits_for_room_while_uploads_move(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with background(both, tmp_path, staging_size=4 * MIB) as d:
        for i in range(12):
            await d.write(f"{name}/f{i}", bytes([i]) * MIB)
            assert d.area.used <= 4 * MIB
        await all_sent(d)
    assert contents(both.folder_dir(folder)) == {f"f{i}": bytes([i]) * MIB for i in range(12)}


# --- fetching ------------------------------------------------------------------------------------


async def test_changed_large_file_is_fetched_once_and_not_before_it_is_needed(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(LONG)
    async with background(both, tmp_path) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        ranges: list[tuple[int, int]] = []
        read_range = d.fs._writer._transfers.read_range

        async def noted(folder: Folder, path: str, start: int, length: int, **more: Any) -> RangeReply:
            reply = await read_range(folder, path, start, length, **more)
            ranges.append((start, start + len(reply.data)))
            return reply

        d.fs._writer._transfers.read_range = noted  # type: ignore[method-assign]
        both.reset_calls()
        await d.fs.write(fh, 3 * MIB, b"!")
        await d.fs.fsync(fh)
        assert both.count("GET", "/download") == 0
        assert await d.fs.read(fh, 5 * MIB, 100) == LONG[5 * MIB :][:100]
        stall(both, "POST", REQUEST, times=None)
        await d.close(fh)
        ranges.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(ranges)), ranges
        assert sum(stop - start for start, stop in ranges) == len(LONG) - 1
        fetched = len(ranges)
        assert await d.read(f"{name}/f") == LONG[: 3 * MIB] + b"!" + LONG[3 * MIB + 1 :]
        assert len(ranges) == fetched
        both.clear_faults()
        await all_sent(d)
    assert contents(disk) == {"f": LONG[: 3 * MIB] + b"!" + LONG[3 * MIB + 1 :]}


async def caught(failed: list[VfsError], call: Callable[..., Awaitable[object]], *args: object) -> None:
    """Run a call as a task of its own; its error goes into `failed`."""
    try:
        await call(*args)
    except VfsError as e:
        failed.append(e)


async def test_rename_meets_a_fetch_of_the_same_file_without_deadlock(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(LONG)
    async with background(both, tmp_path) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 0, b"!")
        both.reset_calls()
        stall(both, "GET", "/download")
        failed: list[VfsError] = []
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caught, failed, d.fs.flush, fh)
                await until(lambda: both.count("GET", "/download") == 1)
                nursery.start_soon(caught, failed, d.rename, f"{name}/f", f"{name}/g")
                await until(lambda: bool(d.fs._gate._moving))
                release(both)
        assert failed == []
        await d.close(fh)
        await all_sent(d)
    assert contents(disk) == {"g": b"!" + LONG[1:]}


async def test_synced_file_that_stays_open_is_sent_by_itself(both: Embedded, tmp_path: Path) -> None:
    """Nothing else happens that would remind the uploader of it."""
    name, folder = fresh(both)
    async with background(both, tmp_path) as d:
        fh = await d.create(f"{name}/log")
        await d.fs.write(fh, 0, b"line 1\n")
        await d.fs.fsync(fh)
        await until(lambda: contents(both.folder_dir(folder)) == {"log": b"line 1\n"})
        await d.close(fh)


async def test_older_appointment_does_not_send_what_is_being_written_again(
    both: Embedded, tmp_path: Path
) -> None:
    """A child that ends closes the files of its parent, which has just begun to write one anew."""
    name, folder = fresh(both)
    there = both.folder_dir(folder) / "f"
    async with background(both, tmp_path) as d:
        await d.write(f"{name}/f", b"one")
        await until(lambda: there.exists() and there.read_bytes() == b"one")
        await d.write(f"{name}/f", b"two")  # is to be sent after a rest
        fh = await d.open(f"{name}/f", os.O_WRONLY | os.O_TRUNC)
        began = trio.current_time()
        await d.fs.flush(fh)
        while there.read_bytes() and trio.current_time() < began + OPEN_REST_S * 0.75:
            await trio.sleep(0.02)
        assert there.read_bytes() or trio.current_time() > began + OPEN_REST_S
        await d.fs.write(fh, 0, b"three")
        await d.fs.flush(fh)
        await d.fs.release(fh)
        await until(lambda: there.read_bytes() == b"three")
        # Who does not close it in time: as it is.
        fh = await d.open(f"{name}/f", os.O_WRONLY | os.O_TRUNC)
        await d.fs.flush(fh)
        await until(lambda: there.read_bytes() == b"")
        await d.fs.release(fh)
