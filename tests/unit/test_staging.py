"""Local content: never lost, never longer than it was, never another mount's."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from vfsmount.core.extents import Extents
from vfsmount.errors import LocalIOError, NoSpace
from vfsmount.store.staging import LOCK, StagingArea
from vfsmount.store.syscalls import local_error


@pytest.fixture
def area(tmp_path: Path) -> StagingArea:
    return StagingArea(tmp_path)


async def test_content_is_what_was_written(area: StagingArea) -> None:
    f = await area.create(b"name")
    await f.write(0, b"0123456789")
    await f.write(20, b"x")
    await f.write(2, b"ab")
    assert f.size == 21
    assert await f.read(0, 100) == b"01ab456789" + bytes(10) + b"x"
    await f.truncate(4)
    await f.truncate(6)
    assert (f.size, await f.read(0, 100)) == (6, b"01ab\0\0")
    f.release()
    assert not f.path.exists() and area.used == 0


async def test_files_are_nobody_elses(area: StagingArea) -> None:
    f = await area.create(b"secret/../../name\n\xff")
    assert f.path.parent == area.directory and f.path.stat().st_mode & 0o777 == 0o600
    for directory in (area.directory, area.directory.parent, area.unsent):
        assert directory.stat().st_mode & 0o777 == 0o700
    f.release()


async def test_release_waits_for_reads_under_way(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"content")
    got: list[bytes] = []

    async def read() -> None:
        got.append(await f.read(0, 100))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
        while not f._in_use:
            await trio.lowlevel.checkpoint()
        f.release()
    assert got == [b"content"] * 4
    assert f._fd == -1


async def test_every_holder_keeps_the_file(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"content")
    f.hold()
    f.release()
    assert f.path.exists() and await f.read(0, 100) == b"content"
    f.release()
    assert not f.path.exists()


async def test_resting_content_takes_no_descriptor(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"content")
    f.rest()
    assert f._fd == -1
    assert await f.read(3, 100) == b"tent" and f._fd == -1
    await f.write(7, b"!")
    assert f._fd >= 0 and await f.read(0, 100) == b"content!"


async def test_clone_has_what_is_here_and_leaves_the_original(area: StagingArea) -> None:
    f = await area.create(b"f")
    f.size = f.remote_size = 100  # opened from a file of the server
    await f.truncate(100)
    await f.write(10, b"here")
    f.sealed = 100
    clone = await f.clone(b"f", 50)
    await clone.write(11, b"X")
    assert (await clone.read(10, 4), await f.read(10, 4)) == (b"hXre", b"here")
    assert (clone.size, clone.remote_size, clone.sealed) == (50, 50, 0)
    assert clone.missing(0, 100) == [(0, 10), (14, 50)] and f.missing(0, 100) == [(0, 10), (14, 100)]
    assert area.used == 8
    f.release()
    assert await clone.read(10, 4) == b"hXre" and area.used == 4


async def test_sealed_bytes_are_not_changed_in_place(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"sealed")
    f.sealed = 6
    for change in (lambda: f.write(5, b"x"), lambda: f.truncate(5)):
        with pytest.raises(AssertionError):
            await change()
    await f.write(6, b" and more")
    assert await f.read(0, 100) == b"sealed and more"


def die(area: StagingArea) -> None:
    """As the end of its process: the locks go, the files stay."""
    for lock in area._locks.values():
        os.close(lock)


async def test_content_of_a_dead_mount_is_adopted(tmp_path: Path) -> None:
    dead = StagingArea(tmp_path)
    f = await dead.create(b"name with space")
    await f.write(0, b"acknowledged, and what came later")
    die(dead)
    new = StagingArea(tmp_path)
    assert new.claim_dead() == [dead.own]
    assert new.contents_in(dead.own) == {f.name: 33}
    sealed = new.adopt(f.name, 12, Extents([(0, 12)]), 0, sealed=True)
    assert (sealed.size, sealed.sealed, await sealed.read(0, 100)) == (12, 12, b"acknowledged")
    assert f.path.stat().st_size == 12
    assert StagingArea(tmp_path).claim_dead() == []  # ours now
    sealed.release()
    new.let_go(dead.own)
    assert not dead.directory.exists()


async def test_what_an_fsync_acknowledged_is_adopted_as_it_is(tmp_path: Path) -> None:
    dead = StagingArea(tmp_path)
    f = await dead.create(b"log")
    await f.write(0, b"synced, and appended")
    die(dead)
    new = StagingArea(tmp_path)
    new.claim_dead()
    adopted = new.adopt(f.name, 6, Extents([(0, 6)]), 0, sealed=False)
    assert (adopted.size, adopted.sealed, await adopted.read(0, 100)) == (20, 0, b"synced, and appended")


async def test_claimed_directory_is_left_to_the_next_with_what_is_in_it(tmp_path: Path) -> None:
    dead = StagingArea(tmp_path)
    await (await dead.create(b"f")).write(0, b"x")
    die(dead)
    first, second = StagingArea(tmp_path), StagingArea(tmp_path)
    assert (first.claim_dead(), second.claim_dead()) == ([dead.own], [])
    first.close()
    assert second.claim_dead() == [dead.own]


async def test_what_nobody_acknowledged_is_set_aside(tmp_path: Path) -> None:
    dead = StagingArea(tmp_path)
    f = await dead.create(b"name")
    await f.write(0, b"never closed")
    die(dead)
    new = StagingArea(tmp_path)
    new.claim_dead()
    kept = new.set_aside(f.name, "folder/../../x" + "y" * 300)
    assert kept.read_bytes() == b"never closed" and kept.parent.parent == new.unsent
    assert new.contents_in(dead.own) == {}


async def test_live_mounts_directories_are_left_alone(tmp_path: Path) -> None:
    alive = StagingArea(tmp_path)
    f = await alive.create(b"f")
    await f.write(0, b"mine")
    idle = StagingArea(tmp_path)  # alive too, and with nothing in it
    assert StagingArea(tmp_path).claim_dead() == []
    assert await f.read(0, 10) == b"mine" and f.path.exists()
    await idle.create(b"g")


async def test_mount_that_died_before_it_locked_its_directory_is_dead(tmp_path: Path) -> None:
    new = StagingArea(tmp_path)
    half_made = new.base / "1-a"
    half_made.mkdir()
    assert new.claim_dead() == ["1-a"]
    new.let_go("1-a")
    assert not half_made.exists()


def test_mounts_that_begin_and_end_side_by_side_take_nothing_from_each_other(tmp_path: Path) -> None:
    """A directory is there before its lock is, and goes after it."""
    failed: list[BaseException] = []

    def begin_and_end() -> None:
        try:
            for _ in range(50):
                area = StagingArea(tmp_path)
                for dead in area.claim_dead():
                    area.let_go(dead)
                assert (area.directory / LOCK).exists()
                area.close()
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=begin_and_end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and list((tmp_path / "staging").iterdir()) == []


async def test_area_that_still_holds_content_stays(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"unsent")
    f.abandon()
    area.close()
    assert f.path.read_bytes() == b"unsent"


async def test_area_without_content_leaves_nothing(area: StagingArea) -> None:
    (await area.create(b"f")).release()
    area.close()
    assert list(area.base.iterdir()) == []


def test_what_disk_errors_mean() -> None:
    assert isinstance(local_error(OSError(errno.ENOSPC, "x")), NoSpace)
    assert isinstance(local_error(OSError(errno.EDQUOT, "x")), NoSpace)
    assert type(local_error(OSError(errno.EIO, "x"))) is LocalIOError


def full_disk(tmp_path: Path) -> None:
    """In a child: files may not grow past 1 MiB, so a write fails halfway, as on a full disk."""

    async def main() -> None:
        f = await StagingArea(tmp_path).create(b"f")
        await f.write(0, b"x" * 1000)
        with pytest.raises(LocalIOError):  # EFBIG; ENOSPC takes the same way
            await f.write(1000, b"y" * (2 << 20))
        assert f.size == 1000 and f.path.stat().st_size == 1000
        assert await f.read(0, 5000) == b"x" * 1000
        await f.write(1000, b"z")
        assert await f.read(990, 100) == b"x" * 10 + b"z"

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    trio.run(main)


def test_write_that_fails_halfway_leaves_the_size_as_it_was(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.unit.test_staging import full_disk; "
        f"full_disk(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
