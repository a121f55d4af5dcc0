"""Directories of small files that come as one archive (26.x): when, and what of it is shown."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.embedded import Embedded
from tests.support.vfs import Driver, release, serving, stall, until
from vfsmount.core.blockindex import BlockKey
from vfsmount.vfs import archives
from vfsmount.vfs.archives import Archives

FILES = 200
OLD = time.time() - 3600


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "data", dialect="26") as embedded:
        embedded.faults({"latency_ms": {"storage": 5}})  # or nobody would have to wait
        yield embedded


def plant(server: Embedded, files: int = FILES) -> Path:
    """A directory of small files that were not changed for long."""
    top = server.folder_dir(server.create_folder("owner", "data")) / "many"
    top.mkdir()
    for n in range(files):
        write(top / name_of(n), content(n))
    return top


def name_of(n: int) -> str:
    return f"f{n:04}"


def content(n: int) -> bytes:
    return f"{n:04}".encode() * 250


def write(path: Path, data: bytes, at: float = OLD) -> None:
    """Put a file in place as the server does: renamed, with a time of its own."""
    staged = path.parents[1] / f".new-{path.name}"
    staged.write_bytes(data)
    os.utime(staged, (at, at))
    staged.rename(path)


def archives_of(d: Driver) -> Archives:
    return d.fs._reader._small._archives


@asynccontextmanager
async def walking(server: Embedded, state_dir: Path) -> AsyncIterator[Driver]:
    """Somebody who has listed the directory, and counts from here on; readers ask for what they have not."""
    async with serving(server, state_dir, attr_ttl_s=60.0, dir_ttl_s=60.0) as d:
        await d.names("data/many")
        server.reset_calls()
        yield d


async def read(d: Driver, *numbers: int) -> None:
    for n in numbers:
        assert await d.read(f"data/many/{name_of(n)}") == content(n)


async def asked(d: Driver) -> None:
    """Read until an archive is on its way, or has been."""
    for n in range(FILES // 4):
        await read(d, n)
        if archives_of(d)._in_vain:
            return
    pytest.fail("no archive was asked for")


async def settled(d: Driver) -> None:
    await until(lambda: not archives_of(d)._coming)


async def is_here(d: Driver, n: int, directory: str = "data/many") -> bool:
    node = d.node((await d.stat(f"{directory}/{name_of(n)}")).ino)
    return BlockKey(node.serial, node.version, 0) in d.fs._reader._blocks


async def test_reader_of_a_whole_directory_asks_for_few_files(server: Embedded, tmp_path: Path) -> None:
    plant(server)
    async with walking(server, tmp_path / "state") as d:
        await asked(d)
        await settled(d)
        await read(d, *range(FILES))
        assert server.count("GET", "/download") < FILES / 4
        assert server.count("GET", "/folders/{vf}/files") == 1, "what confirms the archive"


async def never(server: Embedded, tmp_path: Path, files: int = FILES) -> None:
    """Read all of a directory; it comes file by file."""
    async with walking(server, tmp_path / "state") as d:
        for n in range(files):
            await read(d, n)
            assert not archives_of(d)._in_vain
        assert server.count("GET", "/download") >= files


async def test_old_server_is_never_asked_for_an_archive(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data", dialect="23.09") as server:
        plant(server)
        await never(server, tmp_path)


def a_subdirectory(top: Path) -> None:
    (top / "below").mkdir()


def a_link(top: Path) -> None:
    (top / "link").symlink_to(name_of(0))


def a_large_file(top: Path) -> None:
    (top / "large").write_bytes(bytes(65 << 10))


def a_fifo(top: Path) -> None:
    os.mkfifo(top / "fifo")


def a_file_from_1979(top: Path) -> None:
    (top / "old").write_bytes(b"x")
    os.utime(top / "old", (300_000_000, 300_000_000))


@pytest.mark.parametrize("add", [a_subdirectory, a_link, a_large_file, a_fifo, a_file_from_1979])
async def test_directory_with_anything_else_in_it_comes_file_by_file(
    server: Embedded, tmp_path: Path, add: Callable[[Path], None]
) -> None:
    add(plant(server))
    await never(server, tmp_path)


async def test_few_files_come_one_by_one(server: Embedded, tmp_path: Path) -> None:
    plant(server, 60)
    await never(server, tmp_path, 60)


async def test_files_that_were_just_written_come_one_by_one(
    server: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_SETTLED_S", 60.0)  # a busy machine needs some of it to read them
    top = plant(server)
    for n in range(FILES):
        write(top / name_of(n), content(n), time.time())
    async with walking(server, tmp_path / "state") as d:
        await read(d, *range(40))
        assert not archives_of(d)._in_vain and server.count("GET", "/download") >= 40


@pytest.mark.parametrize("fate", ["cut", "hang"])
async def test_broken_archive_costs_little_and_is_not_asked_for_again(
    server: Embedded, tmp_path: Path, fate: str
) -> None:
    plant(server)
    server.faults({"switches": {"archive": fate}})
    async with walking(server, tmp_path / "state") as d:
        await asked(d)
        with trio.fail_after(60):
            await read(d, *range(FILES))
            await settled(d)
        assert not d.fs._reader._blocks.reserved
        assert FILES <= server.count("GET", "/download") <= FILES + 5
    server.faults({"release": True})


async def test_files_ahead_come_one_by_one_again_when_the_archive_breaks(
    server: Embedded, tmp_path: Path
) -> None:
    """Those, too, that were about to be asked for when it was."""
    plant(server)
    server.faults({"switches": {"archive": "cut"}})
    async with walking(server, tmp_path / "state") as d:
        await asked(d)
        await settled(d)
        last = FILES // 4
        await read(d, *range(last))
        with trio.fail_after(60):
            for n in range(last, last + 20):
                while not await is_here(d, n):
                    await trio.sleep(0.01)


async def test_what_was_replaced_before_the_archive_is_shown_as_it_is(
    server: Embedded, tmp_path: Path
) -> None:
    top = plant(server)
    async with walking(server, tmp_path / "state") as d:
        for n in (150, 151):
            write(top / name_of(n), b"new!" * 250, OLD + n)  # of the same size, and not young
        await asked(d)
        await settled(d)
        assert await is_here(d, 149)
        assert not await is_here(d, 150)
        for n in (150, 151):
            assert await d.read(f"data/many/{name_of(n)}") == b"new!" * 250


async def test_what_is_replaced_behind_the_archive_is_not_shown_old(server: Embedded, tmp_path: Path) -> None:
    top = plant(server)
    async with walking(server, tmp_path / "state") as d:
        stall(server, "GET", "/folders/*/files")
        await asked(d)
        await until(lambda: server.count("GET", "/folders/{vf}/files") == 1)  # the bytes are all here
        write(top / name_of(150), b"new!" * 250, OLD + 1)
        (top / name_of(151)).unlink()
        os.rename(top / name_of(152), top / "elsewhere")
        os.rename(top / "elsewhere", top / name_of(152))  # the same version, but it was not there for a while
        assert not await is_here(d, 150)
        release(server)
        await settled(d)
        assert [await is_here(d, n) for n in (149, 150, 152)] == [True, False, False]
        assert await d.read(f"data/many/{name_of(150)}") == b"new!" * 250
        assert name_of(151) not in await d.names("data/many")
        await read(d, 149, 152)


async def test_what_is_written_here_meanwhile_stays(server: Embedded, tmp_path: Path) -> None:
    plant(server)
    async with walking(server, tmp_path / "state") as d:
        stall(server, "GET", "/folders/*/files")
        await asked(d)
        await until(lambda: server.count("GET", "/folders/{vf}/files") == 1)
        fh = await d.open(f"data/many/{name_of(150)}", os.O_RDWR)
        await d.fs.write(fh, 0, b"mine")
        release(server)
        await settled(d)
        assert not await is_here(d, 150)
        assert await d.fs.read(fh, 0, 5000) == b"mine" + content(150)[4:]
        await d.close(fh)
        assert await d.read(f"data/many/{name_of(150)}") == b"mine" + content(150)[4:]


async def look(d: Driver) -> None:
    """List the directory anew."""
    await d.look_again("data/many")
    await d.names("data/many")


async def brought(d: Driver) -> None:
    """Have an archive, and the file 150 by it alone."""
    await asked(d)
    await settled(d)
    node = d.node((await d.stat(f"data/many/{name_of(150)}")).ino)
    assert await is_here(d, 150) and node.validator is None


async def test_file_from_an_archive_is_written_on_its_exact_version(server: Embedded, tmp_path: Path) -> None:
    top = plant(server)
    async with walking(server, tmp_path / "state") as d:
        await brought(d)
        await read(d, 150)
        fh = await d.open(f"data/many/{name_of(150)}", os.O_RDWR)
        assert d.node((await d.stat(f"data/many/{name_of(150)}")).ino).validator is not None
        await d.fs.write(fh, 2, b"mine")
        await d.close(fh)
        assert (top / name_of(150)).read_bytes() == content(150)[:2] + b"mine" + content(150)[6:]


async def test_file_from_an_archive_that_was_replaced_since_is_not_changed_blindly(
    server: Embedded, tmp_path: Path
) -> None:
    top = plant(server)
    async with walking(server, tmp_path / "state") as d:
        await brought(d)
        write(top / name_of(150), b"new!" * 250, OLD + 1)
        fh = await d.open(f"data/many/{name_of(150)}", os.O_RDWR)
        await d.fs.write(fh, 0, b"mine")
        await d.close(fh)
        assert (top / name_of(150)).read_bytes() == b"mine" + b"new!" * 249


@pytest.mark.parametrize("shown", [True, False])
async def test_file_from_an_archive_that_grows_goes_on(server: Embedded, tmp_path: Path, shown: bool) -> None:
    top = plant(server)
    async with walking(server, tmp_path / "state") as d:
        await brought(d)
        fh = await d.open(f"data/many/{name_of(150)}")
        if shown:
            assert await d.read_all(fh) == content(150)
        with (top / name_of(150)).open("ab") as f:
            f.write(b"more")
        await look(d)
        assert await d.read_all(fh) == content(150) + b"more"
        await d.fs.release(fh)


async def test_file_from_an_archive_that_is_replaced_while_it_is_read_is_never_mixed(
    server: Embedded, tmp_path: Path
) -> None:
    top = plant(server)
    async with walking(server, tmp_path / "state") as d:
        await brought(d)
        fh = await d.open(f"data/many/{name_of(150)}")
        assert await d.fs.read(fh, 0, 100) == content(150)[:100]
        write(top / name_of(150), b"new!" * 250, OLD + 1)
        await look(d)
        assert await d.read(f"data/many/{name_of(150)}") == b"new!" * 250
        assert await d.read_all(fh) == content(150), "bytes that were here, of the version it began with"
        await d.fs.release(fh)


async def test_stale_file_from_an_archive_is_asked_about_once(server: Embedded, tmp_path: Path) -> None:
    top = plant(server)
    async with serving(server, tmp_path / "state", attr_ttl_s=0.2, dir_ttl_s=60.0) as d:
        await d.names("data/many")
        await brought(d)
        await trio.sleep(0.3)
        write(top / name_of(150), b"new!" * 250, OLD + 1)
        server.reset_calls()
        await read(d, 160)
        assert server.count("GET", "/download") == 1
        assert await d.read(f"data/many/{name_of(150)}") == b"new!" * 250


async def test_walk_that_takes_long_needs_a_listing_now_and_then(server: Embedded, tmp_path: Path) -> None:
    plant(server)
    async with serving(server, tmp_path / "state", attr_ttl_s=0.6, dir_ttl_s=60.0) as d:
        await d.names("data/many")
        await brought(d)
        server.reset_calls()
        began, pauses = time.monotonic(), 0
        for n in range(50, FILES):
            at = time.monotonic()
            await read(d, n)
            await trio.sleep(0.012)
            pauses += time.monotonic() - at > 0.25  # behind a long one some files are asked about
        took_s = time.monotonic() - began
        assert took_s > 1.2
        assert server.count("GET", "/download") < 30 + 16 * pauses
        assert server.count("GET", "/folders/{vf}/files") <= took_s / 0.3 + 1


async def test_readers_who_stop_early_are_not_served_for_ever(server: Embedded, tmp_path: Path) -> None:
    """What came and was not read is an amount, not a share of what is there."""
    folder = server.folder_dir(server.create_folder("owner", "data"))
    for directory in range(6):
        (folder / f"d{directory}").mkdir()
        for n in range(100):
            write(folder / f"d{directory}" / name_of(n), os.urandom(60 << 10))
    taken = 0
    async with serving(server, tmp_path / "state", dir_ttl_s=60.0) as d:
        for directory in range(6):
            await d.names(f"data/d{directory}")
            for n in range(12):
                await d.read(f"data/d{directory}/{name_of(n)}")
            await settled(d)
            taken += await is_here(d, 90, f"data/d{directory}")
    assert taken in (3, 4)  # as what is read of one on its way was, or was not, counted yet
