"""Ways to lose data that were closed once: they stay closed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import contents
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import PIECE, Driver, release, serving, until
from vfsmount.api import shapes
from vfsmount.api.transfer import Sink, Transfers
from vfsmount.api.upload import Progress
from vfsmount.core import dircache
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.errors import NotEmpty, Stale, VfsError
from vfsmount.values import Folder, RangeReply
from vfsmount.vfs.ranges import Range

LISTING = "/folders/{vf}/files"


# --- an upload of which nobody knows whether it arrived -----------------------------------------


async def _send_with_no_answer(d: Driver, server: Embedded, path: str, on_disk: Path) -> None:
    """The server has the file, and says nothing about it until the time is up.

    Args:
        on_disk: where it lies on the server's.
    """
    fh = await d.create(path, os.O_WRONLY)
    await d.fs.write(fh, 0, b"content")
    server.faults(
        {
            "rules": [
                {"action": "lose_reply", "half": "storage", "method": "PATCH"},
                {"action": "reset", "half": "storage", "method": "HEAD", "times": None},
            ]
        }
    )
    with pytest.raises(VfsError):
        async with d.deadline():
            await d.fs.flush(fh)
    with pytest.raises(VfsError):
        async with d.deadline():
            await d.fs.release(fh)
    await until(on_disk.exists)
    server.clear_faults()


@pytest.mark.usefixtures("expect_warnings")
async def test_unlink_of_what_may_have_arrived_leaves_nothing(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path, deadline_s=1.0) as d:
        await _send_with_no_answer(d, both, f"{name}/f", both.folder_dir(folder) / "f")
        assert contents(both.folder_dir(folder)) == {"f": b"content"}
        await d.unlink(f"{name}/f")
        assert contents(both.folder_dir(folder)) == {}
        await d.look_again(name)
        assert await d.names(name) == []
        assert await d.fs.drain() == []


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize("there", [False, True], ids=["free", "taken"])
async def test_rename_of_what_may_have_arrived_leaves_the_new_name_only(
    both: Embedded, tmp_path: Path, there: bool
) -> None:
    name, folder = fresh(both)
    if there:
        (both.folder_dir(folder) / "new").write_bytes(b"older")
    async with serving(both, tmp_path, deadline_s=1.0) as d:
        await _send_with_no_answer(d, both, f"{name}/old", both.folder_dir(folder) / "old")
        await d.rename(f"{name}/old", f"{name}/new")
        assert await d.names(name) == ["new"]
        assert await d.read(f"{name}/new") == b"content"
        fh = await d.open(f"{name}/new", os.O_WRONLY)
        await d.close(fh)
        assert contents(both.folder_dir(folder)) == {"new": b"content"}
        await d.look_again(name)
        assert await d.names(name) == ["new"]
        assert await d.fs.drain() == []


@pytest.mark.usefixtures("expect_warnings")
async def test_rename_of_what_did_not_arrive_sends_it_to_the_new_name(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path, deadline_s=1.0) as d:
        fh = await d.create(f"{name}/old", os.O_WRONLY)
        await d.fs.write(fh, 0, b"content")
        both.faults({"rules": [{"action": "reset", "half": "storage", "times": None}]})
        with pytest.raises(VfsError):
            async with d.deadline():
                await d.fs.flush(fh)
        both.clear_faults()
        await d.rename(f"{name}/old", f"{name}/new")
        await d.close(fh)
        assert contents(both.folder_dir(folder)) == {"new": b"content"}


# --- names that cannot be shown -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", "", "x" * 256, "\0", "half a pair \ud800"],
    ids=["slash", "up", "", "long", "nul", "utf16"],
)
def test_listing_with_a_name_that_cannot_be_shown_does_not_pass_for_empty(name: str) -> None:
    listing = shapes.listing({"items": [{"name": name, "type": "FILE", "size": 1}]})
    assert (listing.entries, listing.cut, listing.unfit) == ((), True, 1)
    assert shapes.listing({"items": []}).cut is False


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize("more", [False, True], ids=["alone", "with others"])
async def test_directory_with_a_name_that_cannot_be_shown_is_not_removed(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    """No name that this machine's disk can hold is unfit, so one is declared so."""
    monkeypatch.setattr(shapes, "_fit_for_a_directory", lambda name: name != b"odd")
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in ("dir", "src"):
        (disk / n).mkdir()
    (disk / "dir" / "odd").write_bytes(b"theirs")
    if more:
        (disk / "dir" / "usual").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        if more:
            await d.unlink(f"{name}/dir/usual")
        assert await d.names(f"{name}/dir") == []
        with pytest.raises(NotEmpty):
            await d.rmdir(f"{name}/dir")
        with pytest.raises(NotEmpty):
            await d.rename(f"{name}/src", f"{name}/dir")
        assert contents(disk) == {"dir/odd": b"theirs"}
        assert await d.names(name) == ["dir", "src"]
        (disk / "dir" / "odd").unlink()
        await d.rmdir(f"{name}/dir")
        assert not (disk / "dir").exists()


# --- a file that is rewritten in place while it is read -----------------------------------------

SIZE = 8 << 20
OLD, NEW = b"a" * SIZE, b"b" * SIZE


def a_file_of_long_ago(directory: Path) -> Path:
    path = directory / "f"
    path.write_bytes(OLD)
    os.utime(path, ns=(10**18, 10**18))
    return path


def rewrite_in_place(path: Path, data: bytes) -> None:
    """As a program in a session does it: same inode, same size, a new time."""
    with path.open("r+b") as f:
        f.write(data)


def idle(_: int) -> None:
    pass


def overtake(transfers: Transfers, path: Path, *, at_least: int) -> list[int]:
    """Rewrite the file when the first bytes of a long range have arrived; the list says that it was done."""
    done: list[int] = []
    read_range = transfers.read_range

    async def overtaken(
        folder: Folder, name: str, start: int, length: int, *, on_progress: Progress = idle, **more: Any
    ) -> RangeReply:
        def progress(count: int) -> None:
            on_progress(count)
            if length >= at_least and not done:
                done.append(start)
                rewrite_in_place(path, NEW)

        return await read_range(folder, name, start, length, on_progress=progress, **more)

    read_into = transfers.read_into

    async def overtaken_into(
        folder: Folder, name: str, start: int, length: int, sink: Sink, **more: Any
    ) -> None:
        add = sink.add

        def adding(count: int) -> None:
            add(count)
            if length >= at_least and not done:
                done.append(start)
                rewrite_in_place(path, NEW)

        sink.add = adding  # type: ignore[method-assign]
        await read_into(folder, name, start, length, sink, **more)

    transfers.read_range = overtaken  # type: ignore[method-assign, assignment]
    transfers.read_into = overtaken_into  # type: ignore[method-assign]
    return done


async def test_server_mixes_two_versions_of_a_file_that_is_rewritten(both: Embedded, tmp_path: Path) -> None:
    """What the tests below rest on: one reply, one validator, bytes of both."""
    name, folder = fresh(both)
    path = a_file_of_long_ago(both.folder_dir(folder))
    async with serving(both, tmp_path) as d:
        transfers = d.fs._reader._ranges._transfers
        done = overtake(transfers, path, at_least=SIZE)
        node = d.node((await d.stat(f"{name}/f")).ino)
        assert node.folder is not None
        reply = await transfers.read_range(node.folder, "f", 0, SIZE, on_progress=lambda count: None)
        assert done and reply.validator.mtime_ns == 10**18
        assert set(reply.data) == set(b"ab")


@pytest.mark.parametrize("at_least", [1, BLOCK_SIZE, 2 * BLOCK_SIZE], ids=["first", "second", "long"])
async def test_reading_a_file_that_is_rewritten_never_mixes(
    both: Embedded, tmp_path: Path, at_least: int
) -> None:
    name, folder = fresh(both)
    path = a_file_of_long_ago(both.folder_dir(folder))
    async with serving(both, tmp_path) as d:
        done = overtake(d.fs._reader._ranges._transfers, path, at_least=at_least)
        fh = await d.open(f"{name}/f")
        got = b""
        try:
            while part := await d.fs.read(fh, len(got), PIECE):
                got += part
        except Stale:
            assert OLD.startswith(got)
        else:
            assert got in (OLD, NEW)
        assert done
        await d.fs.release(fh)
        assert await d.read(f"{name}/f") == NEW


@pytest.mark.parametrize(
    ("size", "new_size", "met"),
    [
        (size, new_size, met)
        for size, met in ((SIZE, False), (SIZE, True), (1000, False))
        for new_size in (size, 2 * size, size // 2)
    ],
)
async def test_file_that_is_replaced_before_the_server_opens_it_is_not_taken_for_the_old_one(
    both: Embedded, tmp_path: Path, size: int, new_size: int, met: bool
) -> None:
    """A 23.09 server has looked at one version, and sends another: with the validator, and cut at the
    length, of the first."""
    name, folder = fresh(both)
    path = both.folder_dir(folder) / "f"
    path.write_bytes(OLD[:size])
    os.utime(path, ns=(10**18, 10**18))
    new, at = b"b" * new_size, 2 * BLOCK_SIZE if size == SIZE else 0
    got: list[bytes | None] = []

    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f") if met else None

        async def read() -> None:
            try:
                got.append(
                    bytes(await d.fs.read(fh if fh is not None else await d.open(f"{name}/f"), at, 3000))
                )
            except Stale:
                got.append(None)

        await d.stat(f"{name}/f")
        both.reset_calls()
        both.faults({"switches": {"hold_open": True}})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await until(lambda: both.count("GET", "/download") > 0)
            await trio.sleep(0.2)  # for the look
            (path.parent / ".new").write_bytes(new)
            (path.parent / ".new").rename(path)
            began = trio.current_time()
            both.clear_faults()
        assert trio.current_time() - began < 10, "a server that announced more than there is, is waited for"
        if met:
            assert got in ([OLD[at:size][:3000]], [None])
        else:
            assert got in ([new[at:][:3000]], [None])
        assert await d.read(f"{name}/f") == new


@pytest.mark.usefixtures("expect_warnings")
@pytest.mark.parametrize("met", [False, True])
async def test_appending_to_a_file_that_is_rewritten_never_mixes(
    both: Embedded, tmp_path: Path, met: bool
) -> None:
    """Its bytes are fetched when it is closed; then it is too late, and close says so."""
    name, folder = fresh(both)
    path = a_file_of_long_ago(both.folder_dir(folder))
    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR | os.O_APPEND)
        if met:
            assert await d.fs.read(fh, 0, 1) == b"a"
        done = overtake(d.fs._writer._transfers, path, at_least=SIZE)
        await d.fs.write(fh, SIZE, b"tail")
        assert not done
        with pytest.raises(Stale):
            await d.close(fh)
        assert done
        await until(lambda: len(d.fs._uploader.unsent) == 1 and not d.fs._uploader._running)
        assert await d.read(f"{name}/f") == NEW
        (beside,) = [n for n in await d.names(name) if n != "f"]
        assert beside.startswith("f.conflict-")
        (unsent,) = d.fs.unsent()
        assert (unsent.name, unsent.state) == (f"{name}/{beside}", "parked")
        assert contents(both.folder_dir(folder)) == {"f": NEW}


async def test_truncating_a_file_that_is_rewritten_never_mixes(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    path = a_file_of_long_ago(both.folder_dir(folder))
    async with serving(both, tmp_path) as d:
        done = overtake(d.fs._writer._transfers, path, at_least=SIZE // 2)
        with suppress(Stale):
            await d.truncate(f"{name}/f", SIZE // 2)
        assert done
        assert path.read_bytes() in (NEW, NEW[: SIZE // 2])


# --- a manager that says nothing ----------------------------------------------------------------


def silence(server: Embedded) -> None:
    server.faults({"rules": [{"action": "stall", "half": "manager", "times": None}]})


async def test_what_is_held_is_listed_while_the_manager_is_silent(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "sub").mkdir()
    (both.folder_dir(folder) / "sub" / "f").write_bytes(b"x")
    async with serving(both, tmp_path, dir_ttl_s=1.0, folder_ttl_s=1.0, deadline_s=12.0) as d:
        assert await d.names(f"{name}/sub") == ["f"]
        fetched_at = d.node((await d.stat(f"{name}/sub")).ino).listing.fetched_at
        (both.folder_dir(folder) / "sub" / "g").write_bytes(b"y")
        await trio.sleep(1.1)  # the time of belief, for which silence is believed, too
        silence(both)
        with trio.fail_after(11.0):  # the deadline is twelve, and three directories are asked for
            assert await d.names(f"{name}/sub") == ["f"]
        assert d.node((await d.stat(f"{name}/sub")).ino).listing.fetched_at == fetched_at
        async with d.deadline():
            assert (await d.stat(f"{name}/sub/f")).size == 1
        both.clear_faults()
        with trio.fail_after(20):
            while await d.names(f"{name}/sub") != ["f", "g"]:
                await trio.sleep(0.01)
        assert (await d.stat(f"{name}/sub/g")).size == 1


async def test_what_is_held_is_listed_while_a_fresh_look_hangs(both: Embedded, tmp_path: Path) -> None:
    """An rmdir wants no old listing and waits; who takes an old one is not to wait with it."""
    name, folder = fresh(both)
    (both.folder_dir(folder) / "sub").mkdir()
    (both.folder_dir(folder) / "sub" / "f").write_bytes(b"x")
    async with serving(both, tmp_path, deadline_s=6.0) as d:
        assert await d.names(f"{name}/sub") == ["f"]
        parent, base = await d.parent(f"{name}/sub")
        sub = d.node((await d.stat(f"{name}/sub")).ino)
        silence(both)
        both.reset_calls()

        async def rmdir() -> None:
            with suppress(NotEmpty):
                await d.fs.rmdir(parent, base)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rmdir)
            await until(lambda: both.count("GET", LISTING) == 1)
            dircache.expire(sub)
            async with d.deadline():
                fh = await d.fs.opendir(sub.ino)
                assert [n for _, n, _ in await d.fs.readdir(fh, 0)] == [b".", b"..", b"f"]
                d.fs.releasedir(fh)
            release(both)
            both.clear_faults()


async def test_file_the_server_stumbles_over_harms_no_other(both: Embedded, tmp_path: Path) -> None:
    """Whether the server takes the folder's token is looked at with a file that was listed: not with this."""
    name, folder = fresh(both)
    for n in range(9):
        (both.folder_dir(folder) / f"odd\x1b{n}").write_bytes(b"x")
    (both.folder_dir(folder) / "zz").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        assert len(await d.names(name)) == 10  # a number at which listings are cut, so each name is asked for
        await d.write(f"{name}/new", b"content")
        assert await d.read(f"{name}/new") == b"content"


async def test_listing_holds_where_a_name_it_left_out_cannot_be_asked_for(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in range(10):  # as many as there are in a listing that was cut
        (disk / f"f{n}").write_bytes(b"x")
    async with serving(both, tmp_path, dir_ttl_s=0.0) as d:
        assert await d.names(name) == [f"f{n}" for n in range(10)]
        for n in (0, 1):
            (disk / f"f{n}").rename(disk / f"g{n}")
        refused = {"action": "status", "half": "storage", "path": "/download", "status": 403, "times": None}
        both.faults({"rules": [refused]})
        assert set(await d.names(name)) == {f"f{n}" for n in range(10)} | {"g0", "g1"}
        both.clear_faults()
        assert set(await d.names(name)) == {f"f{n}" for n in range(2, 10)} | {"g0", "g1"}


# --- readahead over what is half there ------------------------------------------------------------


async def test_looking_ahead_over_a_block_that_is_here_in_part_ends(both: Embedded, tmp_path: Path) -> None:
    """A range begins in the middle of a block; the rest of that block is here, the next one on its way."""
    name, folder = fresh(both)
    data = os.urandom(4 * BLOCK_SIZE)
    (both.folder_dir(folder) / "f").write_bytes(data)
    middle = BLOCK_SIZE + 85 * 4096
    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f")
        assert await d.fs.read(fh, 0, 4096) == data[:4096]
        node, reader = d.node(d.fs.ino_of(fh)), d.fs._reader
        half = Range(reader.ranges, node, middle, 3 * BLOCK_SIZE)
        reader.ranges._of[node.serial, node.version].append(half)
        half.validator = node.validator
        room = half.room()
        room[:] = data[middle : middle + len(room)]
        half.add(len(room))
        half.confirm(2 * BLOCK_SIZE)
        assert not half.brings(middle) and half.brings(2 * BLOCK_SIZE)
        reader._start_ahead(node, BLOCK_SIZE, 4 * BLOCK_SIZE)
        started = [(r.start, r.stop) for r in reader.ranges._of[node.serial, node.version] if r is not half]
        assert (BLOCK_SIZE, middle) in started and all(start < stop for start, stop in started)
        reader.ranges._of[node.serial, node.version].remove(half)
        half.end()
        assert await d.read_all(fh) == data
        await d.close(fh)


# --- a replaced file whose old blocks are on disk ------------------------------------------------


async def test_old_handle_is_stale_although_its_blocks_are_on_disk(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    old, new = os.urandom(2 * BLOCK_SIZE), os.urandom(2 * BLOCK_SIZE)
    (disk / "f").write_bytes(old)
    async with serving(both, tmp_path, on_disk=True, attr_ttl_s=0.05) as d:
        fh = await d.open(f"{name}/f")
        assert await d.read_all(fh) == old
        reader = d.fs._reader
        await reader._disk.flush()
        reader._blocks.clear()
        assert await d.fs.read(fh, 0, 4096) == old[:4096]  # from disk
        reader._blocks.clear()
        (disk / "next").write_bytes(new)
        (disk / "next").rename(disk / "f")
        await trio.sleep(0.1)
        await d.look_again(name)
        assert await d.read(f"{name}/f") == new
        assert reader._disk.has(d.node(d.fs.ino_of(fh)), 0)
        with pytest.raises(Stale):
            await d.fs.read(fh, 0, 4096)
        await d.close(fh)
