"""Local content: never lost, never longer than it was, never another mount's."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from vfsmount.errors import LocalIOError, NoSpace
from vfsmount.store.staging import StagingArea, check_room
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
    f.close()
    f.close()
    assert not f.path.exists()


async def test_files_are_nobody_elses(area: StagingArea) -> None:
    f = await area.create(b"secret/../../name\n\xff")
    assert f.path.parent == area.directory and f.path.stat().st_mode & 0o777 == 0o600
    for directory in (area.directory, area.directory.parent, area.unsent):
        assert directory.stat().st_mode & 0o777 == 0o700
    f.close()


async def test_close_waits_for_reads_under_way(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"content")
    got: list[bytes] = []

    async def read() -> None:
        got.append(await f.read(0, 100))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
        while not f._reads:
            await trio.lowlevel.checkpoint()
        f.close()
    assert got == [b"content"] * 4
    assert f._fd == -1


async def test_leftovers_of_a_dead_mount_are_adopted_with_their_content(tmp_path: Path) -> None:
    dead = StagingArea(tmp_path)
    f = await dead.create(b"name with space")
    await f.write(0, b"unsent")
    os.close(dead._lock)  # as the end of its process does
    new = StagingArea(tmp_path)
    (adopted,) = new.adopt_leftovers()
    assert adopted.parent == new.unsent and not dead.directory.exists()
    assert {p.name.partition("-")[2]: p.read_bytes() for p in adopted.iterdir()} == {
        "name with space": b"unsent"
    }
    assert new.adopt_leftovers() == []
    assert next(adopted.iterdir()).read_bytes() == b"unsent"


async def test_live_mounts_directories_are_left_alone(tmp_path: Path) -> None:
    alive = StagingArea(tmp_path)
    f = await alive.create(b"f")
    await f.write(0, b"mine")
    idle = StagingArea(tmp_path)  # alive too, and with nothing in it
    assert StagingArea(tmp_path).adopt_leftovers() == []
    assert await f.read(0, 10) == b"mine" and f.path.exists()
    await idle.create(b"g")


async def test_mount_that_is_just_beginning_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    """Its directory is there before its lock is."""
    beginning = tmp_path / "staging" / "beginning"
    StagingArea(tmp_path)
    beginning.mkdir()
    (beginning / "lock.new").touch()
    assert StagingArea(tmp_path).adopt_leftovers() == []
    assert beginning.exists()


async def test_dead_mount_without_content_leaves_nothing(tmp_path: Path) -> None:
    dead = StagingArea(tmp_path)
    await dead.create(b"empty")
    os.close(dead._lock)
    new = StagingArea(tmp_path)
    assert new.adopt_leftovers() == []
    assert [p for p in (tmp_path / "staging").iterdir() if p != new.directory] == []


async def test_kept_content_outlives_the_area(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"unsent")
    kept = area.keep_unsent(f, "folder/../x", b"dir/deep" * 60 + b"\xff")
    area.close()
    assert kept.read_bytes() == b"unsent" and kept.parent.parent == area.unsent
    assert not area.directory.exists()


async def test_area_that_still_holds_content_stays(area: StagingArea) -> None:
    f = await area.create(b"f")
    await f.write(0, b"unsent")
    area.close()
    assert f.path.read_bytes() == b"unsent"


async def test_room_is_checked_before_a_large_fetch(area: StagingArea) -> None:
    await check_room(area, 1)
    with pytest.raises(NoSpace):
        await check_room(area, 1 << 60)


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
        assert f.size == 1000 and os.fstat(f._fd).st_size == 1000
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
