"""Unsent data has a hard limit, the option's or the disk's: writers slow down, then ENOSPC, nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.disks import used
from tests.support.mounting import Mounted

MIB = 1 << 20
STALLED = {"rules": [{"action": "stall", "method": "PATCH", "half": "storage", "times": None}]}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def fill(folder: Path, size: int, count: int) -> list[int]:
    """Write files of random bytes until one is refused; the numbers of those that were acknowledged."""
    done = []
    for n in range(count):
        try:
            with (folder / f"f{n}").open("wb") as f:
                f.write(bytes([n]) * size)
        except OSError as e:
            assert e.errno == errno.ENOSPC
            break
        done.append(n)
    return done


def everything_is_there(disk: Path, acknowledged: list[int], size: int) -> None:
    for n in acknowledged:
        assert (disk / f"f{n}").read_bytes() == bytes([n]) * size, n


@pytest.mark.parametrize("limit", ["option", "disk"])
def test_writers_are_refused_when_nothing_can_be_sent(
    site: Site, folder: Path, disk: Path, tmp_path: Path, small_disk: Path, limit: str
) -> None:
    if site.embedded is None:
        pytest.skip("a real server cannot be told to stall")
    options = ["--deadline", "4"] + (["--staging-size", "32"] if limit == "option" else [])
    mounted = Mounted(tmp_path, site.env, *options)
    mounted.state = small_disk / "state"
    mounted.start()
    try:
        mine = mounted.path / folder.name
        os.listdir(mine)
        site.embedded.faults(STALLED)
        acknowledged = fill(mine, 4 * MIB, 20)
        assert 4 <= len(acknowledged) <= 12
        taken = used(mounted.state / "staging")
        assert taken <= (32 if limit == "option" else 48) * MIB
        for n in acknowledged:
            assert (mine / f"f{n}").stat().st_size == 4 * MIB
        site.embedded.clear_faults()
        os.setxattr(mine, "user.vfsmount.wait", b"1")
        everything_is_there(disk, acknowledged, 4 * MIB)
        assert len(fill(mine, 4 * MIB, 3)) == 3  # there is room again
    finally:
        site.embedded.clear_faults()
        done = mounted.stop()
    assert (done.returncode, done.stderr) == (0, "")


def test_writers_wait_while_uploads_move(site: Site, folder: Path, disk: Path, tmp_path: Path) -> None:
    with Mounted(tmp_path, site.env, "--staging-size", "24") as mounted:
        mine = mounted.path / folder.name
        # Three times the limit: every byte has to wait for others to have left.
        assert fill(mine, 4 * MIB, 18) == list(range(18))
    everything_is_there(disk, list(range(18)), 4 * MIB)


def test_one_file_larger_than_the_room_is_refused(
    site: Site, folder: Path, disk: Path, tmp_path: Path
) -> None:
    with Mounted(tmp_path, site.env, "--staging-size", "16") as mounted:
        mine = mounted.path / folder.name
        with pytest.raises(OSError) as e, (mine / "big").open("wb") as f:
            for _ in range(32):
                f.write(os.urandom(MIB))
        assert e.value.errno == errno.ENOSPC
        (mine / "big").unlink()
        (mine / "small").write_bytes(b"there is room again")
    assert (disk / "small").read_bytes() == b"there is room again"
