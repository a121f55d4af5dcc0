"""Several tasks at once: each test orders the one interleaving that hurts."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from stat import S_ISDIR

import pytest
import trio

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import Driver, release, serving, stall, until
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.errors import NotEmpty, NotFound, Stale, VfsError
from vfsmount.fuse.errno_map import errno_of
from vfsmount.vfs.staged import staged_of


def staging_files(d: Driver) -> list[str]:
    return [p.name for p in d.area.directory.iterdir() if p.name != "lock"]


async def caught(failed: list[VfsError], call: Callable[..., Awaitable[object]], *args: object) -> None:
    """Run a call as a task of its own; its error goes into `failed`."""
    try:
        await call(*args)
    except VfsError as e:
        failed.append(e)


# --- readers and writers -----------------------------------------------------------------------


async def test_parallel_reads_of_one_block_cost_one_request(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x" * 1000)
    async with serving(both, tmp_path) as d:
        await d.stat(f"{name}/f")
        both.reset_calls()
        got: list[bytes] = []

        async def read() -> None:
            got.append(await d.fs.read(await d.open(f"{name}/f"), 10, 20))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
        assert got == [b"x" * 20] * 5
        # What a 23.09 server sends has to be confirmed.
        assert both.count("GET", "/download") == (2 if both.dialect == "23.09" else 1)


async def test_parallel_lookups_cost_one_listing(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    for i in range(20):
        (both.folder_dir(folder) / f"f{i}").touch()
    async with serving(both, tmp_path) as d:
        await d.stat(name)
        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(d.stat, f"{name}/f{i}")
        assert both.count("GET", "/folders/{vf}/files") == 1


async def test_old_bytes_on_their_way_do_not_become_the_new_versions(both: Embedded, tmp_path: Path) -> None:
    """A range that arrives after our own write must not be kept under the written version."""
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"old" * 100)
    async with serving(both, tmp_path) as d:
        reader = await d.open(f"{name}/f")
        assert await d.fs.read(reader, 0, 1)  # the version is known
        await until(lambda: not d.fs.parts.reader.ranges.files)  # nothing of it is anywhere but in the blocks
        d.fs.parts.blocks.clear()
        stall(both, "GET", "/download")
        both.reset_calls()
        got: list[bytes] = []

        async def read() -> None:
            got.append(await d.fs.read(reader, 0, 300))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await until(lambda: both.count("GET", "/download") >= 1)
            writer = await d.open(f"{name}/f", os.O_WRONLY | os.O_TRUNC)
            await d.fs.write(writer, 0, b"new" * 100)
            release(both)
        assert got == [b"new" * 100]
        await d.close(writer)
        assert await d.read(f"{name}/f") == b"new" * 100


async def test_truncation_while_a_range_is_about_to_be_asked_for(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x" * (2 * BLOCK_SIZE))
    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        node = d.node(d.fs.ino_of(fh))
        on_its_way = d.fs._reader._ranges.start(node, BLOCK_SIZE, 2 * BLOCK_SIZE)  # not yet begun
        await d.fs._writer.truncate(node, None, 0)
        await on_its_way.wait(2 * BLOCK_SIZE)
        assert on_its_way.error is None
        assert await d.fs.read(fh, BLOCK_SIZE, 10) == b""
        await d.close(fh)


async def test_file_replaced_on_the_server_is_stale_for_old_handles_only(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    old, new = b"a" * (3 * BLOCK_SIZE), b"b" * (3 * BLOCK_SIZE)
    on_disk.write_bytes(old)
    async with serving(both, tmp_path, attr_ttl_s=0.0) as d:
        first = await d.open(f"{name}/f")
        assert await d.fs.read(first, 0, 100) == b"a" * 100
        replace(on_disk, new)
        second = await d.open(f"{name}/f")
        assert await d.read_all(second) == new
        assert d.fs.ino_of(first) != d.fs.ino_of(second)
        assert await d.fs.read(first, 100, 100) == b"a" * 100  # of what it has read already
        with pytest.raises(Stale):
            await d.fs.read(first, 2 * BLOCK_SIZE, 100)
        assert d.fs.ino_of(first) in d.dropped  # the kernel is told to forget the old pages
        for fh in (first, second):
            await d.fs.release(fh)


async def test_file_replaced_between_two_blocks_never_mixes(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    on_disk.write_bytes(b"a" * (4 * BLOCK_SIZE))
    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f")
        assert await d.fs.read(fh, 0, 10) == b"a" * 10
        replace(on_disk, b"b" * (4 * BLOCK_SIZE))
        with pytest.raises(Stale):
            await d.fs.read(fh, 2 * BLOCK_SIZE, 10)
        assert await d.read(f"{name}/f") == b"b" * (4 * BLOCK_SIZE)
        await d.fs.release(fh)


def conflicts(on_disk: Path) -> list[bytes]:
    return [p.read_bytes() for p in on_disk.parent.glob(f"{on_disk.name}.conflict-*")]


@pytest.mark.usefixtures("expect_warnings")
async def test_write_to_a_small_file_replaced_under_its_handle_goes_beside_it(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    on_disk.write_bytes(b"a" * 100)
    async with serving(both, tmp_path, attr_ttl_s=60.0) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        assert await d.fs.read(fh, 0, 1) == b"a"
        replace(on_disk, b"b" * 200)
        await d.fs.write(fh, 0, b"mine")
        await d.close(fh)
        assert on_disk.read_bytes() == b"b" * 200
        assert conflicts(on_disk) == [b"mine" + b"a" * 96]


async def test_write_to_a_large_file_replaced_under_its_handle_is_refused(
    both: Embedded, tmp_path: Path
) -> None:
    """Its bytes are not here, so what is written could not be made a file of."""
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    on_disk.write_bytes(b"a" * (3 * BLOCK_SIZE))
    async with serving(both, tmp_path, attr_ttl_s=0.0) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        replace(on_disk, b"b" * (3 * BLOCK_SIZE))
        assert await d.read(f"{name}/f") == b"b" * (3 * BLOCK_SIZE)  # now it is known
        with pytest.raises(Stale):
            await d.fs.write(fh, 0, b"mine")
        await d.close(fh)
        assert on_disk.read_bytes() == b"b" * (3 * BLOCK_SIZE)


@pytest.mark.usefixtures("expect_warnings")
async def test_append_to_a_file_replaced_since_it_was_opened_goes_beside_it(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    on_disk.write_bytes(b"a" * 100)
    async with serving(both, tmp_path, attr_ttl_s=60.0) as d:
        fh = await d.open(f"{name}/f", os.O_WRONLY | os.O_APPEND)
        replace(on_disk, b"b" * 50)
        await d.fs.write(fh, 100, b"end")
        await d.close(fh)
        assert on_disk.read_bytes() == b"b" * 50
        assert conflicts(on_disk) == [b"a" * 100 + b"end"]


async def test_write_during_an_upload_neither_waits_nor_tears_it(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    size = 3 << 20
    async with serving(both, tmp_path) as d:
        one = await d.create(f"{name}/f", os.O_RDWR)
        other = await d.create(f"{name}/f", os.O_RDWR)
        await d.fs.write(one, 0, b"1" * size)
        stall(both, "PATCH", "/upload")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.fs.flush, one)
            await until(lambda: both.count("PATCH", "/upload") == 1)
            await d.fs.write(other, 0, b"2" * size)
            assert await d.fs.read(one, 0, 10) == b"2" * 10
            assert not on_disk.exists()
            release(both)
            await until(on_disk.exists)
            assert on_disk.read_bytes() == b"1" * size
        await d.close(other)
        assert on_disk.read_bytes() == b"2" * size
        await d.close(one)


async def test_a_readers_close_leaves_a_truncation_its_content(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    on_disk.write_bytes(b"x" * 100)
    async with serving(both, tmp_path) as d:
        reader = await d.open(f"{name}/f")
        node = d.node(d.fs.ino_of(reader))

        async def close_once_staged() -> None:
            while node.staged is None:
                await trio.lowlevel.checkpoint()
            await d.fs.release(reader)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_once_staged)
            nursery.start_soon(d.truncate, f"{name}/f", 10)
        assert on_disk.read_bytes() == b"x" * 10
        await until(lambda: staging_files(d) == [])


async def test_local_content_outlives_a_read_that_is_under_way(both: Embedded, tmp_path: Path) -> None:
    """The writer's close drops the staging file; a reader's pread in a thread still wants it."""
    name, _ = fresh(both)
    async with serving(both, tmp_path) as d:
        writer = await d.create(f"{name}/f", os.O_RDWR)
        await d.fs.write(writer, 0, b"x" * 100)
        await d.fs.flush(writer)
        reader = await d.open(f"{name}/f")
        got: list[bytes] = []

        async def read() -> None:
            got.append(await d.fs.read(reader, 0, 100))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.lowlevel.checkpoint()  # the read has been handed to a thread
            await trio.lowlevel.checkpoint()
            d.fs._close(writer)
        assert got == [b"x" * 100]
        await d.fs.release(reader)
        await until(lambda: staging_files(d) == [])


# --- names that change under work --------------------------------------------------------------


async def test_rename_of_a_directory_waits_for_the_upload_below_it(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with serving(both, tmp_path) as d:
        await d.mkdir(f"{name}/dir")
        fh = await d.create(f"{name}/dir/f")
        await d.fs.write(fh, 0, b"content")
        stall(both, "PATCH", "/upload")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.fs.flush, fh)
            await until(lambda: both.count("PATCH", "/upload") == 1)
            nursery.start_soon(d.rename, f"{name}/dir", f"{name}/moved")
            await until(lambda: bool(d.fs._gate._moving))
            assert both.count("POST", "/folders/{vf}/move-file") == 0
            release(both)
        await d.close(fh)
        assert (disk / "moved" / "f").read_bytes() == b"content" and not (disk / "dir").exists()


async def test_upload_started_during_a_rename_goes_to_the_new_name(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with serving(both, tmp_path) as d:
        await d.mkdir(f"{name}/dir")
        stall(both, "POST", "/folders/*/move-file")
        async with trio.open_nursery() as nursery:
            fh = await d.create(f"{name}/dir/f")
            nursery.start_soon(d.rename, f"{name}/dir", f"{name}/moved")
            await until(lambda: both.count("POST", "/folders/{vf}/move-file") == 1)
            # the rename holds f; a file it does not know of:
            parent = (await d.stat(f"{name}/dir")).ino
            other = await _create_in(d, nursery, parent, both)
        for handle in (fh, other):
            await d.close(handle)
        assert sorted(str(p.relative_to(disk)) for p in disk.rglob("*")) == ["moved", "moved/f", "moved/g"]


async def _create_in(d: Driver, nursery: trio.Nursery, parent: int, server: Embedded) -> int:
    made: list[int] = []

    async def create() -> None:
        made.append((await d.fs.create(parent, b"g", 0o644, os.O_CREAT | os.O_WRONLY))[0])
        await d.fs.write(made[0], 0, b"g")
        await d.fs.flush(made[0])

    nursery.start_soon(create)
    for _ in range(20):
        await trio.lowlevel.checkpoint()
    release(server)
    await until(lambda: bool(made))
    return made[0]


async def test_listing_that_arrives_during_a_rename_leaves_the_moving_name_alone(
    both: Embedded, tmp_path: Path
) -> None:
    """The server has moved the file, its reply is on the way, and a listing overtakes it."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "a").write_bytes(b"content")
    (disk / "sub").mkdir()
    async with serving(both, tmp_path) as d:
        ino = (await d.stat(f"{name}/a")).ino
        stall(both, "POST", "/folders/*/move-file")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.rename, f"{name}/a", f"{name}/b")
            await until(lambda: both.count("POST", "/folders/{vf}/move-file") == 1)
            (disk / "a").rename(disk / "elsewhere")
            await d.look_again(name)
            await d.names(name)
            (disk / "elsewhere").rename(disk / "a")
            release(both)
        assert (await d.stat(f"{name}/b")).ino == ino
        assert await d.read(f"{name}/b") == b"content"


async def test_read_that_misses_a_moving_file_finds_it_under_its_new_name(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    whole = os.urandom(2 << 20)  # of which opening it brings the beginning
    (disk / "a").write_bytes(whole)
    async with serving(both, tmp_path, attr_ttl_s=60.0) as d:
        fh = await d.open(f"{name}/a")
        got: list[bytes] = []

        async def read() -> None:
            got.append(bytes(await d.fs.read(fh, 1 << 20, 100)))

        both.reset_calls()
        stall(both, "GET", "/download")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await until(lambda: both.count("GET", "/download") == 1)
            nursery.start_soon(d.rename, f"{name}/a", f"{name}/b")
            await until((disk / "b").exists)
            release(both)  # of the read: its path is gone, whether or not we know yet
        assert got == [whole[1 << 20 :][:100]]
        await d.fs.release(fh)


async def test_missing_reply_while_a_name_moves_does_not_remove_the_node(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "a").write_bytes(b"content")
    async with serving(both, tmp_path) as d:
        node = d.node((await d.stat(f"{name}/a")).ino)
        async with d.fs._gate.moving(node):
            d.fs._metadata.vanished(node, "a")
            assert not node.unlinked
        d.fs._metadata.vanished(node, "a")
        assert node.unlinked


async def test_unlink_that_finds_its_name_moved_away_removes_nothing(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "a").write_bytes(b"content")
    (disk / "dir").mkdir()
    async with serving(both, tmp_path) as d:
        await d.names(f"{name}/dir")
        failed: list[VfsError] = []
        for remove, old, new in ((d.unlink, "a", "b"), (d.rmdir, "dir", "moved")):
            both.reset_calls()
            stall(both, "POST", "/folders/*/move-file")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(d.rename, f"{name}/{old}", f"{name}/{new}")
                await until(lambda: both.count("POST", "/folders/{vf}/move-file") == 1)
                nursery.start_soon(caught, failed, remove, f"{name}/{old}")
                for _ in range(50):
                    await trio.lowlevel.checkpoint()
                release(both)
            assert [type(e) for e in failed] == [NotFound]
            failed.clear()
        assert sorted(p.name for p in disk.iterdir()) == ["b", "moved"]


async def test_unlink_during_an_upload_of_the_file(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/f")
        await d.fs.write(fh, 0, b"content")
        stall(both, "PATCH", "/upload")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.fs.flush, fh)
            await until(lambda: both.count("PATCH", "/upload") == 1)
            nursery.start_soon(d.unlink, f"{name}/f")
            await until(lambda: bool(d.fs._gate._moving))
            release(both)
        assert [p.name for p in disk.iterdir()] == []
        assert await d.fs.read(fh, 0, 100) == b"content"
        await d.close(fh)
        assert [p.name for p in disk.iterdir()] == []
        await until(lambda: staging_files(d) == [])


async def test_last_reader_keeps_the_content_while_another_one_leaves(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"content")
    async with serving(both, tmp_path) as d:
        stays, leaves = await d.open(f"{name}/f"), await d.open(f"{name}/f")
        both.reset_calls()
        route = "/folders/{vf}/delete-files"
        stall(both, "", "/folders/*/delete-files")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.unlink, f"{name}/f")
            await until(lambda: both.count("DELETE", route) + both.count("POST", route) == 1)
            await d.fs.release(leaves)
            release(both)
        assert await d.read_all(stays) == b"content"
        await d.fs.release(stays)
        await until(lambda: staging_files(d) == [])


async def test_create_in_a_directory_that_is_being_removed(both: Embedded, tmp_path: Path) -> None:
    """Whoever comes first wins; a file is never accepted into a directory that then goes."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "dir").mkdir()
    async with serving(both, tmp_path) as d:
        parent = (await d.stat(f"{name}/dir")).ino
        failed: list[VfsError] = []

        await d.names(f"{name}/dir")
        route = "/folders/{vf}/delete-files"
        stall(both, "", "/folders/*/delete-files")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.rmdir, f"{name}/dir")
            await until(lambda: both.count("DELETE", route) + both.count("POST", route) == 1)
            nursery.start_soon(caught, failed, d.fs.create, parent, b"f", 0o644, os.O_CREAT | os.O_WRONLY)
            await trio.lowlevel.checkpoint()
            release(both)
        assert len(failed) == 1 and errno_of(failed[0]) in (errno.ENOENT, errno.ESTALE)
        assert list(disk.iterdir()) == []
        await until(lambda: staging_files(d) == [])


async def test_rename_over_a_directory_looks_again_before_it_removes_it(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for path in ("src", "dst"):
        (disk / path).mkdir()
    async with serving(both, tmp_path) as d:
        src = d.node((await d.stat(f"{name}/src")).ino)
        target = (await d.stat(f"{name}/dst")).ino
        failed: list[VfsError] = []
        async with trio.open_nursery() as nursery, d.fs._gate.moving(src):
            nursery.start_soon(caught, failed, d.rename, f"{name}/src", f"{name}/dst")
            await until(lambda: both.count("GET", "/folders/{vf}/files") >= 2)
            fh, _ = await d.fs.create(target, b"f", 0o644, os.O_CREAT | os.O_WRONLY)
            await d.close(fh)
        assert [type(e) for e in failed] == [NotEmpty]
        assert (disk / "dst" / "f").exists() and (disk / "src").exists()


async def test_writer_that_stages_meets_a_rename_without_deadlock(both: Embedded, tmp_path: Path) -> None:
    """A write that must fetch holds the file; a rename of the directory must not wait for it for ever."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "dir").mkdir()
    (disk / "dir" / "f").write_bytes(b"x" * 100)
    (disk / "dir" / "g").write_bytes(b"y" * 100)
    async with serving(both, tmp_path) as d:
        f, g = await d.open(f"{name}/dir/f", os.O_RDWR), await d.open(f"{name}/dir/g", os.O_RDWR)
        for fh in (f, g):
            await d.fs.write(fh, 0, b"1")
        first, second = (d.node(d.fs.ino_of(fh)) for fh in sorted((f, g), key=d.fs.ino_of))
        last = g if d.fs.ino_of(g) == second.ino else f
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery, d.fs.parts.exclusion.alone(first):
                nursery.start_soon(d.rename, f"{name}/dir", f"{name}/moved")
                await until(lambda: d.fs.parts.exclusion._busy[first].users == 2)
                # The rename will want `second` too, which is let go of meanwhile …
                staged_of(second).sent = staged_of(second).change
                d.fs._close(last)
                assert second.staged is None
                # … and staged anew by somebody who has to wait for the rename.
                nursery.start_soon(d.truncate, f"{name}/dir/{second.name.decode()}", 50)
                for _ in range(50):
                    await trio.lowlevel.checkpoint()
        await d.close(f if last == g else g)
        assert (disk / "moved" / second.name.decode()).stat().st_size == 50


def replace(path: Path, data: bytes) -> None:
    """As an upload by somebody else does it: in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    temporary.rename(path)


async def test_removed_small_file_is_missing_at_open(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x")
    async with serving(both, tmp_path, attr_ttl_s=0.0) as d:
        ino = (await d.stat(f"{name}/f")).ino
        await d.read(f"{name}/f")
        (both.folder_dir(folder) / "f").unlink()
        with pytest.raises((NotFound, Stale)):  # ESTALE has the kernel look the name up again
            await d.fs.open(ino, os.O_RDONLY)
        with pytest.raises(NotFound):
            await d.stat(f"{name}/f")
    async with serving(both, tmp_path, attr_ttl_s=0.0) as d:
        (both.folder_dir(folder) / "g").write_bytes(b"x")  # never read, so its version is not known
        ino = (await d.stat(f"{name}/g")).ino
        (both.folder_dir(folder) / "g").unlink()
        with pytest.raises((NotFound, Stale)):  # ESTALE has the kernel look the name up again
            await d.fs.open(ino, os.O_RDONLY)
        with pytest.raises(NotFound):
            await d.stat(f"{name}/g")


@pytest.mark.parametrize("what", ["replaced", "removed"])
async def test_attributes_under_a_number_that_lost_its_name_are_stale(
    both: Embedded, tmp_path: Path, what: str
) -> None:
    """The kernel may ask for them on the way to opening the name: then it looks the name up again, where
    "no such file" would end the open."""
    name, folder = fresh(both)
    path = both.folder_dir(folder) / "f"
    path.write_bytes(b"old")
    async with serving(both, tmp_path, dir_ttl_s=0.0) as d:
        old = await d.stat(f"{name}/f")
        path.unlink()
        if what == "replaced":
            path.write_bytes(b"a new one")
        with pytest.raises(Stale):
            await d.fs.getattr(old.ino)
        if what == "replaced":
            assert await d.read(f"{name}/f") == b"a new one"
        else:
            with pytest.raises(NotFound):
                await d.stat(f"{name}/f")


async def test_file_that_a_directory_replaced_is_looked_up_again(both: Embedded, tmp_path: Path) -> None:
    """A stat of a name never fails for what the name stood for a moment ago."""
    name, folder = fresh(both)
    path = both.folder_dir(folder) / "f"
    path.write_bytes(b"x" * 1000)
    async with serving(both, tmp_path, attr_ttl_s=0.0) as d:
        ino = (await d.stat(f"{name}/f")).ino
        unread = await d.fs.open(ino, os.O_RDONLY)
        path.unlink()
        path.mkdir()
        with pytest.raises(Stale):
            await d.fs.getattr(ino)
        assert S_ISDIR((await d.stat(f"{name}/f")).mode)
        await d.fs.release(unread.fh)


async def test_file_that_a_directory_replaces_while_it_is_opened_is_looked_up_again(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    path = both.folder_dir(folder) / "f"
    path.write_bytes(b"x" * 1000)
    async with serving(both, tmp_path) as d:
        ino = (await d.stat(f"{name}/f")).ino
        path.unlink()
        path.mkdir()
        with pytest.raises(Stale):
            await d.fs.open(ino, os.O_RDONLY)
        assert S_ISDIR((await d.stat(f"{name}/f")).mode)
