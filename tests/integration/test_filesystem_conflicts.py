"""Somebody else changes what we send: both versions stay, and only where there are two."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import contents
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.sending import (
    REQUEST,
    REQUESTED,
    all_sent,
    background,
    kept_beside,
    patches,
    replace,
    rewrite,
    staging_files,
)
from tests.support.vfs import release, stall, until
from vfsmount.errors import Stale


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize("theirs", [b"theirs", b"their!"])  # even if as long as ours
async def test_both_versions_stay_when_somebody_was_faster(
    both: Embedded, tmp_path: Path, theirs: bytes
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"base")
    async with background(both, tmp_path) as d:
        assert await d.read(f"{name}/f") == b"base"
        both.reset_calls()
        stall(both, "POST", REQUEST)
        await d.write(f"{name}/f", b"ours!!")
        await until(lambda: both.count("POST", REQUESTED) == 1)  # or it is stalled after the release
        replace(disk / "f", theirs)
        release(both)
        await all_sent(d)
        files = contents(disk)
        assert files["f"] == theirs and len(files) == 2 and kept_beside(files, "f") == [b"ours!!"]
        assert await d.names(name) == sorted(files)
        (conflict,) = (await d.fs.status()).conflicts
        assert (conflict[0], conflict[1]) == (f"{name}/f", next(n for n in files if n != "f"))
    async with background(both, tmp_path) as d:  # and it is not forgotten
        assert (await d.fs.status()).conflicts == (conflict,)


@pytest.mark.usefixtures("expect_warnings")
async def test_who_has_the_loser_open_goes_on_with_it(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"base")
    async with background(both, tmp_path) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        both.reset_calls()
        stall(both, "POST", REQUEST)
        await rewrite(d, fh, b"ours")
        await until(lambda: both.count("POST", REQUESTED) == 1)
        replace(disk / "f", b"theirs")
        await d.fs.fsync(fh)
        task = partial(d.fs.wait)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            release(both)
        assert await d.read_all(fh) == b"ours"
        await d.fs.write(fh, 4, b" and more")
        await d.close(fh)
        await all_sent(d)
        files = contents(disk)
        assert files["f"] == b"theirs" and kept_beside(files, "f") == [b"ours and more"] and len(files) == 2


@pytest.mark.usefixtures("expect_warnings")
async def test_two_mounts_that_write_one_file_at_once_lose_neither(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    rounds = 20
    for n in range(rounds):
        (disk / f"f{n:02}").write_bytes(b"base")
    async with (
        background(both, tmp_path / "a", settle_s=1.0, host="a") as a,
        background(both, tmp_path / "b", settle_s=1.0, host="b") as b,
    ):
        for d in (a, b):
            await d.names(name)
        for n in range(rounds):
            async with trio.open_nursery() as nursery:
                for who, d in (("a", a), ("b", b)):
                    nursery.start_soon(d.write, f"{name}/f{n:02}", f"{who}{n:02}".encode())
                    nursery.start_soon(d.fs.wait)
        for d in (a, b):
            await all_sent(d)
    files = contents(disk)
    for n in range(rounds):
        versions = {data for path, data in files.items() if path.startswith(f"f{n:02}")}
        assert {f"a{n:02}".encode(), f"b{n:02}".encode()} <= versions, (n, files)


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize("seen", ["by the look", "in a listing", "by a reader", "while it is open"])
async def test_blind_overwrite_right_after_ours_is_brought_back(
    both: Embedded, tmp_path: Path, seen: str
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    ttl = 60.0 if seen == "by the look" else 0.0
    async with background(both, tmp_path, settle_s=2.0, attr_ttl_s=ttl, dir_ttl_s=ttl) as d:
        await d.write(f"{name}/f", b"ours")
        await d.fs.wait()
        fh = await d.open(f"{name}/f") if seen == "while it is open" else 0
        replace(disk / "f", b"them")
        if seen in ("in a listing", "while it is open"):
            await d.names(name)
        elif seen == "by a reader":
            assert await d.read(f"{name}/f") == b"them"
        if fh:
            with suppress(Stale):  # theirs is another file
                await d.fs.getattr(d.fs.ino_of(fh))
        await until(lambda: bool(kept_beside(contents(disk), "f")))
        files = contents(disk)
        assert files["f"] == b"them" and kept_beside(files, "f") == [b"ours"] and len(files) == 2
        assert len((await d.fs.status()).conflicts) == 1
        if fh:
            await d.fs.release(fh)
        await all_sent(d)


async def test_what_somebody_removes_after_it_was_sent_stays_removed(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path) as d:
        await d.write(f"{name}/f", b"ours")
        await d.fs.wait()
        (disk / "f").unlink()
        await all_sent(d)
        assert contents(disk) == {}
        await until(lambda: staging_files(d) == [])


@pytest.mark.parametrize("what", ["unlink", "rename over", "write anew"])
async def test_our_own_changes_after_it_was_sent_are_no_conflict(
    both: Embedded, tmp_path: Path, what: str
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path) as d:
        await d.write(f"{name}/other", b"other")
        await d.write(f"{name}/f", b"first")
        await d.fs.wait()
        expected = {"f": b"other", "other": b"other"}
        if what == "unlink":
            await d.unlink(f"{name}/f")
            del expected["f"]
        elif what == "rename over":
            await d.rename(f"{name}/other", f"{name}/f")
            del expected["other"]
        else:
            await d.write(f"{name}/f", b"other")
        await all_sent(d)
        assert contents(disk) == expected


@pytest.mark.usefixtures("expect_warnings")
async def test_file_of_the_same_size_directly_after_ours_is_not_taken_for_ours(
    both: Embedded, tmp_path: Path
) -> None:
    """Somebody's upload is completed between our last byte and our look at what became of it."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path) as d:
        stall(both, "PATCH", "/upload")
        await d.write(f"{name}/f", b"ours")
        await until(lambda: patches(both) == 1)
        stall(both, "GET", "/download")
        release(both)  # the PATCH; the reading back is kept waiting
        await until((disk / "f").exists)
        replace(disk / "f", b"them")
        both.clear_faults()
        await all_sent(d)
        files = contents(disk)
        assert files["f"] == b"them" and kept_beside(files, "f") == [b"ours"] and len(files) == 2


async def test_newer_version_of_ours_that_has_just_arrived_is_no_conflict(
    both: Embedded, tmp_path: Path
) -> None:
    """The server has it, and we do not know yet: a look at the older version finds it in its place."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path, settle_s=0.5) as d:
        await d.write(f"{name}/f", b"older")
        await d.fs.wait()
        sent = patches(both)
        stall(both, "PATCH", "/upload")
        await d.write(f"{name}/f", b"newer")
        await until(lambda: patches(both) == sent + 1)
        stall(both, "GET", "/download")  # the reading back that ends the upload
        release(both)
        await until(lambda: (disk / "f").read_bytes() == b"newer")
        await trio.sleep(3 * d.fs.policy.settle_s)
        release(both)
        await all_sent(d)
        assert contents(disk) == {"f": b"newer"} and await d.names(name) == ["f"]


@pytest.mark.parametrize("look", ["second look", "listing"])
async def test_what_we_rename_over_a_file_just_sent_is_no_conflict(
    both: Embedded, tmp_path: Path, look: str
) -> None:
    """The server has renamed it, and we do not know yet."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path, settle_s=0.5, dir_ttl_s=0.0) as d:
        await d.write(f"{name}/other", b"other")
        await all_sent(d)  # or the look at this one would keep the other waiting
        await d.write(f"{name}/f", b"older")
        await d.fs.wait()
        client, moved, answer = d.fs._namespace._client, trio.Event(), trio.Event()
        move_file = client.move_file

        async def slow(*args: Any) -> None:
            await move_file(*args)
            moved.set()
            await answer.wait()

        client.move_file = slow  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.rename, f"{name}/other", f"{name}/f")
            await moved.wait()
            if look == "listing":
                await d.names(name)
            await trio.sleep(3 * d.fs.policy.settle_s)
            answer.set()
        await all_sent(d)
        assert contents(disk) == {"f": b"other"} and await d.names(name) == ["f"]


@pytest.mark.usefixtures("expect_warnings")
async def test_blind_overwrite_with_the_same_size_and_time_is_noticed(both: Embedded, tmp_path: Path) -> None:
    """Clocks of files tick in milliseconds: two uploads at once may differ in their bytes alone."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path, settle_s=2.0) as d:  # it is read before it is replaced
        await d.write(f"{name}/f", b"ours")
        await d.fs.wait()
        assert await d.read(f"{name}/f") == b"ours"
        when = (disk / "f").stat().st_mtime_ns
        replace(disk / "f", b"them")
        os.utime(disk / "f", ns=(when, when))
        await all_sent(d)
        files = contents(disk)
        assert files["f"] == b"them" and kept_beside(files, "f") == [b"ours"] and len(files) == 2
        assert await d.read(f"{name}/f") == b"them"


@pytest.mark.usefixtures("expect_warnings")
async def test_version_of_the_very_same_content_is_no_conflict(both: Embedded, tmp_path: Path) -> None:
    """It may be our own, from an upload that was broken off too late and is not remembered; kept apart it
    would be the same file twice."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with background(both, tmp_path) as d:
        stall(both, "POST", REQUEST)
        await d.write(f"{name}/f", b"the same")
        await d.write(f"{name}/g", b"ours")
        for there, data in ("f", b"the same"), ("g", b"else"):
            replace(disk / there, data)
        release(both)
        await all_sent(d)
        found = contents(disk)
        assert kept_beside(found, "f") == []
        assert kept_beside(found, "g") == [b"ours"]
        assert (found["f"], found["g"], len(found)) == (b"the same", b"else", 3)
