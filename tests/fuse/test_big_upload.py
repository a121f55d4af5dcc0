"""A large file's way to the server, cut again and again: little is sent twice, and all of it arrives."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fuse.conftest import Site
from tests.support.cutproxy import CutProxy
from tests.support.embedded import Embedded, RawClient
from tests.support.live import DIRECTORY, live_environment
from tests.support.mounting import Mounted
from vfsmount.core import tus

MIB = 1 << 20
SLACK = MIB  # headers, and requests that carry no content
_numbers = itertools.count()
BACKENDAI = Path(__file__).parents[1] / "live/backendai"


def content(size: int) -> Iterator[bytes]:
    """Seeded random bytes, no two pieces of them the same."""
    block = random.Random(size).randbytes(MIB - 8)
    for n in range(size // MIB):
        yield n.to_bytes(8, "big") + block
    yield block[: size % MIB]


def first_difference(path: Path, size: int) -> int | None:
    """Offset of the MiB where a file is not `content`; None for an identical one."""
    with path.open("rb") as f:
        for n, piece in enumerate(content(size)):
            if f.read(len(piece)) != piece:
                return n * MIB
        return size if f.read(1) else None


# --- the three that are cut ---------------------------------------------------------------------


class Way:
    """A daemon, a server, and the line between the two, each of which can be cut.

    Attributes:
        site: the server with our mount on it.
        line: stands in front of the storage-proxy.
    """

    def __init__(self, directory: Path, server: str, folder: str) -> None:
        self.folder = folder
        self._data = directory / "data"
        embedded = None
        if server != "live":
            embedded = Embedded(self._data, dialect=server.removeprefix("embedded-"))
        env = embedded.env("owner") if embedded else dict(live_environment("owner"))
        owner = RawClient(env)
        owner.ok("POST", "/folders", {"name": folder})
        url, _ = owner.grant(folder, ".")
        self._storage = f"http://{urlsplit(url).netloc}"
        self.line = CutProxy(self._storage)
        env["BACKEND_OVERRIDE_STORAGE_PROXY"] = f"{self._storage}={self.line.url}"
        self.site = Site(Mounted(directory, env), embedded, owner, env)

    def cut_line(self, then: int | None) -> None:
        """Break the connections, and refuse new ones for a second; `then` as for `CutProxy.hold_at`."""
        self.line.cut()
        self.line.hold_at(then)
        time.sleep(1)
        self.line.restore()

    def kill_daemon(self, then: int | None) -> None:
        """SIGKILL, and the next daemon on the same mountpoint."""
        self.site.mounted.kill()
        self.line.hold_at(then)  # what was on its way arrives before anybody asks
        self.site.mounted.start()

    def kill_server(self, then: int | None) -> None:
        """SIGKILL, and the next server on the same ports and data."""
        old = self.site.embedded
        if old is None:
            restart_real_storage_proxy()
            self.line.hold_at(then)
            return
        old.kill()
        old.stop()
        self.line.hold_at(then)
        ports = {"port": urlsplit(old.url).port, "storage_port": urlsplit(self._storage).port}
        self.site.embedded = Embedded(old.data, dialect=old.dialect, **ports)

    def cuts(self) -> list[Callable[[int | None], None]]:
        """What can be killed here."""
        if self.site.embedded is None and not real_storage_proxy_is_ours():
            return [self.cut_line, self.kill_daemon]
        return [self.cut_line, self.kill_daemon, self.kill_server]

    def close(self) -> None:
        """End what still runs, and give the disk its room back."""
        self.site.mounted.stop("--timeout", "5")
        self.line.cut()
        self.site.owner.call("DELETE", f"/folders/{self.folder}")
        self.site.owner.close()
        if self.site.embedded is not None:
            self.site.embedded.stop()
        for path in (self._data, self.site.mounted.state):
            shutil.rmtree(path, ignore_errors=True)


def real_storage_proxy_is_ours() -> bool:
    """Only where it is asked for: other tests use the same server, and its manager needs a while."""
    asked = os.environ.get("VFSMOUNT_RESTART_STORAGE_PROXY") == "1"
    return asked and (Path(os.environ[DIRECTORY]) / "run/storage-proxy.pid").exists()


def restart_real_storage_proxy() -> None:
    work = os.environ[DIRECTORY]
    noted = subprocess.run(
        ["bash", "-c", '. "$0"; pid_of storage-proxy', BACKENDAI / "lib.sh"],
        env={**os.environ, "WORK": work},
        capture_output=True,
        check=True,
    )
    os.killpg(int(noted.stdout), signal.SIGKILL)
    subprocess.run([BACKENDAI / "up", work], check=True, capture_output=True)


@pytest.fixture
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    way = Way(tmp_path, request.param, f"big-{os.getpid()}-{next(_numbers)}")
    try:
        way.site.mounted.start()
        yield way
    finally:
        way.close()


# --- the test -----------------------------------------------------------------------------------


def wait_for_server(path: Path, deadline_s: float = 150) -> None:
    """Ask until the server has the file; while it is away the answer is an error."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            os.setxattr(path, "user.vfsmount.wait", b"1")
        except OSError as e:
            assert e.errno in (errno.EIO, errno.ETIMEDOUT) and time.monotonic() < end
            time.sleep(0.2)
        else:
            return


EMBEDDED = ["embedded-23.09", "embedded-26"]
BIG = [*EMBEDDED, pytest.param("live", marks=pytest.mark.live)]


@pytest.mark.parametrize("way", EMBEDDED, indirect=True)
def test_file_arrives_over_a_line_that_is_cut_four_times(way: Way) -> None:
    write_and_cut(way, 256 * MIB + 12345, 4)


@pytest.mark.parametrize("way", EMBEDDED, indirect=True)
def test_small_change_sends_the_whole_file(way: Way) -> None:
    size = 3 * MIB + 123
    path = way.site.mounted.path / way.folder / "big"
    path.write_bytes(b"".join(content(size)))
    wait_for_server(path)
    before = way.line.sent_up
    with path.open("r+b") as f:
        f.seek(MIB)
        f.write(b"x")
    wait_for_server(path)
    assert size <= way.line.sent_up - before <= size + SLACK


@pytest.mark.slow
@pytest.mark.parametrize("way", BIG, indirect=True)
def test_two_gib_arrive_over_a_line_that_is_cut_ten_times(way: Way) -> None:
    write_and_cut(way, 2048 * MIB + 12345, 10)


def write_and_cut(way: Way, size: int, cuts: int) -> None:
    began = time.monotonic()
    # Each lies somewhere inside a piece.
    at = [size * n // (cuts + 1) + random.Random(n).randrange(tus.PIECE) for n in range(1, cuts + 1)]
    way.line.hold_at(at[0])
    path = way.site.mounted.path / way.folder / "big"
    with path.open("wb", buffering=0) as f:
        for piece in content(size):
            f.write(piece)
    tell(began, "closed")  # though the server can have no more than the first part
    for n, cut in zip(range(cuts), itertools.cycle(way.cuts()), strict=False):
        way.line.wait_held()
        tell(began, f"{cut.__name__} at {way.line.sent_up / MIB:.1f} MiB")
        cut(at[n + 1] if n + 1 < cuts else None)
    wait_for_server(path)
    tell(began, f"sent {(way.line.sent_up - size) / MIB:.2f} MiB twice")
    disk = way.site.disk(way.folder)
    assert first_difference(disk / "big", size) is None
    assert way.line.sent_up <= size + cuts * tus.PIECE + SLACK
    assert os.listdir(path.parent) == ["big"]
    done = way.site.mounted.stop()
    assert (done.returncode, done.stderr) == (0, "")
    assert [p.name for p in disk.rglob("*") if p.is_file()] == ["big"]
    assert list((way.site.mounted.state / "staging").iterdir()) == []
    assert not [line for line in way.site.mounted.warnings() if " ERROR " in line]


def tell(began: float, what: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {what}")
