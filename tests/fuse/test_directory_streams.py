"""A directory that is read while it changes: what stays is seen once, whoever changes the rest."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.embedded import WORKLOAD, Embedded
from tests.support.mounting import Mounted

STAYING = 2000
_DIRENT = struct.Struct("=QqHB")  # d_ino, d_off, d_reclen, d_type; the name follows
_GETDENTS64 = {"x86_64": 217, "aarch64": 61}

_libc = ctypes.CDLL(None, use_errno=True)


def getdents(fd: int, room: int) -> list[str]:
    """The next entries of an open directory that fit into so many bytes; none at its end."""
    buffer = ctypes.create_string_buffer(room)
    got = _libc.syscall(_GETDENTS64[os.uname().machine], fd, buffer, room)
    if got < 0:
        raise OSError(ctypes.get_errno(), "getdents64")
    found, at = [], 0
    while at < got:
        _, _, length, _ = _DIRENT.unpack_from(buffer, at)
        found.append(os.fsdecode(buffer.raw[at + _DIRENT.size : at + length].split(b"\0", 1)[0]))
        at += length
    return found


def read_slowly(directory: Path, room: int, between: Callable[[], object]) -> list[str]:
    """All names of a directory, dots included, by getdents calls with `between` between them."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found: list[str] = []
        while some := getdents(fd, room):
            found += some
            between()
        return found
    finally:
        os.close(fd)


def staying() -> set[str]:
    return {f"stays-{n:04d}" for n in range(STAYING)}


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server that lists whole directories: of those it cuts, a listing shows what it happens to hold."""
    directory = tmp_path_factory.mktemp("streams") / "data"
    with Embedded(directory, dialect=request.param, scandir_limit=10_000, **WORKLOAD) as server:
        server.create_folder("owner", "data")
        yield server


@pytest.fixture(scope="module")
def mounts(server: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mounted, Mounted]]:
    """Two mounts that soon look again."""
    directories = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    env, options = server.env("owner"), ("--dir-ttl", "0.3", "--attr-ttl", "0.1")
    with Mounted(directories[0], env, *options) as one, Mounted(directories[1], env, *options) as two:
        yield one, two
    assert not one.warnings() and not two.warnings()


@pytest.fixture
def disk(server: Embedded) -> Iterator[Path]:
    """A new directory ``d`` of the folder, on the server's disk."""
    (folder,) = server.client("owner").ok("GET", "/folders")
    directory = server.folder_dir(folder["id"]) / "d"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    yield directory


@pytest.fixture
def here(mounts: tuple[Mounted, Mounted], disk: Path) -> Iterator[Path]:
    """That directory on the first mount, which has not looked at it yet."""
    yield from in_step(mounts[0].path / "data" / "d")


@pytest.fixture
def there(mounts: tuple[Mounted, Mounted], disk: Path) -> Iterator[Path]:
    """And on the second."""
    yield from in_step(mounts[1].path / "data" / "d")


def in_step(directory: Path) -> Iterator[Path]:
    time.sleep(0.35)
    assert os.listdir(directory) == []
    time.sleep(0.35)
    yield directory
    # What is sent behind would arrive in the next test's directory.
    os.setxattr(directory.parent, "user.vfsmount.wait", b"1")


@contextmanager
def busy(*workers: Callable[[int], object]) -> Iterator[None]:
    """Call each again and again, with a number, from a thread of its own while the body runs."""
    stop, errors = threading.Event(), list[BaseException]()

    def run(work: Callable[[int], object]) -> None:
        n = 0
        try:
            while not stop.is_set():
                work(n)
                n += 1
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(work,)) for work in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


def come_and_go(directory: Path, who: str) -> Callable[[int], None]:
    """Creates, renames, replaces and removes names of its own."""

    def work(n: int) -> None:
        first, second = directory / f"{who}-a{n % 7}", directory / f"{who}-b{n % 5}"
        first.touch()
        first.rename(second)
        if n % 3 == 0:
            second.unlink()
        if n % 11 == 0:
            (directory / f"{who}-d").mkdir()
            (directory / f"{who}-d").rename(directory / f"{who}-e")
            (directory / f"{who}-e").rmdir()

    return work


def replace(directory: Path) -> Callable[[int], None]:
    """Puts another version in the place of files that stay."""

    def work(n: int) -> None:
        beside = directory.parent / "beside"
        beside.write_bytes(b"%d" % n)
        beside.rename(directory / f"stays-{n * 37 % STAYING:04d}")
        time.sleep(0.005)

    return work


@pytest.mark.parametrize(("room", "times"), [(300, 1), (1 << 15, 3)])
def test_every_entry_that_stays_is_read_once(
    here: Path, there: Path, disk: Path, room: int, times: int
) -> None:
    """Whatever is created, renamed, replaced and removed meanwhile: here, through another mount, and on
    the server itself."""
    for name in staying():
        (disk / name).touch()
    workers = [
        come_and_go(here, "ours"),
        come_and_go(there, "theirs"),
        come_and_go(disk, "servers"),
        replace(disk),
    ]
    with busy(*workers):
        for n in range(times):
            seen = Counter(read_slowly(here, room, lambda: time.sleep(0.0005)))
            assert [name for name, number in seen.items() if number > 1] == [], n
            assert staying() - set(seen) == set(), n
            passing = set(seen) - staying() - {".", ".."}
            assert all(name.startswith(("ours-", "theirs-", "servers-")) for name in passing), passing


def test_entry_that_was_replaced_is_read_all_the_same(here: Path, disk: Path) -> None:
    """It has another inode number now, and its name was there all the time."""
    for name in staying():
        (disk / name).touch()
    for name in list(staying()):
        assert (here / name).stat().st_size == 0  # the kernel knows them all
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    try:
        seen = getdents(fd, 300)
        for name in staying():
            (disk / "beside").write_text("another version")
            (disk / "beside").rename(disk / name)
        time.sleep(0.35)
        assert (here / "stays-0000").stat().st_size == 15
        while some := getdents(fd, 4096):
            seen += some
    finally:
        os.close(fd)
    assert Counter(seen) == Counter([".", "..", *staying()])


def test_old_name_does_not_come_back_by_reading_on(here: Path, disk: Path) -> None:
    """What was renamed since the reading began shows under its new name only."""
    for name in staying():
        (disk / name).touch()
    for name in ("directory", "file"):
        (here / name).mkdir() if name == "directory" else (here / name).write_text("f")
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    try:
        seen = getdents(fd, 300)
        for name in ("directory", "file"):
            assert name not in seen
            (here / name).rename(here / f"{name} moved")
        while some := getdents(fd, 4096):
            seen += some
    finally:
        os.close(fd)
    assert not set(seen) & {"directory", "file"}
    for name in ("directory", "file"):
        assert not (here / name).exists()
    (here / "directory moved" / "inside").mkdir()
    assert (here / "file moved").read_text() == "f"
    assert sorted(set(os.listdir(here)) - staying()) == ["directory moved", "file moved"]


def test_rewinding_shows_the_news(here: Path, there: Path, disk: Path) -> None:
    (disk / "old").touch()
    time.sleep(0.35)
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)

    def again() -> list[str]:
        os.lseek(fd, 0, os.SEEK_SET)
        return sorted(iter_names(fd))

    try:
        assert again() == [".", "..", "old"]
        (here / "ours").touch()
        (here / "old").rename(here / "renamed")
        assert again() == [".", "..", "ours", "renamed"]
        (there / "theirs").touch()
        os.setxattr(there, "user.vfsmount.wait", b"1")
        until = time.monotonic() + 30
        while again() != [".", "..", "ours", "renamed", "theirs"]:
            assert time.monotonic() < until, again()
    finally:
        os.close(fd)


def iter_names(fd: int) -> Iterator[str]:
    while some := getdents(fd, 4096):
        yield from some
