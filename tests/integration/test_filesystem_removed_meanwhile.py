"""Trees on their way out while the same mount goes on: moves, folders renamed, uploads, open files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import contents, lay_out, tree_on_disk
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.removing import AWAY, LISTING, all_done, remove
from tests.support.sending import DELETE, all_sent, background, deletions
from tests.support.vfs import release, stall, until
from vfsmount.errors import InvalidRequest, LocalIOError, NotEmpty
from vfsmount.vfs import metadata, uploader
from vfsmount.vfs.handles import SetAttr

MOVE = "/folders/{vf}/move-file"


# --- moves ----------------------------------------------------------------------------------------------


async def test_directory_is_moved_into_what_has_been_moved_into_it(both: Embedded, tmp_path: Path) -> None:
    """`mv -T a b/x`, and `mv b a` while that looks into b/x: refused. (A kernel lets one of them in.)"""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"a/f": b"f", "b/x": None})
    async with background(both, tmp_path) as d:
        for directory in ("", "/a", "/b", "/b/x"):
            await d.names(name + directory)
        old, new = await d.parent(f"{name}/a"), await d.parent(f"{name}/b/x")
        both.reset_calls()
        both.faults({"rules": [{"action": "hold_reply", "path": "/folders/*/files"}]})

        async def move() -> None:
            with pytest.raises(InvalidRequest):
                await d.fs.rename(*old, *new, 0)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move)
                await until(lambda: both.count("GET", LISTING) == 1)
                await d.rename(f"{name}/b", f"{name}/a/b")
                release(both)
        assert tree_on_disk(disk) == {"a": None, "a/f": b"f", "a/b": None, "a/b/x": None}


async def test_directory_into_which_a_file_is_being_moved_is_not_empty(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d": None, "f": b"content", "w": b"w"})
    async with background(both, tmp_path) as d:
        await d.unlink(f"{name}/w")  # so that a tree seems to be removed
        stall(both, "POST", "/folders/*/move-file")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.rename, f"{name}/f", f"{name}/d/f")
            await until(lambda: both.count("POST", MOVE) == 1)
            with pytest.raises(NotEmpty):
                await d.rmdir(f"{name}/d")
            release(both)
        assert await d.read(f"{name}/d/f") == b"content"
        await all_done(d)
        assert tree_on_disk(disk) == {"d": None, "d/f": b"content"}


@pytest.mark.parametrize("ours", [False, True])
async def test_directory_that_somebody_else_has_emptied_a_moment_ago_goes(
    both: Embedded, tmp_path: Path, ours: bool
) -> None:
    """A look that is good enough to find nothing in it does not do to refuse."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/ours": b"ours", "d/theirs": b"theirs", "w": b"w"})
    async with background(both, tmp_path, dir_ttl_s=60.0) as d:
        await d.unlink(f"{name}/w")  # so that a tree seems to be removed
        assert await d.names(f"{name}/d") == ["ours", "theirs"]
        if ours:
            await d.unlink(f"{name}/d/ours")
        else:
            (disk / "d" / "ours").unlink()
        (disk / "d" / "theirs").unlink()
        await d.rmdir(f"{name}/d")
        await all_done(d)
        assert tree_on_disk(disk) == {}


async def test_directory_of_which_nothing_is_believed_is_looked_at_anew(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d": None, "w": b"w"})
    async with background(both, tmp_path, dir_ttl_s=0.0) as d:
        await d.unlink(f"{name}/w")
        assert await d.names(f"{name}/d") == []
        lay_out(disk, {"d/theirs": b"theirs"})
        with pytest.raises(NotEmpty):
            await d.rmdir(f"{name}/d")
        await all_done(d)
        assert tree_on_disk(disk) == {"d": None, "d/theirs": b"theirs"}


async def test_directory_in_which_something_is_removed_is_not_forgotten_to_save_memory(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/d/f": b"f", "top/e": None, **{f"many/n{n}": b"" for n in range(60)}})
    both.faults(AWAY)
    async with background(both, tmp_path) as d:
        assert await d.names(f"{name}/top/d") == ["f"]
        await d.unlink(f"{name}/top/d/f")
        top = d.fs._inodes.get((await d.stat(f"{name}/top")).ino)
        assert set(top.entries) == {b"d", b"e"}
        directory = top.entries[b"d"]
        d.fs.forget(directory.ino, directory.lookups)  # as a kernel that is short of memory, too
        monkeypatch.setattr(metadata, "MAX_NODES", 3)
        assert len(await d.names(f"{name}/many")) == 60
        assert set(top.entries) == {b"d"}
        assert await d.names(f"{name}/top/d") == []
        monkeypatch.undo()
        both.clear_faults()
        await all_done(d)
        assert await d.names(f"{name}/top/d") == []
    assert tree_on_disk(disk / "top") == {"d": None, "e": None}


async def test_tree_of_a_folder_that_is_renamed_goes(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x", "top/b/y": b"y", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top")
        await d.rename(name, f"{name}new")
        await all_done(d)
        assert tree_on_disk(disk) == {"stays": b"stays"}


async def test_tree_of_a_folder_that_another_client_renames_goes(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        both.reset_calls()
        both.faults(AWAY)
        await remove(d, f"{name}/top")
        await until(lambda: deletions(both) >= 1)
        # By its old name 23.09 knows nothing of it, until we have seen the new one.
        silent = {"action": "status", "status": 503, "times": None}
        looks = [{**silent, "path": f"/folders/{name}/{what}"} for what in ("files", "request-download")]
        both.faults({"rules": [*AWAY["rules"], *looks]})
        await until(lambda: not d.fs._client.governor.in_flight)
        called = name if both.dialect == "23.09" else folder
        both.client("owner").ok("POST", f"/folders/{called}/rename", {"new_name": f"{name}new"})
        await d.look_again("")
        assert f"{name}new" in await d.names("")
        await until(lambda: not d.fs._client.governor.in_flight)
        both.clear_faults()
        await all_done(d)
        assert tree_on_disk(disk) == {"stays": b"stays"}


async def test_tree_is_not_taken_from_a_folder_that_has_the_name_of_its_folder_by_now(
    both: Embedded, tmp_path: Path
) -> None:
    """23.09 knows folders by name."""
    name, folder = fresh(both)
    lay_out(both.folder_dir(folder), {"top/a/x": b"x", "top/b/y": b"y", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top")
        await d.rename(name, f"{name}new")
        await d.mkdir(name)
        node = d.node((await d.stat(name)).ino)
        assert node.folder is not None
        theirs = both.folder_dir(node.folder.id)
        lay_out(theirs, {"top/a/x": b"theirs"})
        await all_done(d)
        assert contents(theirs) == {"top/a/x": b"theirs"}
        assert tree_on_disk(both.folder_dir(folder)) == {"stays": b"stays"}


# --- content --------------------------------------------------------------------------------------------


async def test_upload_under_way_does_not_bring_its_removed_directory_back(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server makes the directories in which an upload ends, and this one may be ending."""
    monkeypatch.setattr(uploader, "COMMIT_GRACE_S", 0.1)
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        stall(both, "PATCH", "/upload")
        await d.write(f"{name}/top/a/new", os.urandom(1 << 20))
        await until(lambda: both.count("PATCH", "/upload") >= 1)
        await remove(d, f"{name}/top")
        release(both)
        await all_sent(d)
        assert tree_on_disk(disk) == {"stays": b"stays"}


async def test_open_files_of_a_removed_tree_can_be_read_and_written(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x" * 100_000, "top/b/y": b"y", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        old = await d.open(f"{name}/top/a/x")
        new = await d.create(f"{name}/top/a/new")
        await d.fs.write(new, 0, b"new")
        await d.fs.flush(new)
        await remove(d, f"{name}/top")
        await all_sent(d)
        assert await d.read_all(old) == b"x" * 100_000
        await d.fs.write(new, 3, b"er")
        await d.fs.flush(new)
        assert await d.read_all(new) == b"newer"
        await d.close(new)
        await d.close(old)
        await all_sent(d)
        assert tree_on_disk(disk) == {"stays": b"stays"}


@pytest.mark.parametrize("sent", [True, False])
async def test_what_was_changed_here_is_not_taken_for_anothers(
    both: Embedded, tmp_path: Path, sent: bool
) -> None:
    """However it was changed, and whether or not that has arrived."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {f"d/{n}": b"content" for n in ("whole", "end", "cut", "time", "read", "over")})
    async with background(both, tmp_path) as d:
        await d.write(f"{name}/d/new", b"new")
        await d.write(f"{name}/d/whole", b"other")
        fh = await d.open(f"{name}/d/end", os.O_WRONLY)
        await d.fs.write(fh, 7, b"ended")
        await d.close(fh)
        await d.truncate(f"{name}/d/cut", 3)
        await d.fs.setattr((await d.stat(f"{name}/d/time")).ino, SetAttr(mtime_ns=10**18))
        await d.read(f"{name}/d/read")
        await d.write(f"{name}/d/moved", b"moved")
        await d.rename(f"{name}/d/moved", f"{name}/d/over")
        if sent:
            await all_sent(d)
        stall(both, "", DELETE, times=None)
        await remove(d, f"{name}/d", at_last="keep")
        await d.look_again(f"{name}/d")
        assert await d.names(f"{name}/d") == []
        assert not any(p.look_first for p in d.fs._removals._pending.values())
        await d.rmdir(f"{name}/d")
        both.clear_faults()
        await all_done(d)
        assert tree_on_disk(disk) == {}


# --- the records ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("expect_warnings")
async def test_tree_that_has_gone_while_the_records_failed_is_done(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told again, and nothing that has gone is taken for refused."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x", "top/b/y": b"y", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        tell = d.fs._removals._rows.removals_done
        failures = []

        async def full(removals: Any) -> None:
            if len(failures) < 2:
                failures.append(LocalIOError("no room on the disk"))
                raise failures[-1]
            await tell(removals)

        monkeypatch.setattr(d.fs._removals._rows, "removals_done", full)
        await remove(d, f"{name}/top")
        await all_done(d)
        assert tree_on_disk(disk) == {"stays": b"stays"}
        assert len(failures) == 2
