"""Programs that use a mount while its daemons die: each checks all it sees, and tells of its longest wait.

Run as ``python -m tests.support.enduring PROGRAM TOP COPY STOP``: TOP on the mount, COPY a local file with
the content of TOP/big, STOP a file that appears when it is to end. Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 1 << 20
NAMES = 200


class Program:
    """One of them."""

    def __init__(self, top: Path, copy: Path, stop: Path) -> None:
        self.top = top
        self.copy = copy.read_bytes()
        self.stop = stop
        self.rounds = 0
        self.longest = 0.0
        self.errors: list[str] = []
        self.left: dict[str, str] = {}
        self.random = random.Random(os.getpid())

    def goes_on(self) -> bool:
        """Whether there is another round."""
        self.rounds += 1
        return not self.stop.exists() and len(self.errors) < 20

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """One system call or so, measured; what goes wrong is kept, and None returned."""
        began = time.monotonic()
        try:
            return function(*args, **options)
        except OSError as e:
            self.errors.append(f"{time.time():.3f} {function.__name__}{args}: {e}")
        finally:
            self.longest = max(self.longest, time.monotonic() - began)
        return None

    def check(self, right: bool, what: str) -> None:
        """Keep what is not as it should be."""
        if not right:
            self.errors.append(f"{time.time():.3f} {what}")

    def report(self) -> dict[str, Any]:
        """What came of it."""
        return {
            "rounds": self.rounds,
            "longest_s": self.longest,
            "errors": self.errors,
            "left": self.left,
        }


def pread(p: Program) -> None:
    """One open file, at random."""
    fd = os.open(p.top / "big", os.O_RDONLY)
    while p.goes_on():
        at, size = p.random.randrange(len(p.copy)), p.random.choice([1, 4096, 70_000, MIB])
        data = p.call(os.pread, fd, size, at)
        p.check(data == p.copy[at : at + size], f"pread of {size} at {at}")
    os.close(fd)


def sequential(p: Program) -> None:
    """Whole files, most of them from the kernel's cache."""
    while p.goes_on():
        fd = p.call(os.open, p.top / "big", os.O_RDONLY)
        if fd is None:
            continue
        for at in range(0, len(p.copy), MIB):
            p.check(p.call(os.read, fd, MIB) == p.copy[at : at + MIB], f"read at {at}")
        os.close(fd)


def mapped(p: Program) -> None:
    """Mappings, read at random."""
    while p.goes_on():
        fd = p.call(os.open, p.top / "big", os.O_RDONLY)
        if fd is None:
            continue
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
            os.close(fd)
            for _ in range(20):
                at = p.random.randrange(len(p.copy))
                p.check(
                    p.call(view.__getitem__, slice(at, at + 100)) == p.copy[at : at + 100], f"page at {at}"
                )
                time.sleep(0.005)


def write(p: Program) -> None:
    """Files written, synced and read back; one that is appended to all the time."""
    (p.top / "written").mkdir()
    journal = os.open(p.top / "written" / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    told = b""
    while p.goes_on():
        name = f"f{p.rounds % 7}"
        path = p.top / "written" / name
        content = p.random.randbytes(p.random.randrange(1, 600_000))
        fd = p.call(os.open, path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if fd is None:
            continue
        for at in range(0, len(content), 1 << 17):
            piece = content[at : at + (1 << 17)]
            p.check(p.call(os.write, fd, piece) == len(piece), f"write of {name} at {at}")
        p.call(os.fsync, fd)
        p.check(p.call(os.pread, fd, MIB, 0) == content, f"{name} as it was written")
        p.call(os.close, fd)
        p.check(p.call(path.read_bytes) == content, f"{name} as it was closed")
        line = f"{p.rounds} {name} {len(content)}\n".encode()
        p.check(p.call(os.write, journal, line) == len(line), "a line appended")
        told += line
        p.left[f"written/{name}"] = hashlib.sha256(content).hexdigest()
    p.check(p.call(os.pread, journal, len(told) + 1, 0) == told, "all lines")
    p.call(os.close, journal)
    p.left["written/journal"] = hashlib.sha256(told).hexdigest()


def listing(p: Program) -> None:
    """A directory that does not change, and what stands in it."""
    names = sorted(f"n{n:03}" for n in range(NAMES))
    while p.goes_on():
        p.check(sorted(p.call(os.listdir, p.top / "many") or []) == names, "the names of a directory")
        name = p.random.choice(names)
        found = p.call(os.stat, p.top / "many" / name)
        p.check(found is not None and found.st_size == int(name[1:]), f"the size of {name}")
        p.check(not os.path.lexists(p.top / "many" / f"x{p.rounds}"), "a name that is not there")


def names(p: Program) -> None:
    """Names made, moved and removed; each of it works once and only once."""
    top = p.top / "names"
    top.mkdir()
    while p.goes_on():
        n = p.rounds
        directory, file, moved = top / f"d{n}", top / f"d{n}" / "file", top / f"m{n}"
        p.call(os.mkdir, directory)
        fd = p.call(os.open, file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        if fd is None:
            continue
        p.call(os.write, fd, b"%d" % n)
        p.call(os.close, fd)
        p.check(p.call(os.listdir, directory) == ["file"], f"{directory.name} with one file")
        p.call(os.rename, file, moved)
        p.check(not os.path.lexists(file), f"{file} is moved")
        p.check(p.call(moved.read_bytes) == b"%d" % n, f"{moved.name} after it was moved")
        p.call(os.rmdir, directory)
        p.check(not os.path.lexists(directory), f"{directory} is removed")
        if n % 10:
            p.call(os.unlink, moved)
            p.check(not os.path.lexists(moved), f"{moved} is removed")
        else:
            p.left[f"names/{moved.name}"] = hashlib.sha256(b"%d" % n).hexdigest()
    p.check(
        sorted(p.call(os.listdir, top) or []) == sorted(name.removeprefix("names/") for name in p.left),
        "the names that are left",
    )


PROGRAMS = {f.__name__: f for f in (pread, sequential, mapped, write, listing, names)}


if __name__ == "__main__":
    program = Program(*map(Path, sys.argv[2:5]))
    PROGRAMS[sys.argv[1]](program)
    print(json.dumps(program.report()))
