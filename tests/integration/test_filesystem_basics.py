"""`Filesystem` over the embedded server: what programs do all day, in both dialects."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.vfs import serving, until
from vfsmount.errors import (
    AlreadyExists,
    CrossFolder,
    InvalidName,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotSupported,
    Stale,
    VfsError,
)
from vfsmount.fuse.errno_map import errno_of
from vfsmount.vfs.handles import SetAttr
from vfsmount.vfs.namespace import RENAME_NOREPLACE

BIG = os.urandom(3 * (1 << 20) + 4321)


async def test_what_is_written_is_on_the_servers_disk_after_close(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path) as d:
        await d.write(f"{name}/small", b"content")
        await d.write(f"{name}/big", BIG)
        await d.write(f"{name}/empty", b"")
        disk = both.folder_dir(folder)
        assert (disk / "small").read_bytes() == b"content"
        assert (disk / "big").read_bytes() == BIG
        assert (disk / "empty").read_bytes() == b""
        assert await d.names(name) == ["big", "empty", "small"]
        assert [await d.read(f"{name}/{n}") for n in ("small", "big", "empty")] == [b"content", BIG, b""]


async def test_what_is_on_the_servers_disk_is_read(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "sub").mkdir()
    (disk / "sub" / "big").write_bytes(BIG)
    (disk / "empty").touch()
    async with serving(both, tmp_path) as d:
        assert await d.read(f"{name}/sub/big") == BIG
        assert await d.read(f"{name}/empty") == b""
        attr = await d.stat(f"{name}/sub/big")
        assert (attr.size, attr.nlink, stat.S_ISREG(attr.mode)) == (len(BIG), 1, True)
        assert abs(attr.mtime_ns - (disk / "sub" / "big").stat().st_mtime_ns) < 2000
        assert stat.S_ISDIR((await d.stat(f"{name}/sub")).mode)


async def test_random_writes_append_and_truncate_keep_the_rest(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    on_disk = both.folder_dir(folder) / "f"
    on_disk.write_bytes(b"0123456789")
    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.fs.write(fh, 3, b"xy")
        assert await d.read_all(fh) == b"012xy56789"
        await d.close(fh)
        assert on_disk.read_bytes() == b"012xy56789"

        fh = await d.open(f"{name}/f", os.O_WRONLY | os.O_APPEND)
        await d.fs.write(fh, 10, b"end")
        await d.close(fh)
        assert on_disk.read_bytes() == b"012xy56789end"

        await d.truncate(f"{name}/f", 4)
        assert on_disk.read_bytes() == b"012x"
        await d.truncate(f"{name}/f", 6)
        assert on_disk.read_bytes() == b"012x\0\0"
        assert (await d.stat(f"{name}/f")).size == 6


async def test_open_with_truncation_fetches_nothing(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"old" * 1000)
    async with serving(both, tmp_path) as d:
        await d.stat(f"{name}/f")
        both.reset_calls()
        fh = await d.open(f"{name}/f", os.O_WRONLY | os.O_TRUNC)
        assert both.count("GET", "/download") == 0
        await d.fs.write(fh, 0, b"new")
        await d.close(fh)
        assert (both.folder_dir(folder) / "f").read_bytes() == b"new"


async def test_one_close_is_one_upload_and_a_clean_close_is_none(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/f")
        for at in range(5):
            await d.fs.write(fh, at, b"x")
        await d.close(fh)
        assert both.count("POST", "/folders/{vf}/request-upload") == 1
        fh = await d.open(f"{name}/f", os.O_RDWR)
        await d.close(fh)
        assert both.count("POST", "/folders/{vf}/request-upload") == 1


async def test_rename_of_files_and_directories(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    async with serving(both, tmp_path) as d:
        await d.mkdir(f"{name}/dir")
        await d.write(f"{name}/dir/a", b"a")
        await d.write(f"{name}/b", b"b")
        before = (await d.stat(f"{name}/dir/a")).ino
        await d.rename(f"{name}/dir", f"{name}/moved")
        assert (await d.stat(f"{name}/moved/a")).ino == before
        await d.rename(f"{name}/moved/a", f"{name}/b")
        assert (disk / "b").read_bytes() == b"a"
        assert sorted(p.name for p in disk.iterdir()) == ["b", "moved"]
        assert await d.names(name) == ["b", "moved"]
        assert await d.read(f"{name}/b") == b"a"
        with pytest.raises(AlreadyExists):
            await d.rename(f"{name}/b", f"{name}/moved", RENAME_NOREPLACE)
        with pytest.raises(InvalidRequest):
            await d.rename(f"{name}/b", f"{name}/c", 2)


async def test_rename_over_an_empty_directory_replaces_it(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    for path in ("src/inner", "empty", "full/x"):
        (disk / path).mkdir(parents=True)
    async with serving(both, tmp_path) as d:
        with pytest.raises(NotEmpty):
            await d.rename(f"{name}/src", f"{name}/full")
        await d.rename(f"{name}/src", f"{name}/empty")
        assert (disk / "empty" / "inner").is_dir() and not (disk / "src").exists()
        with pytest.raises(InvalidRequest):
            await d.rename(f"{name}/empty", f"{name}/empty/inner/deeper")


async def test_rename_mixing_kinds_is_refused(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "dir").mkdir()
    (disk / "file").write_bytes(b"f")
    async with serving(both, tmp_path) as d:
        with pytest.raises(IsADirectory):
            await d.rename(f"{name}/file", f"{name}/dir")
        with pytest.raises(NotADirectory):
            await d.rename(f"{name}/dir", f"{name}/file")
        other, _ = fresh(both)
        await d.look_again("")
        with pytest.raises(CrossFolder):
            await d.rename(f"{name}/file", f"{other}/file")
    assert sorted(p.name for p in disk.rglob("*")) == ["dir", "file"]


async def test_refusals_have_the_errno_of_a_local_disk(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "dir" / "sub").mkdir(parents=True)
    (disk / "file").write_bytes(b"f")
    async with serving(both, tmp_path) as d:
        cases = [
            (d.unlink(f"{name}/dir"), errno.EISDIR),
            (d.unlink(f"{name}/none"), errno.ENOENT),
            (d.rmdir(f"{name}/file"), errno.ENOTDIR),
            (d.rmdir(f"{name}/dir"), errno.ENOTEMPTY),
            (d.rmdir(f"{name}/none"), errno.ENOENT),
            (d.mkdir(f"{name}/file"), errno.EEXIST),
            (d.mkdir(f"{name}/none/x"), errno.ENOENT),
            (d.mkdir(f"{name}/file/x"), errno.ENOTDIR),
            (d.create(f"{name}/file", os.O_EXCL), errno.EEXIST),
            (d.create(f"{name}/dir", os.O_WRONLY), errno.EISDIR),
            (d.create("file-in-the-root", os.O_WRONLY), errno.EPERM),
            (d.open(f"{name}/dir"), errno.EISDIR),
            (d.create(f"{name}/{'n' * 256}"), errno.ENAMETOOLONG),
            (d.create(f"{name}/a\nb"), errno.EINVAL),
            (d.create(f"{name}/.upload"), errno.EPERM),
            (d.create(f"{name}/\udcff"), errno.EINVAL),
        ]
        both.reset_calls()
        for call, expected in cases:
            with pytest.raises(VfsError) as e:
                await call
            assert errno_of(e.value) == expected, e.value
    assert sorted(str(p.relative_to(disk)) for p in disk.rglob("*")) == ["dir", "dir/sub", "file"]


async def test_odd_names_round_trip(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    odd = [
        "has space",
        "-dash",
        "日本語",
        "e\u0301",
        "\u00e9",
        "a%20b",
        "a?b#c",
        "tab\there",
        "n" * 255,
        "...",
    ]
    async with serving(both, tmp_path) as d:
        for n in odd:
            await d.write(f"{name}/{n}", n.encode())
        assert await d.names(name) == sorted(odd)
        await d.look_again(name)
        assert await d.names(name) == sorted(odd)
        for n in odd:
            assert await d.read(f"{name}/{n}") == n.encode()
            assert (both.folder_dir(folder) / n).read_bytes() == n.encode()
        for n in odd[:3]:
            await d.rename(f"{name}/{n}", f"{name}/{n}.moved")
            await d.unlink(f"{name}/{n}.moved")
        assert sorted(p.name for p in both.folder_dir(folder).iterdir()) == sorted(odd[3:])


async def test_names_with_newlines_are_shown_but_not_made(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "a\nb").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        assert await d.names(name) == ["a\nb"]
        with pytest.raises(InvalidName):
            await d.rename(f"{name}/a\nb", f"{name}/c\nd")
        await d.rename(f"{name}/a\nb", f"{name}/ab")
        assert await d.read(f"{name}/ab") == b"x"


async def test_unlinked_open_file_stays_readable_and_goes_with_its_last_handle(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(BIG)
    async with serving(both, tmp_path) as d:
        fh = await d.open(f"{name}/f")
        assert await d.fs.read(fh, 0, 10) == BIG[:10]
        ino = d.fs.ino_of(fh)
        await d.unlink(f"{name}/f")
        assert not (both.folder_dir(folder) / "f").exists()
        assert await d.read_all(fh) == BIG
        assert (await d.fs.getattr(ino)).nlink == 0
        await d.fs.release(fh)
        await until(lambda: staging_files(d.area.directory) == [])
        with pytest.raises(Stale):
            await d.fs.open(ino, os.O_RDONLY)


async def test_rename_over_open_file_keeps_old_reader(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path) as d:
        await d.write(f"{name}/old", b"old content")
        await d.write(f"{name}/new", b"new")
        fh = await d.open(f"{name}/old")
        await d.rename(f"{name}/new", f"{name}/old")
        assert await d.read_all(fh) == b"old content"
        assert await d.read(f"{name}/old") == b"new"
        await d.fs.release(fh)
        await until(lambda: staging_files(d.area.directory) == [])


async def test_unsent_file_renamed_over_an_existing_one_then_sent(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "target").write_bytes(b"old")
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/tmp")
        await d.fs.write(fh, 0, b"new")
        await d.rename(f"{name}/tmp", f"{name}/target")
        assert await d.read(f"{name}/target") == b"new"
        await d.close(fh)
        assert {p.name: p.read_bytes() for p in disk.iterdir()} == {"target": b"new"}


async def test_unsent_file_renamed_over_an_existing_one_then_unlinked(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "target").write_bytes(b"old")
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/tmp")
        await d.fs.write(fh, 0, b"new")
        await d.rename(f"{name}/tmp", f"{name}/target")
        await d.unlink(f"{name}/target")
        await d.close(fh)
        assert list(disk.iterdir()) == []
        assert await d.names(name) == []


async def test_unsent_file_renamed_twice_takes_the_replaced_one_along(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "b").write_bytes(b"old")
    async with serving(both, tmp_path) as d:
        fh = await d.create(f"{name}/a")
        await d.fs.write(fh, 0, b"new")
        await d.rename(f"{name}/a", f"{name}/b")
        await d.rename(f"{name}/b", f"{name}/c")
        await d.close(fh)
        assert {p.name: p.read_bytes() for p in disk.iterdir()} == {"c": b"new"}


async def test_attributes_set_by_a_program_show_until_the_content_changes(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    async with serving(both, tmp_path, attr_ttl_s=0.0) as d:
        fh = await d.create(f"{name}/f")
        await d.fs.write(fh, 0, b"x")
        ino = d.fs.ino_of(fh)
        await d.fs.setattr(ino, SetAttr(mtime_ns=10**18, mode=0o600), fh)
        await d.close(fh)
        attr = await d.stat(f"{name}/f")
        assert (attr.mtime_ns, attr.mode & 0o777) == (10**18, 0o600)
        (both.folder_dir(folder) / "f").write_bytes(b"somebody else's")
        fh = await d.open(f"{name}/f")
        attr = await d.fs.getattr(d.fs.ino_of(fh))
        assert attr.ino != ino  # the kernel would trust its own size and times of the old number
        assert attr.mtime_ns != 10**18 and attr.size == len(b"somebody else's")
        await d.fs.release(fh)


async def test_folders_are_made_renamed_and_removed_in_the_root(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    async with serving(both, tmp_path) as d:
        await d.mkdir(f"{name}-a")
        await d.rename(f"{name}-a", f"{name}-b")
        assert f"{name}-b" in await d.names("") and f"{name}-a" not in await d.names("")
        await d.write(f"{name}-b/f", b"x")
        with pytest.raises(NotEmpty):
            await d.rmdir(f"{name}-b")
        with pytest.raises(AlreadyExists):
            await d.rename(f"{name}-b", name)
        await d.unlink(f"{name}-b/f")
        await d.rmdir(f"{name}-b")
        assert f"{name}-b" not in await d.names("")
        with pytest.raises(NotSupported):
            await d.mkdir(".dotted")


async def test_reading_a_symlink_works_and_changing_one_is_refused(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "target").write_bytes(b"behind the link")
    (disk / "link").symlink_to("target")
    (disk / "dangling").symlink_to("nowhere")
    async with serving(both, tmp_path) as d:
        assert await d.read(f"{name}/link") == b"behind the link"
        assert (await d.stat(f"{name}/link")).size == len(b"behind the link")
        assert (await d.stat(f"{name}/dangling")).size == 0
        for call in (
            d.unlink(f"{name}/link"),
            d.rename(f"{name}/link", f"{name}/other"),
            d.rename(f"{name}/target", f"{name}/link"),
            d.open(f"{name}/link", os.O_RDWR),
            d.create(f"{name}/link", os.O_WRONLY),
            d.truncate(f"{name}/link", 0),
        ):
            with pytest.raises(NotSupported):
                await call
    assert (disk / "target").read_bytes() == b"behind the link" and (disk / "link").is_symlink()


async def test_upload_directory_is_hidden_in_a_folders_root_only(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / ".upload").mkdir()
    (disk / "sub" / ".upload").mkdir(parents=True)
    async with serving(both, tmp_path) as d:
        assert await d.names(name) == ["sub"]
        assert await d.names(f"{name}/sub") == [".upload"]
        with pytest.raises(NotFound):
            await d.stat(f"{name}/.upload")


async def test_nothing_is_left_behind(both: Embedded, tmp_path: Path) -> None:
    """Nodes, handles and descriptors all go."""
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"x")
    async with serving(both, tmp_path) as d:
        await d.names(name)
        fds, nodes = len(os.listdir("/proc/self/fd")), len(d.fs._inodes)
        for i in range(5):
            await d.write(f"{name}/new{i}", b"y")
            await d.read(f"{name}/f")
            await d.unlink(f"{name}/new{i}")
        d.forget_all()
        assert (len(d.fs._inodes), d.fs._handles, d.fs._dir_handles) == (nodes, {}, {})
        assert d.fs.parts.exclusion._busy == {} and d.fs._writer._staged == set()
        await until(lambda: staging_files(d.area.directory) == [])
        assert len(os.listdir("/proc/self/fd")) <= fds + 2  # a connection more or less


def staging_files(directory: Path) -> list[str]:
    return [p.name for p in directory.iterdir() if p.name != "lock"]
