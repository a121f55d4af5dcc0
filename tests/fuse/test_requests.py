"""What is answered without pyfuse3 after a takeover, answered so all the time: the kernel understands it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import WORKLOAD, Embedded, eventually
from tests.support.mounting import clean_environment


@pytest.fixture(scope="module", params=["23.09", "26"])
def top(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on such a mount."""
    directory = tmp_path_factory.mktemp("unaided")
    with Embedded(directory / "data", dialect=request.param, **WORKLOAD) as server:
        server.create_folder("owner", "data")
        words = ["-f", "--no-holder", "--state-dir", directory / "state", "--cache-dir", directory / "cache"]
        daemon = subprocess.Popen(
            [sys.executable, "-m", "tests.support.unaided", directory / "mnt", *words],
            env=clean_environment(server.env("owner")),
        )
        try:
            eventually((directory / "mnt").is_mount)
            yield directory / "mnt" / "data"
        finally:
            daemon.terminate()
            assert daemon.wait(60) == 0


def test_content(top: Path) -> None:
    content = os.urandom(3_000_000)
    fd = os.open(top / "a", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    assert os.write(fd, content) == len(content)
    os.fsync(fd)
    assert os.pread(fd, len(content), 0) == content and os.pread(fd, 9, 2_999_999) == content[-1:]
    os.ftruncate(fd, 1_000_000)
    assert os.fstat(fd).st_size == 1_000_000
    os.close(fd)
    with pytest.raises(FileExistsError):
        os.open(top / "a", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    assert (top / "a").read_bytes() == content[:1_000_000]
    with open(top / "a", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[500_000:500_100] == content[500_000:500_100]


def test_attributes(top: Path) -> None:
    path = top / "attributes"
    path.write_bytes(b"12345")
    path.chmod(0o604)
    os.chown(path, os.getuid(), os.getgid())
    os.utime(path, ns=(1_234_567_890_123_456_789, 1_700_000_000_987_654_321))
    seen = path.stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_size, seen.st_nlink) == (0o604, 5, 1)
    assert (seen.st_atime_ns, seen.st_mtime_ns) == (1_234_567_890_123_456_789, 1_700_000_000_987_654_321)
    os.utime(path, ns=(0, -1_500_000_000))  # before the epoch
    assert path.stat().st_mtime_ns == -1_500_000_000
    os.utime(path)
    assert path.stat().st_mtime_ns > 1_700_000_000_987_654_321
    os.truncate(path, 2)
    assert path.read_bytes() == b"12"
    assert os.statvfs(path).f_namemax == 255 and os.statvfs(path).f_bsize == 4096


def test_names(top: Path) -> None:
    (top / "d").mkdir(0o750)
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o750
    for n in range(300):
        (top / "d" / f"name-{n:03}").touch()
    assert sorted(os.listdir(top / "d")) == [f"name-{n:03}" for n in range(300)]
    with os.scandir(top / "d") as entries:
        assert all(entry.is_file(follow_symlinks=False) for entry in entries)
    (top / "d" / "name-000").rename(top / "d" / "moved")
    with pytest.raises(FileNotFoundError):
        (top / "d" / "name-000").stat()
    assert ctypes.CDLL(None, use_errno=True).renameat2(
        *(-100, os.fsencode(top / "d" / "moved"), -100, os.fsencode(top / "d" / "name-001"), 1)
    )
    assert ctypes.get_errno() in (0, errno.EEXIST)
    for path in (top / "d").iterdir():
        path.unlink()
    assert os.listdir(top / "d") == []
    fd = os.open(top / "d", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    (top / "d").rmdir()
    assert not (top / "d").exists()


def test_kinds_of_its_own(top: Path) -> None:
    (top / "link").symlink_to("where/ever")
    assert os.readlink(top / "link") == "where/ever" and (top / "link").is_symlink()
    os.mkfifo(top / "fifo", 0o600)
    assert (top / "fifo").is_fifo()
    os.mknod(top / "plain", 0o644 | stat.S_IFREG)
    assert (top / "plain").read_bytes() == b""
    if os.geteuid() == 0:
        os.mknod(top / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert (top / "device").stat().st_rdev == os.makedev(1, 3)
    with pytest.raises(PermissionError):
        os.link(top / "plain", top / "second")


def test_extended_attributes(top: Path) -> None:
    path = top / "extended"
    path.touch()
    os.setxattr(path, "user.a", b"one", os.XATTR_CREATE)
    os.setxattr(path, "user.b", b"two" * 100)
    assert os.getxattr(path, "user.a") == b"one" and os.getxattr(path, "user.b") == b"two" * 100
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"other", os.XATTR_CREATE)
    with pytest.raises(OSError, match="No data"):
        os.setxattr(path, "user.c", b"", os.XATTR_REPLACE)
    os.removexattr(path, "user.a")
    assert os.listxattr(path) == ["user.b"]
