"""A file is replaced on the server, again and again, while it is read in every way a program can.

Each version is made of blocks that say which version they are of. Whoever reads sees blocks of one
version, or ESTALE (a mapping: SIGBUS), and never of two; who opens the name anew sees the new one.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import wait_out_ttl
from tests.support.workers import Worker, work_for

BLOCK = 32
PAGE = 4096
STALE = frozenset({errno.ESTALE})
SECONDS = [5.0, pytest.param(300.0, marks=pytest.mark.long)]


def content(number: int, size: int) -> bytes:
    """A version: each block says its number and its own place."""
    return b"".join(b"%012d %016d.\n " % (number, at) for at in range(0, size, BLOCK))[:size]


def same_version(data: bytes, offset: int, number: int | None = None) -> int:
    """The number of the version that whole blocks from an aligned offset are of.

    Raises:
        AssertionError: they are of several, of another than `number`, or of another place.
    """
    numbers = set()
    for at in range(0, len(data) - len(data) % BLOCK, BLOCK):
        block = data[at : at + BLOCK]
        assert int(block[13:29]) == offset + at, (offset, at, block)
        numbers.add(int(block[:12]))
    assert len(numbers) == 1, (offset, len(data), sorted(numbers))
    (found,) = numbers
    assert number is None or found == number, (offset, found, number)
    return found


# (sizes of successive versions, how the next one comes)
SIZES: dict[str, tuple[int, ...]] = {
    "same size": (3 << 20,),
    "of one page": (PAGE,),
    "longer and shorter": (3 << 20, 100_000, 1 << 20, PAGE * 3 + BLOCK, 2 << 20),
    "ever longer": tuple(range(64 * BLOCK, 2 << 20, 999 * BLOCK)),
}


class Place:
    """One file, replaced on the server's disk and read here."""

    def __init__(self, folder: Path, disk: Path, sizes: tuple[int, ...]) -> None:
        self.path, self.disk, self.sizes = folder / "f", disk, sizes
        self.random = random.Random(1)
        self.number = 0
        self.next()

    def next(self, _: int = 0) -> None:
        """In one step, as an upload ends."""
        size = self.sizes[self.number % len(self.sizes)]
        (self.disk / ".next").write_bytes(content(self.number, size))
        (self.disk / ".next").rename(self.disk / "f")
        self.number += 1
        time.sleep(0.1)

    def whole(self, _: int) -> None:
        data = self.path.read_bytes()
        assert len(data) == self.sizes[same_version(data, 0) % len(self.sizes)]

    def forwards(self, _: int) -> None:
        """In small pieces and slowly, so that it is replaced on the way."""
        self._each(lambda fd, at: os.pread(fd, PAGE * 8, at), range(0, 3 << 20, PAGE * 8), 0.002)

    def backwards(self, _: int) -> None:
        self._each(lambda fd, at: os.pread(fd, PAGE, at), range((1 << 20) - PAGE, -1, -PAGE * 9), 0.002)

    def at_random(self, _: int) -> None:
        places = [self.random.randrange(0, (3 << 20) // BLOCK) * BLOCK for _ in range(100)]
        self._each(lambda fd, at: os.pread(fd, 20_000, at), places, 0.003)

    def same_place(self, _: int) -> None:
        """The same page over and over, for longer than attributes are believed."""
        self._each(lambda fd, at: os.pread(fd, BLOCK * 2, at), [0] * 60, 0.02)

    def vectors(self, _: int) -> None:
        def read(fd: int, at: int) -> bytes:
            parts = [bytearray(BLOCK * 10), bytearray(PAGE), bytearray(BLOCK)]
            length = os.preadv(fd, parts, at)
            return b"".join(parts)[:length]

        self._each(read, range(0, 1 << 20, PAGE * 5), 0.003)

    def _each(self, read: Callable[[int, int], bytes], places: range | list[int], wait_s: float) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        number = None
        try:
            for at in places:
                if data := read(fd, at):
                    number = same_version(data, at, number)
                time.sleep(wait_s)
        finally:
            os.close(fd)

    def mapped(self, _: int) -> None:
        """By a process of its own, which a page that cannot be had any more ends."""
        done = subprocess.run(
            [sys.executable, "-S", "-c", MAPPER, self.path], capture_output=True, check=False, timeout=60
        )
        if done.returncode == -signal.SIGBUS:
            return
        if done.returncode == 1 and b"Stale" in done.stderr:
            raise OSError(errno.ESTALE, "stale")
        assert done.returncode == 0, done.stderr
        places = [line.split() for line in done.stdout.splitlines()]
        # What lies past the end of a shorter version does not say anything.
        found = {int(number) for place, at, number in places if place == at}
        assert len(found) <= 1, places
        assert all(place == at for place, at, _ in places), places


# Each page once, in no order, slowly: which version its first block is of.
MAPPER = f"""
import mmap, os, random, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
m = mmap.mmap(fd, size, prot=mmap.PROT_READ)
places = list(range(0, size - {BLOCK} + 1, {PAGE}))
random.shuffle(places)
seen = []
for at in (places * 60)[:60]:
    block = m[at : at + {BLOCK}]
    seen.append((at, int(block[13:29]), int(block[:12])))
    time.sleep(0.01)
for at, place, number in seen:
    print(at, place, number)
"""


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_no_reader_sees_two_versions(folder: Path, disk: Path, sizes: str, seconds: float) -> None:
    place = Place(folder, disk, SIZES[sizes])
    wait_out_ttl()
    # A name that is replaced between looking it up and opening it twice in a row is ESTALE, too.
    steps = [place.whole, place.forwards, place.backwards, place.at_random, place.same_place]
    steps += [place.vectors, place.mapped]
    workers = [Worker(step.__name__, step, STALE) for step in steps]

    def enough() -> bool:
        """Some way has met a replacement and each has read to the end, or nothing was tested."""
        met = any(worker.refused for worker in workers)
        return place.number > 10 and met and all(worker.done for worker in workers)

    done = work_for(seconds, [Worker("next", place.next, frozenset()), *workers], [], enough)
    print(place.number, done)
    assert enough(), done
    wait_out_ttl()
    assert same_version(place.path.read_bytes(), 0) == place.number - 1


@pytest.mark.parametrize("new_size", [3 << 20, 1 << 20, 4 << 20], ids=["same size", "shorter", "longer"])
@pytest.mark.parametrize("how", ["replaced", "in place"])
def test_old_handle_is_stale_and_a_new_one_is_not(folder: Path, disk: Path, how: str, new_size: int) -> None:
    """Pages that the kernel held are gone as well."""
    (disk / "f").write_bytes(content(1, 3 << 20))
    wait_out_ttl()
    path = folder / "f"
    old = os.open(path, os.O_RDONLY)
    mapping = mmap.mmap(old, 3 << 20, prot=mmap.PROT_READ)
    try:
        assert same_version(os.pread(old, 1 << 20, 0), 0) == 1
        assert same_version(mapping[:PAGE], 0) == 1
        number = os.fstat(old).st_ino
        if how == "replaced":
            (disk / "new").write_bytes(content(2, new_size))
            (disk / "new").rename(disk / "f")
        else:
            (disk / "f").write_bytes(content(2, new_size))
        wait_out_ttl()
        assert same_version(path.read_bytes(), 0) == 2
        assert path.stat().st_ino != number
        time.sleep(0.2)
        for at in (0, PAGE, 1 << 20, (3 << 20) - PAGE, 3 << 20):
            _one_version_or_stale(old, at)
        with pytest.raises(OSError, match="Stale"):
            os.fstat(old)
        with pytest.raises(OSError, match="Stale"):
            os.pread(old, 10, 3 << 20)  # who waits at the end
    finally:
        mapping.close()
        os.close(old)


def _one_version_or_stale(fd: int, at: int) -> None:
    try:
        data = os.pread(fd, PAGE, at)
    except OSError as e:
        assert e.errno == errno.ESTALE
    else:
        assert not data or same_version(data, at) == 1


@pytest.mark.parametrize("size", [BLOCK, 100_000, 3 << 20])
def test_file_that_is_longer_than_it_was_listed_is_read_whole(folder: Path, disk: Path, size: int) -> None:
    """The kernel has the size of the listing, which is believed still, when it is opened."""
    directories = [f"d{n}" for n in range(10)]  # one for each, or they are fetched ahead
    for name in directories:
        (disk / name).mkdir()
        (disk / name / "f").write_bytes(content(1, size))
    wait_out_ttl()
    for name in directories:
        path = folder / name / "f"
        assert path.stat().st_size == size  # which lists the directory once
        longer = content(2, size + 1000 * BLOCK)
        (disk / ".next").write_bytes(longer)
        (disk / ".next").rename(disk / name / "f")
        assert path.read_bytes() == longer


@pytest.mark.parametrize("touched", ["beginning", "end"])
def test_file_that_is_changed_and_grows_is_another_version(folder: Path, disk: Path, touched: str) -> None:
    """As a database does: its header changes, and something is added."""
    whole = content(1, 1 << 20)
    (disk / "f").write_bytes(whole)
    wait_out_ttl()
    old = os.open(folder / "f", os.O_RDONLY)
    try:
        assert len(os.pread(old, 2 << 20, 0)) == 1 << 20
        with (disk / "f").open("r+b") as f:
            f.seek(0 if touched == "beginning" else (1 << 20) - 100)
            f.write(b"changed")
            f.seek(0, os.SEEK_END)
            f.write(b"and more")
        wait_out_ttl()
        with pytest.raises(OSError, match="Stale"):
            os.pread(old, 100, (1 << 20) - 50)
            os.fstat(old)
        assert (folder / "f").read_bytes() == (disk / "f").read_bytes()
    finally:
        os.close(old)


def test_version_that_grew_shows_no_zeroes(folder: Path, disk: Path) -> None:
    """The kernel's last page ends in zeroes; who reads around it while it grows never sees them."""
    (disk / "f").write_bytes(content(7, BLOCK * 3))
    wait_out_ttl()
    size = BLOCK * 3
    held = os.open(folder / "f", os.O_RDONLY)

    def grow(_: int) -> None:
        nonlocal size
        with (disk / "f").open("ab") as f:
            f.write(content(7, size + BLOCK * 5)[size:])
        size += BLOCK * 5
        time.sleep(0.05)

    def at_the_end(_: int) -> None:
        end = os.fstat(held).st_size
        at = max(0, end - end % BLOCK - BLOCK * 20)
        data = os.pread(held, PAGE, at)
        assert same_version(data, at) == 7

    def all_of_it(_: int) -> None:
        same_version((folder / "f").read_bytes(), 0, 7)

    def mapped(_: int) -> None:
        done = subprocess.run(
            [sys.executable, "-S", "-c", MAPPER, folder / "f"], capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done
        rows = [line.split() for line in done.stdout.splitlines()]
        assert rows and all(at == place and int(number) == 7 for at, place, number in rows)

    try:
        steps = [grow, at_the_end, at_the_end, all_of_it, mapped]
        done = work_for(6, [Worker(f"{n}", step, frozenset()) for n, step in enumerate(steps)], [])
        print(size, done)
        end = time.monotonic() + 30
        while os.fstat(held).st_size != size:
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        os.close(held)
