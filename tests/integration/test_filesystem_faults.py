"""Trouble on the way to the server: nothing acknowledged is lost, and everything ends in time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio

from tests.support.disks import contents
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import Driver, release, serving, stall, until
from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.errors import (
    Ambiguous,
    NotEmpty,
    NotFound,
    PermissionDenied,
    ReadOnly,
    RemoteUnavailable,
    VfsError,
)

# A retry says so with a warning; every test here orders trouble.
pytestmark = pytest.mark.usefixtures("expect_warnings")

UPLOAD = "/folders/{vf}/request-upload"
LISTING = "/folders/{vf}/files"


def order(server: Embedded, action: str, path: str, method: str = "", **more: object) -> None:
    server.faults({"rules": [{"action": action, "path": path, "method": method, **more}]})


# --- transfers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "reset"},
        {"action": "status", "status": 502},
        {"action": "status", "status": 503, "times": 2},
        {"action": "cut_down", "after_bytes": 100_000},
        {"action": "refuse_token"},
        {"action": "delay", "delay_ms": 300},
    ],
    ids=lambda rule: rule["action"],
)
async def test_trouble_while_reading_is_invisible(
    both: Embedded, tmp_path: Path, rule: dict[str, object]
) -> None:
    name, folder = fresh(both)
    data = os.urandom(3 * BLOCK_SIZE)
    (both.folder_dir(folder) / "f").write_bytes(data)
    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f")
        both.faults({"rules": [{"path": "/download", "method": "GET", **rule}]})
        assert await d.read_all(fh) == data
        await d.fs.release(fh)


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "reset"},
        {"action": "status", "status": 502},
        {"action": "cut_up", "after_bytes": 100_000},
        {"action": "cut_up", "after_bytes": (17 << 20) - 1},
        {"action": "lose_reply"},
        {"action": "lose_reply", "times": 2},
        {"action": "refuse_token"},
    ],
    ids=lambda rule: rule["action"],
)
async def test_trouble_while_uploading_is_invisible(
    both: Embedded, tmp_path: Path, rule: dict[str, object]
) -> None:
    name, folder = fresh(both)
    data = os.urandom(1 << 20) * 17  # two pieces
    async with serving(both, tmp_path) as d:
        both.faults({"rules": [{"path": "/upload", "method": "PATCH", **rule}]})
        await d.write(f"{name}/f", data)
        assert contents(both.folder_dir(folder)) == {"f": data}
        assert await d.read(f"{name}/f") == data


@pytest.mark.parametrize("content", [b"", b"content"])
async def test_lost_last_reply_of_a_small_upload(both: Embedded, tmp_path: Path, content: bytes) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x" * len(content))  # of the same size, not the same file
    async with serving(both, tmp_path) as d:
        order(both, "lose_reply", "/upload", "PATCH")
        await d.write(f"{name}/f", content)
        assert contents(both.folder_dir(folder)) == {"f": content}


async def test_tokens_that_live_shortly_are_renewed(tmp_path: Path) -> None:
    for dialect in ("23.09", "26"):
        with Embedded(tmp_path / dialect, dialect=dialect, token_life=1.0) as server:
            name, folder = fresh(server)
            async with serving(server, tmp_path / "state") as d:
                await d.write(f"{name}/f", b"one")
                fh = await d.open(f"{name}/f")
                assert await d.fs.read(fh, 0, 10) == b"one"
                await trio.sleep(1.2)  # the one thing here that only time can do
                d.fs.parts.blocks.clear()
                assert await d.fs.read(fh, 0, 10) == b"one"
                await d.write(f"{name}/f", b"two")
                assert contents(server.folder_dir(folder)) == {"f": b"two"}
                await d.fs.release(fh)


async def test_failing_flush_keeps_the_content_and_a_later_one_sends_it(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"old")
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/f", os.O_RDWR | os.O_TRUNC)
        await d.fs.write(fh, 0, b"new")
        order(both, "status", "/folders/*/request-upload", status=503, times=None)
        with pytest.raises(RemoteUnavailable):
            await d.fs.flush(fh)
        assert contents(both.folder_dir(folder)) == {"f": b"old"}
        assert await d.read(f"{name}/f") == b"new"
        both.clear_faults()
        await d.close(fh)
        assert contents(both.folder_dir(folder)) == {"f": b"new"}


async def test_what_a_close_could_not_send_is_tried_again(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path) as d:
        order(both, "status", "/folders/*/request-upload", status=503, times=None)
        with pytest.raises(RemoteUnavailable):
            await d.write(f"{name}/f", b"content")
        assert await d.read(f"{name}/f") == b"content"
        both.clear_faults()
        await until(lambda: contents(both.folder_dir(folder)) == {"f": b"content"})
        await until(lambda: not d.fs._writer._staged)
        assert await d.read(f"{name}/f") == b"content"


async def test_what_a_close_had_no_time_to_send_is_tried_again(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path, deadline_s=1.0) as d:
        fh = await d.create(f"{name}/f")
        await d.fs.write(fh, 0, b"content")
        stall(both, "POST", "/folders/*/request-upload", times=2)
        for call in (d.fs.flush, d.fs.release):
            with pytest.raises(RemoteUnavailable):
                async with d.deadline():
                    await call(fh)
        assert contents(both.folder_dir(folder)) == {}
        release(both)
        await until(lambda: contents(both.folder_dir(folder)) == {"f": b"content"})


# --- silence -----------------------------------------------------------------------------------


async def test_every_operation_ends_in_time_when_the_server_is_silent(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in ("read", "rename", "unlink", "truncate", "append"):
        (disk / n).write_bytes(b"x" * 100)
    (disk / "empty").mkdir()
    async with serving(both, tmp_path, deadline_s=3.0) as d:
        await d.names(name)
        reader = await d.open(f"{name}/read")
        appender = await d.open(f"{name}/append", os.O_WRONLY | os.O_APPEND)
        parent = (await d.stat(name)).ino
        d.fs.parts.blocks.clear()
        both.faults({"rules": [{"action": "stall", "times": None}]})
        ended: dict[str, str] = {}

        async def one(what: str, call: object, *args: object) -> None:
            try:
                async with d.deadline():
                    await call(*args)  # type: ignore[operator]
                ended[what] = "done"
            except VfsError as e:
                ended[what] = type(e).__name__

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for what, call, *args in [
                    ("list", d.names, f"{name}/empty"),
                    ("read", d.fs.read, reader, 0, 100),
                    ("write", d.fs.write, appender, 0, b"more"),
                    ("create and close", d.write, f"{name}/new", b"x"),
                    ("mkdir", d.fs.mkdir, parent, b"dir", 0o755),
                    ("rename", d.fs.rename, parent, b"rename", parent, b"renamed"),
                    ("unlink", d.fs.unlink, parent, b"unlink"),
                    ("rmdir", d.fs.rmdir, parent, b"empty"),
                    ("truncate", d.truncate, f"{name}/truncate", 1),
                ]:
                    nursery.start_soon(one, what, call, *args)
            assert set(ended.values()) == {"DeadlineExceeded"} and len(ended) == 9, ended
        both.clear_faults()
        assert await d.fs.read(reader, 0, 100) == b"x" * 100
        for fh in (reader, appender):
            await d.close(fh)
        await d.fs.drain()
    # Whatever was called off halfway: no content that somebody had acknowledged is gone.
    on_disk = contents(disk)
    assert on_disk["read"] == b"x" * 100 and on_disk["append"][:100] == b"x" * 100
    assert on_disk.get("rename", on_disk.get("renamed")) == b"x" * 100
    assert on_disk["new"] == b"x" and len(on_disk["truncate"]) in (1, 100)


async def test_waiting_behind_an_upload_that_moves_is_not_running_out_of_time(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    data = b"x" * (40 << 20)  # four requests, each of them late: together longer than the deadline
    async with serving(both, tmp_path, deadline_s=4.0) as d:
        one, other = await d.create(f"{name}/f"), await d.create(f"{name}/f")
        await d.fs.write(one, 0, data)
        order(both, "delay", "/upload", "PATCH", delay_ms=1200, times=None)

        async def flush(fh: int) -> None:
            async with d.deadline():
                await d.fs.flush(fh)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, one)
            await until(lambda: both.count("PATCH", "/upload") == 1)
            nursery.start_soon(flush, other)
        assert (both.folder_dir(folder) / "f").stat().st_size == len(data)
        for fh in (one, other):
            await d.close(fh)


# --- looking before leaping --------------------------------------------------------------------


async def test_rmdir_believes_no_old_listing_when_the_server_does_not_answer(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in ("dir", "src", "dst"):
        (disk / n).mkdir()
    async with serving(both, tmp_path) as d:
        for n in ("dir", "src", "dst"):
            assert await d.names(f"{name}/{n}") == []
        for n in ("dir", "dst"):
            (disk / n / "theirs").write_bytes(b"somebody else's")
        both.faults({"rules": [{"action": "status", "path": "/folders/*/files", "times": None}]})
        with pytest.raises(RemoteUnavailable):
            await d.rmdir(f"{name}/dir")
        with pytest.raises(RemoteUnavailable):
            await d.rename(f"{name}/src", f"{name}/dst")
        both.clear_faults()
        with pytest.raises(NotEmpty):
            await d.rmdir(f"{name}/dir")
    assert contents(disk) == {f"{n}/theirs": b"somebody else's" for n in ("dir", "dst")}


async def test_old_listing_is_served_when_the_server_does_not_answer(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x")
    async with serving(both, tmp_path, dir_ttl_s=0.0) as d:
        assert await d.names(name) == ["f"]
        both.faults({"rules": [{"action": "status", "path": "/folders", "times": None}]})
        assert await d.names(name) == ["f"]
        assert (await d.stat(f"{name}/f")).size == 1


async def test_directory_that_became_a_file_keeps_what_is_unsent_in_it(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "dir").mkdir()
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/dir/f")
        await d.fs.write(fh, 0, b"ours")
        (disk / "dir").rmdir()
        (disk / "dir").write_bytes(b"a file now")
        await d.look_again(name)
        await d.names(name)
        with pytest.raises(VfsError):
            await d.close(fh)
        assert await d.read(f"{name}/dir/f") == b"ours"
        unsent = await d.fs.drain()
        assert [(u.name, Path(u.kept_at).read_bytes()) for u in unsent] == [(f"{name}/dir/f", b"ours")]


async def test_directory_removed_on_the_server_comes_back_with_what_is_unsent_in_it(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "dir").mkdir()
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/dir/f")
        await d.fs.write(fh, 0, b"ours")
        (disk / "dir").rmdir()
        await d.look_again(name)
        await d.names(name)
        await d.close(fh)
        assert contents(disk) == {"dir/f": b"ours"}


async def test_probe_of_a_cut_directory_keeps_what_is_unsent_below(tmp_path: Path) -> None:
    with Embedded(tmp_path / "server", scandir_limit=100) as server:
        name, folder = fresh(server)
        disk = server.folder_dir(folder)
        for i in range(105):
            (disk / f"d{i}").mkdir()
        async with serving(server, tmp_path / "state", dir_ttl_s=0.0) as d:
            for i in range(0, 105, 10):  # some listed, some not
                fh = await d.create(f"{name}/d{i}/f")
                await d.fs.write(fh, 0, b"ours")
                (disk / f"d{i}").rmdir()
                assert (await d.stat(f"{name}/d{i}/f")).size == 4
                await d.close(fh)
                assert (disk / f"d{i}" / "f").read_bytes() == b"ours"


# --- the end of a mount ------------------------------------------------------------------------


@pytest.mark.usefixtures("expect_warnings")
async def test_drain_sends_what_it_can_and_the_next_mount_the_rest(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path, deadline_s=5.0, sync=False) as d:
        await d.mkdir(f"{name}/dir")
        for n in ("a", "dir/b"):
            fh = await d.create(f"{name}/{n}")
            await d.fs.write(fh, 0, n.encode())
        order(both, "status", "/folders/*/request-upload", status=403, times=1)
        (unsent,) = await d.fs.drain()
        sent = contents(both.folder_dir(folder))
        kept = unsent.name.removeprefix(f"{name}/")
        assert {kept, *sent} == {"a", "dir/b"}
        assert unsent.state == "parked" and unsent.reason
        assert Path(unsent.kept_at).read_bytes() == kept.encode()
    async with serving(both, tmp_path) as d:
        assert await d.read(f"{name}/{kept}") == kept.encode()
        assert await d.fs.drain() == []
    assert contents(both.folder_dir(folder)) == {"a": b"a", "dir/b": b"dir/b"}
    assert list((tmp_path / "staging").iterdir()) == []


async def test_drain_after_an_outage_sends_everything(both: Embedded, tmp_path: Path) -> None:
    """What failed while the server was away says nothing about now."""
    name, folder = fresh(both)
    async with serving(both, tmp_path, sync=False, retry_first_s=0.01) as d:
        order(both, "reset", "/folders/*/request-upload", times=None)
        for n in ("a", "b", "c"):
            await d.write(f"{name}/{n}", n.encode())
        await until(lambda: d.fs._uploader._line.failures > 3)
        both.clear_faults()
        assert await d.fs.drain() == []
    assert contents(both.folder_dir(folder)) == {"a": b"a", "b": b"b", "c": b"c"}


async def test_drain_waits_for_a_silent_server_once_not_once_per_file(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path, deadline_s=1.0, drain_timeout_s=10.0) as d:
        for i in range(20):
            fh = await d.create(f"{name}/f{i:02}")
            await d.fs.write(fh, 0, b"%d" % i)
        both.reset_calls()
        stall(both, "POST", "/folders/*/request-upload", times=None)
        unsent = await d.fs.drain()
        assert [(u.name, Path(u.kept_at).read_bytes()) for u in unsent] == [
            (f"{name}/f{i:02}", b"%d" % i) for i in range(20)
        ]
        assert both.count("POST", UPLOAD) < 20  # those that were let through meanwhile
        assert contents(both.folder_dir(folder)) == {}


@pytest.mark.usefixtures("expect_warnings")
async def test_what_a_dead_mount_left_is_found_by_the_next(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path, sync=False) as d:
        stall(both, "POST", "/folders/*/request-upload", times=None)
        never = await d.create(f"{name}/never closed")
        await d.fs.write(never, 0, b"content")
        await d.write(f"{name}/closed", b"acknowledged")  # and no drain: the mount dies
    both.clear_faults()
    async with serving(both, tmp_path) as d:
        assert await d.names(name) == ["closed"]
        assert await d.read(f"{name}/closed") == b"acknowledged"
        assert await d.fs.drain() == []
    assert contents(both.folder_dir(folder)) == {"closed": b"acknowledged"}
    assert list(contents(tmp_path / "unsent").values()) == [b"content"]


# --- rights ------------------------------------------------------------------------------------


async def _every_write_is_refused(d: Driver, name: str, error: type[VfsError]) -> None:
    for call in (
        d.write(f"{name}/new", b"x"),
        d.create(f"{name}/new"),
        d.open(f"{name}/f", os.O_RDWR),
        d.open(f"{name}/f", os.O_RDONLY | os.O_TRUNC),
        d.mkdir(f"{name}/dir"),
        d.rmdir(f"{name}/sub"),
        d.unlink(f"{name}/f"),
        d.rename(f"{name}/f", f"{name}/g"),
        d.truncate(f"{name}/f", 0),
    ):
        with pytest.raises(error):
            await call


def sent(server: Embedded) -> dict[tuple[str, str, str], int]:
    """Calls that change something, or would have."""
    return {k: n for k, n in server.calls().items() if k[1] != "GET" and "request-download" not in k[2]}


async def test_read_only_folder_refuses_everything_with_nothing_sent(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "sub").mkdir()
    (both.folder_dir(folder) / "f").write_bytes(b"content")
    both.share_folder("owner", name, "friend", "ro")
    async with serving(both, tmp_path, user="friend") as d:
        assert await d.read(f"{name}/f") == b"content"
        both.reset_calls()
        await _every_write_is_refused(d, name, ReadOnly)
        assert sent(both) == {}
        assert (await d.stat(f"{name}/f")).mode & 0o222 == 0


async def test_read_only_mount_refuses_everything_with_nothing_sent(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "sub").mkdir()
    (both.folder_dir(folder) / "f").write_bytes(b"content")
    async with serving(both, tmp_path, read_only=True) as d:
        both.reset_calls()
        await _every_write_is_refused(d, name, ReadOnly)
        for call in (d.mkdir("new"), d.rmdir(name), d.rename(name, "new")):
            with pytest.raises(ReadOnly):
                await call
        assert sent(both) == {}


async def test_invited_user_who_may_not_create_on_26(new_server: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(new_server)
    disk = new_server.folder_dir(folder)
    (disk / "f").write_bytes(b"content")
    new_server.share_folder("owner", name, "friend", "rw")
    async with serving(new_server, tmp_path, user="friend") as d:
        with pytest.raises(PermissionDenied):
            await d.mkdir(f"{name}/dir")
        with pytest.raises(PermissionDenied):
            await d.write(f"{name}/new", b"refused")
        assert await d.read(f"{name}/new") == b"refused"  # kept, for whoever wants to save it
        await d.rename(f"{name}/f", f"{name}/g")
        assert contents(disk) == {"g": b"content"}
        unsent = await d.fs.drain()
        assert [(u.name, Path(u.kept_at).read_bytes()) for u in unsent] == [(f"{name}/new", b"refused")]


async def test_namesakes_are_shown_apart_and_only_the_right_one_is_changed(
    new_server: Embedded, tmp_path: Path
) -> None:
    name, theirs = fresh(new_server)
    new_server.share_folder("owner", name, "friend", "rw")
    (new_server.folder_dir(theirs) / "f").write_bytes(b"owner's")
    owner = new_server.env("owner")["BACKEND_USER"]
    mine = new_server.create_folder("friend", name)  # 23.09 would refuse the name
    (new_server.folder_dir(mine) / "f").write_bytes(b"friend's")
    async with serving(new_server, tmp_path, user="friend") as d:
        assert [n for n in await d.names("") if n.startswith(name)] == [name, f"{name}@{owner}"]
        assert await d.read(f"{name}/f") == b"friend's"
        assert await d.read(f"{name}@{owner}/f") == b"owner's"


async def test_folder_that_a_name_does_not_reach_is_refused(old_server: Embedded, tmp_path: Path) -> None:
    """23.09 answers with its first match; the other one must never be written instead."""
    name, first = fresh(old_server)
    async with serving(old_server, tmp_path) as d:
        (old_server.folder_dir(first) / "f").write_bytes(b"x")
        await d.names(name)
        d.fs._gate.unreachable = {first}
        for call in (
            d.open(f"{name}/f"),
            d.write(f"{name}/new", b"x"),
            d.mkdir(f"{name}/dir"),
        ):
            with pytest.raises(Ambiguous):
                await call
        assert contents(old_server.folder_dir(first)) == {"f": b"x"}
        for call in (d.unlink(f"{name}/f"), d.rename(f"{name}/f", f"{name}/g"), d.rmdir(name)):
            with pytest.raises((Ambiguous, NotEmpty)):
                await call
        assert contents(old_server.folder_dir(first)) == {"f": b"x"}


# --- what it costs -----------------------------------------------------------------------------


async def test_300_files_cost_one_listing_and_one_token(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    young = time.time() + 3600  # or they come as an archive where this takes long
    for i in range(300):
        (both.folder_dir(folder) / f"f{i}").write_bytes(b"%d" % i)
        os.utime(both.folder_dir(folder) / f"f{i}", (young, young))
    async with serving(both, tmp_path, attr_ttl_s=60.0, dir_ttl_s=60.0) as d:
        await d.stat(name)
        both.reset_calls()
        names = await d.names(name)
        assert len(names) == 300
        for n in names:
            await d.fs.getattr((await d.stat(f"{name}/{n}")).ino)
        assert both.calls() == {("manager", "GET", LISTING): 1}
        for n in names:
            assert await d.read(f"{name}/{n}") == n[1:].encode()
        assert both.calls("manager") == {
            ("manager", "GET", LISTING): 1,
            ("manager", "POST", "/folders/{vf}/request-download"): 1,
        }
        # What a 23.09 server sends has to be confirmed.
        each = 2 if both.dialect == "23.09" else 1
        assert 300 * each <= both.count("GET", "/download") <= 300 * each + 20


async def test_directory_larger_than_the_listing_limit(tmp_path: Path) -> None:
    with Embedded(tmp_path / "server", scandir_limit=100) as server:
        name, folder = fresh(server)
        for i in range(150):
            (server.folder_dir(folder) / f"f{i}").write_bytes(b"%d" % i)
        async with serving(server, tmp_path / "state") as d:
            assert len(await d.names(name)) == 100
            for i in range(150):
                assert await d.read(f"{name}/f{i}") == b"%d" % i
            with pytest.raises(NotFound):
                await d.stat(f"{name}/none")
            await d.write(f"{name}/f149", b"changed")
            assert (server.folder_dir(folder) / "f149").read_bytes() == b"changed"
            with pytest.raises(NotEmpty):
                await d.rmdir(name)
