"""Memory and disk that reading takes: bounded, shared, verified."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.disks import used
from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, vfsmount

pytestmark = pytest.mark.fuse

MIB = 1 << 20
# What comes before it is opened is confirmed once more where that took longer than attributes are believed,
# which would count here.
CALM = ("--attr-ttl", "60")


def content(path: Path, mib: int, seed: int) -> None:
    """Blocks that tell their file and place."""
    filler = bytes(range(256)) * (MIB // 256 - 1)
    with path.open("wb") as f:
        for n in range(mib):
            f.write(f"{seed}:{n}".encode().ljust(256, b".") + filler)


def read_through(path: Path, piece: int = MIB) -> int:
    total = 0
    with path.open("rb", buffering=0) as f:
        while part := f.read(piece):
            total += len(part)
    return total


def memory(pid: int, field: str) -> int:
    """Bytes, of a line in /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


@pytest.fixture(params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "data", dialect=request.param) as embedded:
        yield embedded


def folder(server: Embedded, name: str) -> Path:
    return server.folder_dir(server.create_folder("owner", name))


def test_two_hundred_readers_stay_within_the_memory_budget(server: Embedded, tmp_path: Path) -> None:
    disk = folder(server, "many")
    for n in range(200):
        content(disk / f"f{n}", 4, n)
    with Mounted(tmp_path, server.env("owner")) as mounted:
        names = sorted(os.listdir(mounted.path / "many"))
        all_open = threading.Barrier(200, timeout=120)

        def read(name: str) -> bool:
            with (mounted.path / "many" / name).open("rb", buffering=0) as f:
                got = f.read(100_000)
                all_open.wait()
                while part := f.read(MIB):
                    got += part
            return got == (disk / name).read_bytes()

        with ThreadPoolExecutor(200) as readers:
            assert all(readers.map(read, names))
        assert memory(mounted.pid, "VmHWM") <= (256 + 32) * MIB


@pytest.mark.parametrize("piece", [MIB, 64 << 10, 5000])
def test_memory_too_small_for_what_is_read_loses_nothing(
    server: Embedded, tmp_path: Path, piece: int
) -> None:
    """Whatever is evicted before its reader comes is fetched again."""
    disk = folder(server, "tight")
    for n in range(6):
        content(disk / f"f{n}", 12, n)
    with Mounted(tmp_path, server.env("owner"), "--memory=4", "--cache-size=0") as mounted:

        def read(n: int) -> bool:
            with (mounted.path / "tight" / f"f{n}").open("rb", buffering=0) as f:
                return b"".join(iter(lambda: f.read(piece), b"")) == (disk / f"f{n}").read_bytes()

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(read, range(6)))


def files_asked_for(server: Embedded) -> float:
    """Each from a 23.09 server is confirmed, too."""
    return server.count("GET", "/download") / (2 if server.dialect == "23.09" else 1)


@pytest.mark.parametrize("order", ["listed", "by name", "by number"])
def test_small_files_come_before_they_are_opened(server: Embedded, tmp_path: Path, order: str) -> None:
    disk = folder(server, "small")
    young = time.time() + 3600  # or 26.x would be asked for all of them at once
    for n in range(400):
        (disk / f"f{n:03}").write_bytes(f"{n}".encode() * 100)
        os.utime(disk / f"f{n:03}", (young, young))
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        names = os.listdir(mounted.path / "small")
        if order == "by name":
            names.sort()
        elif order == "by number":
            names.sort(key=lambda name: (mounted.path / "small" / name).stat().st_ino)
        server.reset_calls()
        for name in names[:40]:
            assert (mounted.path / "small" / name).read_bytes() == (disk / name).read_bytes()
        assert 40 < files_asked_for(server) <= 81, "at most as many in vain as were read"
        for name in names[40:]:
            assert (mounted.path / "small" / name).read_bytes() == (disk / name).read_bytes()
        assert files_asked_for(server) <= 405, "none twice"


def test_small_files_in_no_order_are_fetched_one_by_one(server: Embedded, tmp_path: Path) -> None:
    disk = folder(server, "mixed")
    for n in range(400):
        (disk / f"f{n:03}").write_bytes(b"x" * 100)
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        names = sorted(os.listdir(mounted.path / "mixed"))
        server.reset_calls()
        for n in range(40):
            (mounted.path / "mixed" / names[n * 157 % 400]).read_bytes()
        assert files_asked_for(server) <= 60


def test_cache_on_disk_stays_bounded_while_readers_fill_it(server: Embedded, tmp_path: Path) -> None:
    limit, readers = 64 * MIB, 4
    disk = folder(server, "large")
    for n in range(readers):
        content(disk / f"f{n}", 3 * 64 // readers, n)
    with Mounted(tmp_path, server.env("owner"), "--cache-size=64", "--cache-free=0") as mounted:
        done = threading.Event()
        most = 0

        def watch() -> None:
            nonlocal most
            while not done.is_set():
                most = max(most, used(mounted.cache))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(readers) as pool:
                sizes = list(
                    pool.map(read_through, [mounted.path / "large" / f"f{n}" for n in range(readers)])
                )
        finally:
            done.set()
            watcher.join()
        assert sizes == [48 * MIB] * readers
        assert limit // 2 < most <= limit + readers * MIB


def test_restart_finds_what_was_read(server: Embedded, tmp_path: Path) -> None:
    disk = folder(server, "kept")
    content(disk / "f", 20, 1)
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        assert read_through(mounted.path / "kept" / "f") == 20 * MIB
    with counted(server) as requests, Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        assert (mounted.path / "kept" / "f").read_bytes() == (disk / "f").read_bytes()
    assert requests() <= 2  # its version, with its beginning


def test_two_mounts_share_the_cache(server: Embedded, tmp_path: Path) -> None:
    disk = folder(server, "shared")
    for n in range(4):
        content(disk / f"f{n}", 24, n)
    ways = tmp_path / "a", tmp_path / "b"
    for way in ways:
        way.mkdir()
    common = f"--cache-dir={tmp_path / 'common'}"
    with (
        Mounted(ways[0], server.env("owner"), common, *CALM) as first,
        Mounted(ways[1], server.env("owner"), common, *CALM) as second,
    ):
        paths = [m.path / "shared" / f"f{n}" for n in range(4) for m in (first, second)]
        with ThreadPoolExecutor(8) as pool:  # under load, both at once
            got = list(pool.map(Path.read_bytes, paths))
        assert got == [(disk / f"f{n // 2}").read_bytes() for n in range(8)]
        content(disk / "late", 20, 9)
        os.listdir(first.path / "shared")
        assert read_until_there(first.path / "shared" / "late") == 20 * MIB
        # What a busy disk had no time for when it was read.
        late = first.path / "shared" / "late"
        done = vfsmount("warmup", late, "--state-dir", first.state, env=server.env("owner"))
        assert done.returncode == 0, done.stderr
        with counted(server) as requests:
            assert read_until_there(second.path / "shared" / "late") == 20 * MIB
        assert requests() <= 3


def test_flipped_bit_is_noticed_and_healed(server: Embedded, tmp_path: Path) -> None:
    disk = folder(server, "bits")
    content(disk / "f", 8, 3)
    with Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
        assert read_through(mounted.path / "bits" / "f") == 8 * MIB
    flipped = 0
    for path in (tmp_path / "cache" / "blocks").rglob("*"):
        if path.is_file():
            with path.open("r+b") as f:
                f.seek(5 * MIB)
                byte = f.read(1)
                f.seek(-1, os.SEEK_CUR)
                f.write(bytes([byte[0] ^ 0x10]))
                flipped += 1
    assert flipped == 1
    for expected in (range(2, 7), range(3)):  # the second time it is whole again
        with counted(server) as requests, Mounted(tmp_path, server.env("owner"), *CALM) as mounted:
            assert (mounted.path / "bits" / "f").read_bytes() == (disk / "f").read_bytes()
        assert requests() in expected


def read_until_there(path: Path) -> int:
    """Read a file that the mount may not have heard of yet."""
    while not path.exists():
        os.listdir(path.parent)
    return read_through(path)


class counted:  # noqa: N801
    """Downloads that the server was asked for inside the block."""

    def __init__(self, server: Embedded) -> None:
        self._server = server

    def __enter__(self) -> Callable[[], int]:
        self._server.reset_calls()
        return lambda: self._server.count("GET", "/download")

    def __exit__(self, *_: object) -> None:
        pass
