"""Everything in a directory changes all the time, on the server and here, while it is read and written.

The kernel is told to drop pages and names many times a second, under processes that hold the locks
that the telling needs. Nobody may hang, and nobody may see what never was.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compare import same_on_server
from tests.support.embedded import WORKLOAD, Embedded
from tests.support.looking import by_mapping
from tests.support.mounting import Mounted
from tests.support.versions import BLOCK, check, check_part, read_version, version
from tests.support.workers import Worker, work_for

SECONDS = 12.0
FILES = 6
# What changes under a name between looking it up and using it; a held file that was replaced.
PASSING = frozenset({errno.ENOENT, errno.ESTALE})
# A file that becomes a directory in the moment of being opened is forbidden by the server's own library.
KINDS = PASSING | {errno.EISDIR, errno.ENOTDIR, errno.EACCES}


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    directory = tmp_path_factory.mktemp("invalidation") / "data"
    with Embedded(directory, dialect=request.param, **WORKLOAD) as server:
        yield server


class Place:
    """The directory that everybody works in: here, on another mount, and on the server's disk."""

    def __init__(self, here: Path, there: Path, disk: Path) -> None:
        self.here = here
        self.there = there
        self.disk = disk
        self.random = random.Random(1)

    # --- underneath ----------------------------------------------------------------------------

    def change_on_disk(self, n: int) -> None:
        """Another version in the place of one of the ``d``; as an upload ends, in one step."""
        name = f"d{n % FILES}"
        (self.disk.parent / "beside").write_bytes(version(name, n))
        (self.disk.parent / "beside").rename(self.disk / name)
        time.sleep(0.008)

    def change_names_on_disk(self, n: int) -> None:
        """Names come and go, and come back as another kind of file."""
        name = self.disk / f"k{n % 3}"
        if name.is_dir():
            name.rmdir()
            (self.disk.parent / "kind").write_bytes(version("kind", n))
            (self.disk.parent / "kind").rename(name)
        elif name.exists():
            name.unlink()
        else:
            name.mkdir()
        time.sleep(0.05)

    def change_there(self, n: int) -> None:
        """Another version of one of the ``m``, through the other mount; now and then it goes first."""
        path = self.there / f"m{n % FILES}"
        if n % 7 == 0:
            path.unlink(missing_ok=True)
        path.write_bytes(version(path.name, n))

    def change_names_there(self, n: int) -> None:
        a, b = self.there / f"n{n % 2}", self.there / f"n{2 + n % 3}"
        if n % 5 == 0:
            b.unlink(missing_ok=True)
        a.write_bytes(version("name", n))
        a.rename(b)

    # --- here ----------------------------------------------------------------------------------

    def any_file(self) -> Path:
        return self.here / f"{self.random.choice('dm')}{self.random.randrange(FILES)}"

    def read(self, _: int) -> None:
        path = self.any_file()
        assert read_version(path)[0] == path.name

    def read_parts(self, _: int) -> None:
        """One open file shows one version, or fails."""
        path = self.any_file()
        fd = os.open(path, os.O_RDONLY)
        try:
            first = os.pread(fd, BLOCK, 0).decode().rstrip(".").split()
            for _ in range(5):
                at = self.random.randrange(0, 200_000)
                check_part(os.pread(fd, 70_000, at), at, first[0], int(first[1]))
                time.sleep(0.01)
        finally:
            os.close(fd)

    def map(self, _: int) -> None:
        """Whole, or the reader is ended by a page that cannot be had any more."""
        path = self.any_file()
        (found,) = by_mapping([path])
        if isinstance(found, bytes):
            assert check(found)[0] == path.name
        elif "-7:" not in found:
            assert "FileNotFoundError" in found or "Stale" in found or "No such file" in found, found

    def look(self, _: int) -> None:
        for name in (*(f"d{n}" for n in range(FILES)), "k0", "k1", "n0", "n3", "w0", "missing"):
            try:
                os.stat(self.here / name)
            except OSError as e:
                assert e.errno in PASSING, e
        assert not (self.here / "missing").exists()

    def list(self, _: int) -> None:
        found = os.listdir(self.here)
        assert len(found) == len(set(found))
        assert {f"d{n}" for n in range(FILES)} <= set(found)
        with os.scandir(self.here) as entries:
            for entry in entries:
                entry.is_dir()
                if not entry.name.startswith(("k", "n")):
                    assert entry.is_file(), entry.name

    def write(self, n: int) -> None:
        """Files of our own in the same directory, which read back as written, at once."""
        path = self.here / f"w{n % 4}"
        path.write_bytes(version(path.name, n))
        assert read_version(path) == (path.name, n)
        if n % 9 == 0:
            path.unlink()
            assert not path.exists()

    def rename(self, n: int) -> None:
        a, b = self.here / f"r{n % 3}", self.here / f"r{3 + n % 2}"
        a.write_bytes(version("renamed", n))
        a.rename(b)
        assert read_version(b) == ("renamed", n)
        assert not a.exists()

    def descend(self, n: int) -> None:
        """Use names whose kind changes as if they were directories."""
        path = self.here / f"k{n % 3}"
        if n % 2:
            os.listdir(path)
        else:
            check(path.read_bytes())


def test_nobody_hangs_or_sees_what_never_was(server: Embedded, tmp_path: Path) -> None:
    disk = server.folder_dir(server.create_folder("owner", "data")) / "busy"
    disk.mkdir()
    for n in range(FILES):
        (disk / f"d{n}").write_bytes(version(f"d{n}", n))
        (disk / f"m{n}").write_bytes(version(f"m{n}", n))
    for name in "one", "two":
        (tmp_path / name).mkdir()
    env, options = server.env("owner"), ("--dir-ttl", "0.2", "--attr-ttl", "0.1")
    with (
        Mounted(tmp_path / "one", env, *options) as one,
        Mounted(tmp_path / "two", env, *options) as two,
    ):
        place = Place(one.path / "data" / "busy", two.path / "data" / "busy", disk)
        steps = (
            [(place.change_on_disk, frozenset[int]()), (place.change_names_on_disk, frozenset[int]())]
            + [(place.change_there, PASSING), (place.change_names_there, PASSING)]
            + [(step, PASSING) for step in (place.read, place.read, place.read_parts, place.map)]
            + [(step, PASSING) for step in (place.look, place.look, place.list, place.write, place.rename)]
            + [(place.descend, KINDS)]
        )
        workers = [Worker(f"{i} {step.__name__}", step, allowed) for i, (step, allowed) in enumerate(steps)]

        def enough() -> bool:
            return all(worker.done >= 5 for worker in workers)

        done = work_for(SECONDS, workers, [one.pid, two.pid], enough)
        print(done)
        assert enough(), done
        for mounted in (one, two):
            os.setxattr(mounted.path / "data", "user.vfsmount.wait", b"1")
        time.sleep(0.3)
        assert not [name for name in os.listdir(disk) if "conflict" in name]
        for shown in (place.here, place.there):
            same_on_server(shown, disk)
    # A file that goes away between the server's look at it and its opening is a 500, once.
    warned = [w for m in (one, two) for w in m.warnings() if 'what="GET download" attempt=1 ' not in w]
    assert not warned
