"""What is kept on this machine: it holds for its version, survives the mount, and costs nobody data."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.sending import background
from tests.support.vfs import Driver, release, serving, stall, until
from vfsmount.errors import (
    AlreadyExists,
    AttributeUnsupported,
    InvalidRequest,
    LocalIOError,
    NoAttribute,
    NoSpace,
    NotEmpty,
    NotFound,
    NotSupported,
    ReadOnly,
)
from vfsmount.vfs import uploader
from vfsmount.vfs.handles import SetAttr

LISTING = "/folders/{vf}/files"
LISTINGS = "/folders/*/files"
MODE_MTIME = SetAttr(mode=0o711, mtime_ns=10**18 + 7)


def rows(state_dir: Path) -> set[tuple[bytes, bytes]]:
    """(directory, name) of everything recorded below a folder's top."""
    with closing(sqlite3.connect(state_dir / "records.sqlite")) as db:
        return {(bytes(p), bytes(n)) for p, n in db.execute("select parent, name from attributes") if n}


async def symlink(d: Driver, path: str, target: bytes = b"target") -> None:
    attr = await d.fs.symlink(*await d.parent(path), target)
    d.lookups[attr.ino] += 1


async def readlink(d: Driver, path: str) -> bytes:
    return d.fs.readlink((await d.stat(path)).ino)


async def setattr_(d: Driver, path: str, change: SetAttr = MODE_MTIME) -> None:
    await d.fs.setattr((await d.stat(path)).ino, change)


def replace(path: Path, data: bytes) -> None:
    """As an upload by somebody else does it: in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    temporary.rename(path)


# --- which version they hold for ----------------------------------------------------------------


async def test_attributes_survive_the_mount(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "theirs").write_bytes(b"x")
    (both.folder_dir(folder) / "dir").mkdir()
    paths = [f"{name}/{n}" for n in ("theirs", "dir", "ours")]
    async with serving(both, tmp_path) as d:
        await d.write(f"{name}/ours", b"content")
        for path in paths:
            await setattr_(d, path, SetAttr(mode=0o4711, uid=12, gid=34, mtime_ns=5, atime_ns=6))
            await d.fs.set_xattr((await d.stat(path)).ino, b"user.\xff", b"\0value")
        before = [await d.stat(path) for path in paths]
    async with serving(both, tmp_path) as d:
        for path, old in zip(paths, before, strict=True):
            new = await d.stat(path)
            assert (new.mode, new.uid, new.gid) == (stat.S_IFMT(new.mode) | 0o4711, 12, 34)
            assert (new.mtime_ns, new.atime_ns, new.size) == (5, 6, old.size)
            assert d.fs.get_xattr(new.ino, b"user.\xff") == b"\0value"
        assert await d.read(f"{name}/ours") == b"content"


async def test_attributes_go_when_the_file_was_replaced_between_two_mounts(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in ("replaced", "same"):
        (disk / n).write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        for n in ("replaced", "same"):
            await setattr_(d, f"{name}/{n}")
    replace(disk / "replaced", b"y")
    async with serving(both, tmp_path) as d:
        attr = await d.stat(f"{name}/replaced")
        assert (attr.mode & 0o7777, attr.mtime_ns) != (0o711, 10**18 + 7)
        assert attr.mode & 0o7777 == 0o644
        assert (await d.stat(f"{name}/same")).mode & 0o7777 == 0o711
        assert rows(tmp_path) == {(b"", b"same")}


async def test_records_of_what_vanished_are_removed(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "file").write_bytes(b"x")
    (disk / "dir" / "sub").mkdir(parents=True)
    (disk / "dir" / "sub" / "f").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        for n in ("file", "dir", "dir/sub/f"):
            await setattr_(d, f"{name}/{n}")
    assert rows(tmp_path) == {(b"", b"file"), (b"", b"dir"), (b"dir/sub", b"f")}
    (disk / "file").unlink()
    (disk / "dir").rename(disk / "elsewhere")
    async with serving(both, tmp_path) as d:
        assert await d.names(name) == ["elsewhere"]
        assert rows(tmp_path) == set()


async def test_directory_made_anew_has_nothing_of_the_one_that_vanished(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "dir").mkdir()
    async with serving(both, tmp_path) as d:
        await symlink(d, f"{name}/dir/link")
    (both.folder_dir(folder) / "dir").rmdir()
    async with serving(both, tmp_path) as d:
        assert await d.names(name) == []
        await d.mkdir(f"{name}/dir")
        assert await d.names(f"{name}/dir") == []
        await d.look_again(f"{name}/dir")
        assert await d.names(f"{name}/dir") == []
    async with serving(both, tmp_path) as d:
        assert await d.names(f"{name}/dir") == []


async def test_files_of_the_default_mode_leave_no_record(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path, umask=0o027) as d:
        for n, mode in (("usual", 0o640), ("private", 0o600), ("program", 0o750)):
            await d.close(await d.create(f"{name}/{n}", os.O_WRONLY, mode))
            assert (await d.stat(f"{name}/{n}")).mode & 0o7777 == mode
        await d.mkdir(f"{name}/usual dir", 0o750)
        await d.mkdir(f"{name}/private dir", 0o700)
        assert rows(tmp_path) == {(b"", b"private"), (b"", b"program"), (b"", b"private dir")}
        await setattr_(d, f"{name}/private", SetAttr(mode=0o640))
        assert (b"", b"private") not in rows(tmp_path)


async def test_attributes_set_before_the_first_flush_belong_to_what_is_sent(
    both: Embedded, tmp_path: Path
) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/f", os.O_WRONLY)
        await d.fs.write(fh, 0, b"content")
        await setattr_(d, f"{name}/f")
        assert rows(tmp_path) == set()
        await d.close(fh)
    async with serving(both, tmp_path) as d:
        attr = await d.stat(f"{name}/f")
        assert (attr.mode & 0o7777, attr.mtime_ns) == (0o711, 10**18 + 7)


# --- names that exist here only -----------------------------------------------------------------


async def test_listing_in_flight_neither_brings_back_nor_loses_a_link(both: Embedded, tmp_path: Path) -> None:
    """An rmdir's fresh look is under way while links come and go in the directory."""
    name, folder = fresh(both)
    (both.folder_dir(folder) / "dir").mkdir()
    async with serving(both, tmp_path) as d:
        await symlink(d, f"{name}/dir/old")
    async with serving(both, tmp_path) as d:
        assert await d.names(f"{name}/dir") == ["old"]
        parent, base = await d.parent(f"{name}/dir")
        stall(both, "GET", LISTINGS)
        both.reset_calls()

        async def rmdir() -> None:
            with pytest.raises(NotEmpty):
                await d.fs.rmdir(parent, base)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rmdir)
            await until(lambda: both.count("GET", LISTING) == 1)
            await d.unlink(f"{name}/dir/old")
            await symlink(d, f"{name}/dir/new")
            release(both)
        assert await d.names(f"{name}/dir") == ["new"]
        assert rows(tmp_path) == {(b"dir", b"new")}
    async with serving(both, tmp_path) as d:
        assert await d.names(f"{name}/dir") == ["new"]
        await d.unlink(f"{name}/dir/new")
        await d.rmdir(f"{name}/dir")
    assert not (both.folder_dir(folder) / "dir").exists()
    assert rows(tmp_path) == set()


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_name_that_appears_on_the_server_wins_over_a_link(
    both: Embedded, tmp_path: Path, kind: str
) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path) as d:
        await symlink(d, f"{name}/taken")
        await symlink(d, f"{name}/kept")
        theirs = both.folder_dir(folder) / "taken"
        theirs.write_bytes(b"theirs") if kind == "file" else theirs.mkdir()
        await d.look_again(name)
        for _ in range(2):
            mode = (await d.stat(f"{name}/taken")).mode
            assert stat.S_ISREG(mode) if kind == "file" else stat.S_ISDIR(mode)
            assert await readlink(d, f"{name}/kept") == b"target"
    async with serving(both, tmp_path) as d:
        mode = (await d.stat(f"{name}/taken")).mode
        assert stat.S_ISREG(mode) if kind == "file" else stat.S_ISDIR(mode)
        assert await d.names(name) == ["kept", "taken"]
        assert rows(tmp_path) == {(b"", b"kept")}
        await (d.unlink if kind == "file" else d.rmdir)(f"{name}/taken")
        assert await d.names(name) == ["kept"]
        assert not theirs.exists()


async def test_renamed_directory_takes_the_links_below_along(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "a" / "b").mkdir(parents=True)
    (both.folder_dir(folder) / "a0").mkdir()
    (both.folder_dir(folder) / "c").mkdir()
    async with serving(both, tmp_path) as d:
        for path in ("a/link", "a/b/link", "a0/link", "link"):
            await symlink(d, f"{name}/{path}", path.encode())
        await d.rename(f"{name}/a", f"{name}/c/moved")
        await d.rename(f"{name}/c/moved/b/link", f"{name}/top")
        links = {(b"c/moved", b"link"), (b"a0", b"link"), (b"", b"link"), (b"", b"top")}
        assert rows(tmp_path) == links | {(b"c", b"moved")}  # which keeps its inode number
    async with serving(both, tmp_path) as d:
        assert await readlink(d, f"{name}/c/moved/link") == b"a/link"
        assert await readlink(d, f"{name}/top") == b"a/b/link"
        assert await readlink(d, f"{name}/a0/link") == b"a0/link"
        assert await d.names(f"{name}/c/moved/b") == []
        with pytest.raises(NotFound):
            await d.stat(f"{name}/a")


async def test_link_is_refused_where_a_name_is_taken_and_in_the_root(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        with pytest.raises(AlreadyExists):
            await symlink(d, f"{name}/f")
        await symlink(d, f"{name}/link")
        with pytest.raises(AlreadyExists):
            await symlink(d, f"{name}/link", b"another")
        assert await readlink(d, f"{name}/link") == b"target"
        with pytest.raises(NotSupported):
            await symlink(d, "in-root")
        with pytest.raises(InvalidRequest):
            await d.fs.mknod(*await d.parent(f"{name}/directory"), stat.S_IFDIR | 0o700)


# --- limits and refusals ------------------------------------------------------------------------


async def test_extended_attributes_have_a_limit(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        ino = (await d.stat(f"{name}/f")).ino
        most = bytes((128 << 10) - len(b"user.most\0"))
        await d.fs.set_xattr(ino, b"user.most", most)
        for attribute, value in ((b"user.x", b""), (b"user.most", most + b"x")):
            with pytest.raises(NoSpace):
                await d.fs.set_xattr(ino, attribute, value)
        assert (d.fs.list_xattrs(ino), d.fs.get_xattr(ino, b"user.most")) == ([b"user.most"], most)
        for attribute, error in (
            (b"security.selinux", AttributeUnsupported),
            (b"user.vfsmount.x", NotSupported),
        ):
            with pytest.raises(error):
                await d.fs.set_xattr(ino, attribute, b"x")
        for value in (None, None):
            with pytest.raises(NoAttribute):
                await d.fs.set_xattr(ino, b"user.none", value)
        with pytest.raises(NoAttribute):
            d.fs.get_xattr(ino, b"user.none")
        await d.fs.set_xattr(ino, b"user.most", None)
        assert d.fs.list_xattrs(ino) == []
        assert rows(tmp_path) == set()


async def test_read_only_folder_takes_no_attributes_and_no_links(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x")
    both.share_folder("owner", name, "friend", "ro")
    async with serving(both, tmp_path, user="friend") as d:
        ino, parent = (await d.stat(f"{name}/f")).ino, (await d.stat(name)).ino
        both.reset_calls()
        for call in (
            d.fs.symlink(parent, b"link", b"target"),
            d.fs.mknod(parent, b"fifo", stat.S_IFIFO | 0o600),
            d.fs.set_xattr(ino, b"user.x", b"y"),
            d.fs.set_xattr(ino, b"user.x", None),
            d.fs.setattr(ino, MODE_MTIME),
        ):
            with pytest.raises(ReadOnly):
                await call
        assert both.calls() == {}
        assert rows(tmp_path) == set()


# --- a database that fails while the mount runs -------------------------------------------------


@contextmanager
def unwritable(state_dir: Path) -> Iterator[None]:
    """Every change is refused, as on a full disk."""
    with closing(sqlite3.connect(state_dir / "records.sqlite", isolation_level=None)) as db:
        for change in ("insert", "update", "delete"):
            db.execute(
                f"create trigger no_{change} before {change} on attributes"
                " begin select raise(abort, 'disk full'); end"
            )
        yield
        for change in ("insert", "update", "delete"):
            db.execute(f"drop trigger no_{change}")


@contextmanager
def gone(state_dir: Path) -> Iterator[None]:
    """Nothing can be asked at all, as with a damaged file."""
    with closing(sqlite3.connect(state_dir / "records.sqlite", isolation_level=None)) as db:
        db.execute("alter table attributes rename to elsewhere")
        yield
        db.execute("alter table elsewhere rename to attributes")


BROKEN = pytest.mark.parametrize("broken", [unwritable, gone])


def warnings_of(records: list[logging.LogRecord]) -> set[str]:
    return {r.getMessage().split()[0] for r in records}


@BROKEN
async def test_failing_records_fail_no_flush(
    both: Embedded, tmp_path: Path, broken: object, expect_warnings: list[logging.LogRecord]
) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        await setattr_(d, f"{name}/f")
        with broken(tmp_path):  # type: ignore[operator]
            await d.write(f"{name}/f", b"content")
            await d.close(await d.create(f"{name}/program", os.O_WRONLY, 0o755))
            assert (both.folder_dir(folder) / "f").read_bytes() == b"content"
            assert (both.folder_dir(folder) / "program").read_bytes() == b""
            assert warnings_of(expect_warnings) == {"records.unwritable"}
            with pytest.raises(LocalIOError):
                await setattr_(d, f"{name}/f", SetAttr(mode=0o700))
            with pytest.raises(LocalIOError):
                await d.fs.set_xattr((await d.stat(f"{name}/f")).ino, b"user.x", b"y")
        await setattr_(d, f"{name}/f", SetAttr(mode=0o700))
    async with serving(both, tmp_path) as d:
        assert (await d.stat(f"{name}/f")).mode & 0o7777 == 0o700


@BROKEN
@pytest.mark.usefixtures("expect_warnings")
async def test_failing_records_fail_nothing_that_the_server_has_done(
    both: Embedded, tmp_path: Path, broken: object
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in ("file", "moved", "replaced"):
        (disk / n).write_bytes(n.encode())
    for n in ("dir", "moved dir"):
        (disk / n).mkdir()
    async with serving(both, tmp_path) as d:
        for n in ("file", "moved", "replaced", "dir", "moved dir"):
            await setattr_(d, f"{name}/{n}")
        with broken(tmp_path):  # type: ignore[operator]
            await d.unlink(f"{name}/file")
            await d.rmdir(f"{name}/dir")
            await d.rename(f"{name}/moved", f"{name}/replaced")
            await d.rename(f"{name}/moved dir", f"{name}/new dir")
            await d.mkdir(f"{name}/made", 0o700)
            assert await d.names(name) == ["made", "new dir", "replaced"]
        assert sorted(p.name for p in disk.iterdir() if p.name != ".upload") == [
            "made",
            "new dir",
            "replaced",
        ]
        assert (disk / "replaced").read_bytes() == b"moved"


async def test_link_takes_the_place_of_a_file_that_may_have_arrived(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has the file and has not said so: later it would be taken for somebody's who came first."""
    monkeypatch.setattr(uploader, "COMMIT_GRACE_S", 0.1)
    name, folder = fresh(both)
    file = both.folder_dir(folder) / "f"
    async with background(both, tmp_path) as d:
        both.faults({"rules": [{"action": "hold_reply", "method": "PATCH", "path": "/upload"}]})
        await d.write(f"{name}/f", b"content")
        await until(file.exists)
        await symlink(d, f"{name}/link")
        await d.rename(f"{name}/link", f"{name}/f")
        release(both)
        await d.look_again(name)
        assert await readlink(d, f"{name}/f") == b"target"
    assert not file.exists()
    async with serving(both, tmp_path) as d:
        assert await readlink(d, f"{name}/f") == b"target"


@BROKEN
@pytest.mark.usefixtures("expect_warnings")
async def test_link_that_cannot_be_recorded_is_not_made(
    both: Embedded, tmp_path: Path, broken: object
) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path) as d:
        await symlink(d, f"{name}/kept")
        with broken(tmp_path):  # type: ignore[operator]
            with pytest.raises(LocalIOError):
                await symlink(d, f"{name}/link")
            assert await d.names(name) == ["kept"]
        await symlink(d, f"{name}/link")
    async with serving(both, tmp_path) as d:
        assert await d.names(name) == ["kept", "link"]


@BROKEN
async def test_listing_is_shown_although_records_fail(
    both: Embedded, tmp_path: Path, broken: object, expect_warnings: list[logging.LogRecord]
) -> None:
    """And once they can be read again, the next look takes them in."""
    name, folder = fresh(both)
    for n in ("f", "outdated"):
        (both.folder_dir(folder) / n).write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        for n in ("f", "outdated"):
            await setattr_(d, f"{name}/{n}")
        await symlink(d, f"{name}/link")
    replace(both.folder_dir(folder) / "outdated", b"new")
    async with serving(both, tmp_path) as d:
        with broken(tmp_path):  # type: ignore[operator]
            assert {"f", "outdated"} <= set(await d.names(name))
            assert await d.read(f"{name}/outdated") == b"new"
            assert warnings_of(expect_warnings) <= {"records.unreadable", "records.unwritable"}
            assert expect_warnings
        await d.look_again(name)
        assert await d.names(name) == ["f", "link", "outdated"]
        assert (await d.stat(f"{name}/f")).mode & 0o7777 == 0o711


# --- races and gaps -----------------------------------------------------------------------------


async def test_removing_outdated_records_spares_what_was_made_meanwhile(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for n in ("a", "b"):
        (disk / n).write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        for n in ("a", "b"):
            await setattr_(d, f"{name}/{n}")
    for n in ("a", "b"):
        (disk / n).unlink()
    async with serving(both, tmp_path) as d:
        parent = (await d.stat(name)).ino
        stall(both, "GET", LISTINGS)
        both.reset_calls()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.names, name)
            await until(lambda: both.count("GET", LISTING) == 1)
            limiter = d.fs._attributes._records._database._limiter
            with closing(sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)) as db:
                db.execute("begin immediate")  # the removal of the first record has to wait
                release(both)
                await until(lambda: limiter.borrowed_tokens == 1)
                nursery.start_soon(d.fs.symlink, parent, b"b", b"target")
                await until(lambda: limiter.statistics().tasks_waiting == 1)
                db.execute("rollback")
        assert await d.names(name) == ["b"]
        assert rows(tmp_path) == {(b"", b"b")}
    async with serving(both, tmp_path) as d:
        assert await readlink(d, f"{name}/b") == b"target"


async def test_attributes_of_names_that_a_cut_listing_does_not_show(tmp_path: Path) -> None:
    for dialect in ("23.09", "26"):
        state_dir = tmp_path / f"state{dialect}"
        with Embedded(tmp_path / dialect, dialect=dialect, scandir_limit=100) as server:
            name, folder = fresh(server)
            disk = server.folder_dir(folder)
            for n in range(130):
                (disk / f"f{n}").write_bytes(b"x")
            async with serving(server, state_dir) as d:
                first, second, third = sorted({f"f{n}" for n in range(130)} - set(await d.names(name)))[:3]
                for n in (first, second, third):
                    await setattr_(d, f"{name}/{n}")
            replace(disk / second, b"new")
            async with serving(server, state_dir) as d:
                assert len(await d.names(name)) == 100
                shown = [await d.stat(f"{name}/{n}") for n in (first, second, third)]
                assert [a.mode & 0o7777 for a in shown] == [0o711, 0o644, 0o711]
                assert shown[0].mtime_ns == 10**18 + 7
                await d.unlink(f"{name}/{third}")
                assert rows(state_dir) == {(b"", first.encode())}
