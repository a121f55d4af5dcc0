"""Where reads are measured: a server, a way to it, fresh mounts on that way, and what these cost.

A `Server` has one folder with the files that are read. A `Way` leads to it directly or over a `Link`. A
`Mount` is a daemon that has never seen the folder before: state and cache lie in a directory of its own.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from bench.link import Link
from tests.support.embedded import Embedded, RawClient
from tests.support.live import DIRECTORY, live_environment
from tests.support.mounting import Mounted, vfsmount

BACKENDAI = Path(__file__).parents[1] / "tests/live/backendai"
MIB = 1 << 20
FIRST, FIRST_SIZE = 12, 16 * MIB  # files whose beginning or end is read
SMALL, SMALL_SIZE = 1000, 4096  # a directory of small files
_numbers = itertools.count()


@dataclass(frozen=True)
class Kind:
    """A kind of way.

    Attributes:
        part: how much of the asked-for size is read over it, so that a round takes seconds.
    """

    name: str
    rtt_ms: float = 0
    mbit: float = 0
    stall_every: float = 0
    stall_for: float = 0
    part: float = 1

    @property
    def line_mb_s(self) -> float:
        """The line's rate less its stalls, in MB (10^6 bytes) a second; 0 for one without."""
        stalls = self.stall_for / (self.stall_every + self.stall_for) if self.stall_for else 0
        return self.mbit / 8 * (1 - stalls)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("plain"),
        Kind("0.5ms", rtt_ms=0.5),
        Kind("20ms", rtt_ms=20, mbit=1000),
        Kind("80ms", rtt_ms=80, mbit=200, stall_every=4, stall_for=0.2, part=0.25),
    )
}


class Server:
    """The embedded server or the real one, with one folder of ours in it.

    Attributes:
        name: "embedded" or "live".
        env: settings of the folder's owner.
        disk: the folder on the server's own disk.
    """

    def __init__(self, name: str, work: Path, dialect: str) -> None:
        self.name, self.folder = name, f"bench-reads-{os.getpid()}"
        self._embedded = None
        if name == "embedded":
            self._embedded = Embedded(work / "server", dialect=dialect, rate_limit=10_000_000)
            self.env = self._embedded.env("owner")
        else:
            self.env = dict(live_environment("owner"))
        try:
            self._owner = RawClient(self.env)
            folder_id = self._owner.ok("POST", "/folders", {"name": self.folder})["id"].replace("-", "")
            if self._embedded:
                self.disk = self._embedded.folder_dir(folder_id)
            else:
                parts = f"{folder_id[:2]}/{folder_id[2:4]}/{folder_id[4:]}"
                (self.disk,) = (Path(os.environ[DIRECTORY]) / "vfroot").glob(f"*/*/{parts}")
            self._plant()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Drop the folder, and the embedded server with it."""
        if self._embedded:
            self._embedded.stop()
            shutil.rmtree(self._embedded.data, ignore_errors=True)
            return
        for path in self.disk.iterdir() if hasattr(self, "disk") else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._owner.call("DELETE", f"/folders/{self.folder}")
        self._owner.close()

    def _plant(self) -> None:
        for directory, count, size in (("first", FIRST, FIRST_SIZE), ("small", SMALL, SMALL_SIZE)):
            (self.disk / directory).mkdir()
            for n in range(count):
                write_noise(self.disk / directory / f"f{n:04d}", size)

    def file(self, size: int) -> str:
        """The name of a file of so many bytes in the folder; made where it is not there yet."""
        name = f"big-{size}"
        if not (self.disk / name).exists():
            write_noise(self.disk / name, size)
        return name

    @functools.cached_property
    def netlocs(self) -> tuple[str, str]:
        """host:port of the manager and of the storage-proxy."""
        url, _ = self._owner.grant(self.folder, ".")
        return urlsplit(self.env["BACKEND_ENDPOINT"]).netloc, urlsplit(url).netloc


def write_noise(path: Path, size: int) -> None:
    """Write bytes that do not compress, no two pieces of a MiB alike."""
    noise = os.urandom(MIB - 8)
    with path.open("wb") as f:
        for n in range(size // MIB):
            f.write(n.to_bytes(8, "big") + noise)
        f.write(noise[: size % MIB])


class Way:
    """A way from here to a server: settings of who takes it, download addresses, bytes counted.

    Attributes:
        counts: the link counts what goes over it; a direct connection does not.
    """

    def __init__(self, server: Server, kind: Kind, link: Link | None) -> None:
        self.server, self.kind, self.counts = server, kind, link is not None
        self._link, self._manager, self._storage = link, *server.netlocs
        self.env = dict(server.env)
        if link:
            here = f"http://127.0.0.1:{link.ports[self._storage]}"
            self.env["BACKEND_ENDPOINT"] = f"http://127.0.0.1:{link.ports[self._manager]}"
            self.env["BACKEND_OVERRIDE_STORAGE_PROXY"] = f"http://{self._storage}={here}"
        self._client = RawClient(server.env)

    def url(self, path: str) -> str:
        """A download address of a file over this way. It holds a token: a secret."""
        return self._addressed(self._client, path)

    def url_of_stranger(self, path: str) -> str:
        """The same, asked for over this way by somebody who has no connection yet."""
        client = RawClient(self.env)
        try:
            return self._addressed(client, path)
        finally:
            client.close()

    def _addressed(self, client: RawClient, path: str) -> str:
        url, token = client.grant(self.server.folder, ".")
        if self._link:
            url = url.replace(self._storage, f"127.0.0.1:{self._link.ports[self._storage]}", 1)
        return f"{url}?{urlencode({'token': token, 'dst_dir': path})}"

    def down(self) -> int:
        """Bytes that the storage-proxy has sent over this way so far."""
        assert self._link
        return self._link.down(self._storage)

    def wait_quiet(self, deadline_s: float = 10) -> None:
        """Until nothing comes any more, of what was asked for ahead of a reader."""
        pause, end = max(0.1, self.kind.rtt_ms / 1000 * 2.5), time.monotonic() + deadline_s
        before = -1
        if not self.counts:
            time.sleep(pause)
        while self.counts and (seen := self.down()) != before and time.monotonic() < end:
            before = seen
            time.sleep(pause)

    def late(self) -> float:
        """The part of what was carried that the link delivered too late by itself."""
        if not self._link:
            return 0
        report = self._link.report()
        carried, late = report["carried"], report["late"]
        assert isinstance(carried, int) and isinstance(late, int)
        return late / carried if carried else 0

    def close(self) -> None:
        """End its connections."""
        self._client.close()


@contextmanager
def opened(server: Server, kind: Kind, *, counting: bool = False) -> Iterator[Way]:
    """A way of this kind; `counting` puts a relay without delay even into a direct one."""
    with ExitStack() as stack:
        link = None
        if counting or kind.rtt_ms:
            stalls = {"stall_every": kind.stall_every, "stall_for": kind.stall_for}
            link = Link(*dict.fromkeys(server.netlocs), rtt_ms=kind.rtt_ms, mbit=kind.mbit, **stalls)
            stack.enter_context(link)
        way = Way(server, kind, link)
        stack.callback(way.close)
        yield way


@contextmanager
def live_stack() -> Iterator[None]:
    """The real server: as VFSMOUNT_LIVE_ENV_DIR says, else brought up, and ended unless it ran before."""
    if os.environ.get(DIRECTORY):
        yield
        return
    work = subprocess.run([BACKENDAI / "workdir"], check=True, capture_output=True, text=True).stdout.strip()
    ran = subprocess.run([BACKENDAI / "status", work], check=False, capture_output=True).returncode == 0
    subprocess.run([BACKENDAI / "up", work], check=True, stdout=subprocess.DEVNULL)
    os.environ[DIRECTORY] = work
    try:
        yield
    finally:
        if not ran:
            subprocess.run([BACKENDAI / "down", work], check=True)


# --- mounts -------------------------------------------------------------------------------------


@functools.cache
def _offers(option: str) -> bool:
    return option in vfsmount("mount", "--help", env={}).stdout


class Mount(Mounted):
    """A fresh daemon, without the log of every operation.

    Attributes:
        folder: the folder with the files, listed.
        way: how it reaches the server.
    """

    def __init__(self, work: Path, way: Way, *options: str) -> None:
        self.where = work / f"mount-{next(_numbers)}"
        self.where.mkdir()
        cache = ("--cache-dir", str(self.where / "cache")) if _offers("--cache-dir") else ()
        super().__init__(self.where, {**way.env, "XDG_CACHE_HOME": str(self.where / "xdg")}, *cache, *options)
        self.way, self.folder = way, self.path / way.server.folder

    def start(self) -> None:
        """Mount, and list the folder."""
        done = vfsmount(
            self.path, "--log-file", self.log, "--state-dir", self.state, *self._options, env=self._env
        )
        assert done.returncode == 0, done.stderr
        os.listdir(self.folder)
        self.begin()

    def __enter__(self) -> Mount:
        self.start()
        return self

    def stop(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Unmount, wait for the daemon's end, and leave nothing behind."""
        try:
            done = super().stop(*options)
            assert done.returncode == 0, done.stderr
            assert not self.warnings(), self.warnings()
        finally:
            shutil.rmtree(self.where, ignore_errors=True)
        return done

    def begin(self) -> None:
        """What is told by `cost` begins here."""
        self._cpu_s = sum(map(_cpu_s, _family(self.pid)))
        self._down = self.way.down() if self.way.counts else 0

    def cost(self) -> dict[str, float]:
        """Since `begin`, when the line is quiet: bytes sent by the server, seconds computed; most memory."""
        self.way.wait_quiet()
        found = {
            "cpu_s": sum(map(_cpu_s, _family(self.pid))) - self._cpu_s,
            "rss_mib": sum(map(_most_resident_mib, _family(self.pid))),
        }
        if self.way.counts:
            found["sent"] = self.way.down() - self._down
        return found


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(p for c in children for child in c.read_text().split() for p in _family(int(child)))]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _most_resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0
