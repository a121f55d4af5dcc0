"""Files that a session appends to on the server, followed here as people follow logs.

What is appended is appended on the server's own disk, as a container does it, never through the mount.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.fuse.conftest import Site, mounted_site, new_folder, wait_out_ttl
from tests.fuse.test_calls import manager_calls
from tests.support.embedded import Embedded, eventually
from tests.support.mounting import Mounted

# The mount's --attr-ttl of 0.5 s, a second, and what a busy machine takes. That nothing is believed for
# longer is seen where `wait_out_ttl` is followed by one look.
WITHIN_S = 20.0


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as f:
        f.write(data)


def replace(path: Path, content: bytes) -> None:
    """In one step, as an upload or a rotation ends."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.rename(path)


class Program:
    """A program that follows something; what it has said so far."""

    def __init__(self, *command: str | Path) -> None:
        self.said, self.complained = bytearray(), bytearray()
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        pipes = (self.process.stdout, self.said), (self.process.stderr, self.complained)
        self._threads = [threading.Thread(target=self._listen, args=pipe, daemon=True) for pipe in pipes]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _listen(pipe: object, into: bytearray) -> None:
        while piece := os.read(pipe.fileno(), 1 << 16):  # type: ignore[attr-defined]
            into.extend(piece)

    def says(self, wanted: bytes, within_s: float = WITHIN_S) -> None:
        """Wait until it has said all this, and nothing else."""
        end = time.monotonic() + within_s
        while bytes(self.said) != wanted:
            assert wanted.startswith(self.said), (bytes(self.said[-200:]), wanted[-200:])
            assert time.monotonic() < end, (self.said[-200:], wanted[-200:], self.complained)
            assert self.process.poll() is None, self.complained
            time.sleep(0.02)

    def complains(self, *wanted: bytes, within_s: float = WITHIN_S) -> None:
        """Wait until it has said one of these on its standard error."""
        end = time.monotonic() + within_s
        while not any(w in self.complained for w in wanted):
            assert time.monotonic() < end, (self.said[-200:], self.complained)
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(30)
        for thread in self._threads:
            thread.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def program(*command: str | Path) -> Iterator[Program]:
    running = Program(*command)
    try:
        yield running
    finally:
        running.stop()


READLINE = """
import sys, time
with open(sys.argv[1]) as f:
    while True:
        line = f.readline()
        if line:
            sys.stdout.write(line); sys.stdout.flush()
        else:
            time.sleep(0.1)
"""

# Reads records of (length, bytes) from where it stopped, in a file it keeps open or opens each time, and
# asks for a whole header where none may be yet: as TensorBoard reads event files.
RECORDS = """
import os, struct, sys, time
path, keep = sys.argv[1], sys.argv[2] == "keep"
f, at = None, 0
while True:
    f = f or open(path, "rb", buffering=0)
    while True:
        f.seek(at)
        head = f.read(4)
        if len(head) < 4: break
        length, = struct.unpack("<I", head)
        body = f.read(length)
        while body and len(body) < length:
            more = f.read(length - len(body))
            if not more: break
            body += more
        if len(body) < length: break
        sys.stdout.buffer.write(body); sys.stdout.flush()
        at += 4 + length
    if not keep:
        f.close(); f = None
    time.sleep(0.2)
"""


def place(pid: int, path: Path) -> int | None:
    """Where a process is in a file that it has open."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if fd.readlink() == path:
                return int(Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split()[1])
    return None


def watched(mounted: Mounted, name: str) -> bool:
    """Whether any file of that name is unsent, or was sent so lately that another version of it would be
    taken for a conflict."""
    with closing(sqlite3.connect(mounted.state / "records.sqlite")) as db:
        return bool(db.execute("select 1 from staged where name = ?", (name.encode(),)).fetchall())


PYTHON = (sys.executable, "-S", "-c")
FOLLOWERS: dict[str, tuple[str, ...]] = {
    "tail -f": ("tail", "-n", "+1", "-f"),
    "tail -F": ("tail", "-n", "+1", "-F"),
    "readline": (*PYTHON, READLINE),
    "tail -n 0 -f": ("tail", "-n", "0", "-f"),
    "cat in a loop": ("sh", "-c", 'n=0; while :; do tail -c +$((n+1)) "$0" >"$1" && cat "$1" && '
                      'n=$((n+$(wc -c <"$1"))); sleep 0.2; done'),
}  # fmt: skip


@pytest.mark.parametrize("who", FOLLOWERS)
def test_what_is_appended_on_the_server_is_seen(folder: Path, disk: Path, tmp_path: Path, who: str) -> None:
    wanted = b"".join(b"line %06d\n" % n for n in range(2000))
    (disk / "log").write_bytes(wanted)
    wait_out_ttl()
    with program(
        *FOLLOWERS[who], folder / "log", *([tmp_path / "part"] if "loop" in who else [])
    ) as follower:
        if "-n 0" in who:
            eventually(lambda: place(follower.process.pid, folder / "log") == len(wanted), 60)
            wanted = b""
        follower.says(wanted)
        sizes = (1, 7, 30, 5000, 4096, 300_000, 1, 2_000_000, 12)
        for n, size in enumerate(sizes):
            more = (b"%d more\n" % n * size)[:size]
            append(disk / "log", more)
            wanted += more
            follower.says(wanted)
        assert not follower.complained


@pytest.mark.parametrize("how", ["keep", "open"])
def test_event_files_are_followed_record_by_record(folder: Path, disk: Path, how: str) -> None:
    """Records arrive in pieces: whoever meets half of one waits for the rest."""
    (disk / "events").touch()
    wait_out_ttl()
    wanted = b""
    with program(*PYTHON, RECORDS, folder / "events", how) as follower:
        for n in range(8):
            body = b"event %d " % n * (n * 700 + 1)
            record = struct.pack("<I", len(body)) + body
            half = len(record) * n // 8
            append(disk / "events", record[:half])
            time.sleep(0.7)
            append(disk / "events", record[half:])
            wanted += body
            follower.says(wanted)
        assert not follower.complained


def test_less_goes_on(folder: Path, disk: Path) -> None:
    less = shutil.which("less")
    if less is None:
        pytest.skip("less is not installed")
    (disk / "log").write_bytes(b"first line\n")
    wait_out_ttl()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(less, ["less", "+F", str(folder / "log")], {"TERM": "vt100", "PATH": os.environ["PATH"]})
    shown = b""

    def shows(text: bytes) -> None:
        nonlocal shown
        end = time.monotonic() + WITHIN_S
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 4096)

    try:
        shows(b"first line")
        for n in range(4):
            append(disk / "log", b"line %d of more\n" % n)
            shows(b"line %d of more" % n)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_what_is_open_shows_its_new_size_and_bytes_to_all(folder: Path, disk: Path) -> None:
    """Another handle, the name and a listing show what the follower sees, and nobody a hole."""
    wanted = b"begin\n"
    (disk / "log").write_bytes(wanted)
    wait_out_ttl()
    with (folder / "log").open("rb", buffering=0) as held:
        assert held.read(100) == wanted
        for n in range(6):
            append(disk / "log", b"%d" % n * 3000)
            wanted += b"%d" % n * 3000
            if n % 2:  # who lists the directory is the first to see it
                wait_out_ttl()
                assert [e.stat().st_size for e in os.scandir(folder)] == [len(wanted)]
            _until(partial(_has_size, held.fileno(), len(wanted)))
            assert os.pread(held.fileno(), 100_000, 0) == wanted
            assert (folder / "log").read_bytes() == wanted
            assert (folder / "log").stat().st_size == len(wanted)
            assert [e.stat().st_size for e in os.scandir(folder)] == [len(wanted)]
        append(disk / "log", b"the end\n")
        wait_out_ttl()
        assert _has_size(held.fileno(), len(wanted) + 8)  # by one look: the old size is believed no longer
    changed = (disk / "log").stat().st_mtime_ns // 1000
    _until(lambda: (folder / "log").stat().st_mtime_ns // 1000 == changed)


def test_reader_in_the_middle_goes_on_in_the_grown_file(folder: Path, disk: Path) -> None:
    wanted = b"".join(b"%09d\n" % n for n in range(400_000))
    (disk / "big").write_bytes(wanted)
    wait_out_ttl()
    with (folder / "big").open("rb", buffering=0) as held:
        got = b""
        for n in range(200):
            if n % 10 == 5:
                append(disk / "big", b"more %04d\n" % n)
                wanted += b"more %04d\n" % n
                time.sleep(0.1)
            got += held.read(30_000)
        _until(partial(_has_size, held.fileno(), len(wanted)))
        while piece := held.read(1 << 20):
            got += piece
        assert got == wanted


def test_busy_log_is_read_whole(folder: Path, disk: Path) -> None:
    """Appended to many times a second: every request finds a newer version than the one before."""
    (disk / "log").write_bytes(b"0\n")
    wait_out_ttl()
    told = threading.Event()
    written = [1]

    def write() -> None:
        with (disk / "log").open("ab", buffering=0) as f:
            while not told.is_set():
                f.write(b"".join(b"%d\n" % (written[0] + i) for i in range(20)))
                written[0] += 20
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    with program(*FOLLOWERS["tail -f"], folder / "log") as follower:
        follower.says(b"0\n")
        writer.start()
        try:
            end = time.monotonic() + 8
            while time.monotonic() < end:
                for path in (folder / "log",):
                    lines = path.read_bytes().split(b"\n")[:-1]
                    assert lines == [b"%d" % n for n in range(len(lines))]
                assert follower.process.poll() is None, follower.complained
        finally:
            told.set()
            writer.join()
        follower.says(b"".join(b"%d\n" % n for n in range(written[0])), 30)


def test_rotated_log_is_followed_by_name(folder: Path, disk: Path) -> None:
    (disk / "log").write_bytes(b"old\n")
    wait_out_ttl()
    with program(*FOLLOWERS["tail -F"], folder / "log") as follower:
        follower.says(b"old\n")
        append(disk / "log", b"more\n")
        follower.says(b"old\nmore\n")
        (disk / "log").rename(disk / "log.1")
        (disk / "log").write_bytes(b"new file, and longer than the old one\n")
        follower.says(b"old\nmore\nnew file, and longer than the old one\n", 15)
        append(disk / "log", b"goes on\n")
        follower.says(b"old\nmore\nnew file, and longer than the old one\ngoes on\n", 15)


@pytest.mark.parametrize("how", ["truncated", "replaced", "replaced by a longer one", "rewritten in place"])
def test_descriptor_of_another_version_is_stale_and_says_so(folder: Path, disk: Path, how: str) -> None:
    """Never silence, and never bytes of both."""
    old = b"".join(b"line %04d\n" % n for n in range(100))
    (disk / "log").write_bytes(old)
    wait_out_ttl()
    new = {"truncated": b"cut\n", "replaced": b"short\n", "replaced by a longer one": b"x" * 3 + old + old}
    with program(*FOLLOWERS["tail -f"], folder / "log") as follower:
        follower.says(old)
        if how in ("truncated", "rewritten in place"):
            (disk / "log").write_bytes(new.get(how, old.replace(b"line", b"LINE") + b"more\n"))
        else:
            replace(disk / "log", new[how])
        follower.complains(b"tale", b"truncated")
        assert bytes(follower.said) == old


def test_log_truncated_in_place_is_followed_by_name(folder: Path, disk: Path) -> None:
    """As logrotate's copytruncate leaves it."""
    (disk / "log").write_bytes(b"old\n" * 1000)
    wait_out_ttl()
    with program(*FOLLOWERS["tail -F"], folder / "log") as follower:
        follower.says(b"old\n" * 1000)
        os.truncate(disk / "log", 0)
        append(disk / "log", b"new\n")
        follower.says(b"old\n" * 1000 + b"new\n", 15)


def test_what_is_appended_here_is_followed_as_well(site: Site, folder: Path, disk: Path) -> None:
    """And then the session goes on where we stopped."""
    (folder / "log").write_bytes(b"here\n")
    wanted = b"here\n"
    with program(*FOLLOWERS["tail -f"], folder / "log") as follower:
        follower.says(wanted)
        for n in range(3):
            append(folder / "log", b"here %d\n" % n)
            wanted += b"here %d\n" % n
            follower.says(wanted)
        assert (disk / "log").read_bytes() == wanted
        # Later than what is taken for a conflict.
        eventually(lambda: not watched(site.mounted, "log"), 120)
        for n in range(3):
            append(disk / "log", b"there %d\n" % n)
            wanted += b"there %d\n" % n
            follower.says(wanted)
        append(folder / "log", b"here again\n")
        wanted += b"here again\n"
        follower.says(wanted)
        assert (disk / "log").read_bytes() == wanted
    assert os.listdir(disk) == ["log"] or sorted(os.listdir(disk)) == [".upload", "log"]


@pytest.mark.parametrize("dialect", ["23.09", "26"])
def test_who_has_it_open_for_writing_never_overwrites_what_was_appended(dialect: str, tmp_path: Path) -> None:
    """What is written for the old end does not land in the middle of what is there now: it goes beside."""
    with Embedded(tmp_path / "data", dialect=dialect) as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        (disk / "log").write_bytes(b"begin\n")
        with Mounted(
            tmp_path, server.env("owner"), "--sync", "--dir-ttl", "1", "--attr-ttl", "0.5"
        ) as mounted:
            log = mounted.path / "data" / "log"
            with log.open("rb", buffering=0) as reader, log.open("ab", buffering=0) as ours:
                assert reader.read() == b"begin\n"
                append(disk / "log", b"theirs\n")
                wait_out_ttl()
                assert log.read_bytes() == b"begin\ntheirs\n"
                with suppress(OSError):
                    ours.write(b"ours\n")
                    os.fsync(ours.fileno())
                with suppress(OSError):
                    ours.close()
            assert (disk / "log").read_bytes() == b"begin\ntheirs\n"
            beside = [p.read_bytes() for p in disk.glob("log.conflict-*")]
            assert beside in ([], [b"begin\nours\n"])


@pytest.mark.parametrize("cycles", [40, pytest.param(6000, marks=pytest.mark.long)])
@pytest.mark.parametrize("dialect", ["23.09", "26"])
def test_following_costs_no_manager_call(dialect: str, cycles: int, tmp_path: Path) -> None:
    """Many times the life of attributes and of listings, each with something new."""
    with (
        mounted_site(tmp_path, f"embedded-{dialect}", "--attr-ttl", "0.05", "--dir-ttl", "0.2") as site,
        new_folder(site) as folder,
    ):
        assert site.embedded is not None
        (site.disk(folder.name) / "run").mkdir()
        log = site.disk(folder.name) / "run" / "log"
        wanted = b"begin\n"
        log.write_bytes(wanted)
        wait_out_ttl()
        with (
            program(*FOLLOWERS["tail -f"], "-s", "0.05", folder / "run" / "log") as by_handle,
            program(*FOLLOWERS["tail -F"], "-s", "0.05", folder / "run" / "log") as by_name,
            program(*PYTHON, READLINE, folder / "run" / "log") as by_line,
        ):
            everybody = by_handle, by_name, by_line
            for follower in everybody:
                follower.says(wanted)
            site.embedded.reset_calls()
            for n in range(cycles):
                more = b"cycle %d\n" % n * (1 + n % 50 * (n % 7 == 0))
                append(log, more)
                wanted += more
                for follower in everybody:
                    follower.says(wanted)
                if n % 10 == 0:
                    time.sleep(0.5)  # nothing new: the name is looked at again
            assert manager_calls(site.embedded) == {}
            assert not any(f.complained for f in everybody)


def _has_size(fd: int, size: int) -> bool:
    return os.fstat(fd).st_size == size


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
