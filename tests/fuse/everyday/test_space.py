"""Programs that allocate, punch, map or overwrite in place on a real mount, compared with a local disk."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compare import run_in, same_on_both, same_on_server, settle

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16
MODES = [
    0,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
]


@pytest.mark.parametrize("mode", MODES)
def test_fallocate_is_refused_and_changes_nothing(folder: Path, disk: Path, mode: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    with (folder / "f").open("w+b") as f:
        f.write(b"content")
        f.flush()
        assert libc.fallocate(f.fileno(), mode, 0, 1 << 20) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        assert os.fstat(f.fileno()).st_size == 7
        f.write(b" and more")
    settle(folder)
    assert (disk / "f").read_bytes() == b"content and more"


def test_fallocate_program_says_it_is_not_supported(folder: Path) -> None:
    command = ["fallocate", "-l", "1M", folder / "f"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "not supported" in done.stderr
    assert (folder / "f").stat().st_size == 0


def test_posix_fallocate_writes_instead(folder: Path, disk: Path, tmp_path: Path) -> None:
    """The C library extends the file by writing where the file system cannot allocate."""
    code = """
import os
with open("new", "wb") as f:
    os.posix_fallocate(f.fileno(), 0, 300_000)
    f.write(b"start")
with open("kept", "wb") as f: f.write(b"0123456789" * 1000)
with open("kept", "r+b") as f:
    os.posix_fallocate(f.fileno(), 5000, 20_000)
    f.seek(24_990)
    f.write(b"end")
print(os.stat("new").st_size, os.stat("kept").st_size)
"""

    def work(directory: Path) -> str:
        said = run_in(directory, sys.executable, "-c", code)
        return said + run_in(directory, "fallocate", "--posix", "-l", "200000", "by-program")

    same_on_both(work, tmp_path / "local", folder, disk)


def test_programs_that_overwrite_in_place(folder: Path, disk: Path, tmp_path: Path) -> None:
    """Each changes part of a file that is there, without replacing it."""

    def work(directory: Path) -> list[str]:
        (directory / "f").write_bytes(bytes(range(256)) * 4000)
        dd = ["dd", "conv=notrunc", "status=none"]
        run_in(directory, *dd, "if=/dev/zero", "of=f", "bs=4096", "count=3", "seek=100")
        run_in(directory, *dd, "if=f", "of=f", "bs=1000", "count=50", "skip=10", "seek=500")
        run_in(directory, *dd, "if=/dev/zero", "of=f", "bs=7", "count=1", "oflag=append")
        run_in(directory, *dd, "if=f", "of=synced", "bs=64K", "oflag=dsync")
        run_in(directory, "dd", "if=/dev/null", "of=f", "bs=1", "seek=1000001", "status=none")
        run_in(directory, "truncate", "-s", "+5000", "synced")
        run_in(directory, "truncate", "-s", "%4096", "f")
        run_in(directory, "shred", "-n", "1", "-z", "-s", "8192", "synced")
        run_in(directory, "sh", "-c", "seq 1000 -1 1 > lines; sort -n lines -o lines; echo more >> lines")
        run_in(directory, "sh", "-c", "exec 3<>lines; head -c 20 <&3 >&2; printf over >&3")
        run_in(directory, "split", "-b", "300K", "f", "part-")
        run_in(directory, "sh", "-c", "cat part-* | cmp - f")
        run_in(directory, "cp", "--sparse=always", "f", "sparse")
        run_in(directory, "cp", "--reflink=auto", "f", "copied")
        return [
            run_in(directory, "md5sum", "f", "synced", "lines"),
            run_in(directory, "tail", "-c5", "lines"),
        ]

    same_on_both(work, tmp_path / "local", folder, disk)


MAPPING = """
import mmap, os
def mapped(name, size, mode="r+b"):
    with open(name, mode) as f:
        f.truncate(size)
        return mmap.mmap(f.fileno(), size)

m = mapped("synced", 300_000, "w+b")                # as linkers write: a new file, filled through a mapping
for n in range(0, 300_000, 10_000): m[n : n + 5] = b"%05d" % (n // 10)
m.flush(); m.close()

m = mapped("unsynced", 100_000, "w+b")              # no msync: munmap and the end of the process have to do
m[50_000:50_010] = b"0123456789"
m.close()

with open("grows", "w+b") as f:                     # as databases do: mapped anew each time it has grown
    for n in range(1, 6):
        f.truncate(n * 20_000)
        with mmap.mmap(f.fileno(), n * 20_000) as m:
            m[-10:] = b"%010d" % n
            m[0:4] = b"%04d" % n
    f.seek(0); print(f.read(4))
    os.pwrite(f.fileno(), b"written", 100)          # a write shows in a mapping, and the other way round
    with mmap.mmap(f.fileno(), 0) as m:
        print(m[100:107]); m[200:206] = b"mapped"
        print(os.pread(f.fileno(), 6, 200))

with open("private", "w+b") as f:                   # a private mapping changes nothing
    f.write(b"." * 10_000); f.flush()
    with mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE) as m: m[0:5] = b"never"

m = mapped("left", 50_000, "w+b"); m[40_000:40_004] = b"left"   # neither flushed nor closed
"""


def test_programs_that_write_through_a_mapping(folder: Path, disk: Path, tmp_path: Path) -> None:
    def work(directory: Path) -> str:
        return run_in(directory, sys.executable, "-c", MAPPING)

    same_on_both(work, tmp_path / "local", folder, disk)
    assert (disk / "left").read_bytes()[40_000:40_004] == b"left"


def test_mapping_outlives_its_descriptor_and_is_shared(folder: Path, disk: Path) -> None:
    """Two processes map one file, as shared memory; nobody has it open otherwise."""
    (folder / "shared").write_bytes(bytes(8192))
    code = """
import mmap, sys
with open("shared", "r+b") as f: m = mmap.mmap(f.fileno(), 0)
print("mapped", flush=True)
for line in sys.stdin:
    at, text = line.split()
    if text == "?": print(m[int(at) : int(at) + 5].decode(), flush=True)
    else: m[int(at) : int(at) + 5] = text.encode(); print("done", flush=True)
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    peers = [subprocess.Popen(command, cwd=folder, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    assert [peer.stdout.readline() for peer in peers] == ["mapped\n"] * 2
    for n in range(10):
        for writer, reader in (peers, peers[::-1]):
            writer.stdin.write(f"{n * 700} {n:05}\n")
            assert writer.stdout.readline() == "done\n"
            reader.stdin.write(f"{n * 700} ?\n")
            assert reader.stdout.readline() == f"{n:05}\n"
    for peer in peers:
        peer.stdin.close()
        assert peer.wait(60) == 0
        peer.stdout.close()
    settle(folder)
    assert (disk / "shared").read_bytes()[6300:6305] == b"00009"
    same_on_server(folder, disk)
