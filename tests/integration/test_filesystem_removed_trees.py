"""Directories that are removed here go with the names in them and with what they lie in, and only if nobody
else has put anything there."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import contents, tree_on_disk
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.sending import DELETE, all_sent, background, deletions, replace
from tests.support.vfs import Driver, release, stall, until
from vfsmount.errors import NotFound
from vfsmount.vfs import removals

AWAY = {"rules": [{"action": "status", "path": DELETE, "status": 503, "times": None}]}
LAID_OUT = {"top/a/x": b"x", "top/a/y": b"y", "top/a/b/z": b"z", "top/w": b"w"}


def lay_out(disk: Path) -> None:
    for path, data in LAID_OUT.items():
        (disk / path).parent.mkdir(parents=True, exist_ok=True)
        (disk / path).write_bytes(data)


async def remove(d: Driver, path: str, *, at_last: str = "rmdir") -> None:
    """As `rm -r` does; `at_last` keep: what was `path` stays."""
    for n in await d.names(path):
        if stat.S_ISDIR((await d.stat(f"{path}/{n}")).mode):
            await remove(d, f"{path}/{n}")
        else:
            await d.unlink(f"{path}/{n}")
    if at_last == "rmdir":
        await d.rmdir(path)


async def test_tree_is_gone_at_once_and_in_one_call(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk)
    (disk / "stays").touch()
    async with background(both, tmp_path) as d:
        await d.names(name)
        both.reset_calls()
        stall(both, "", DELETE, times=None)
        await remove(d, f"{name}/top")
        await d.look_again(name)
        assert await d.names(name) == ["stays"]  # whatever the listing says
        with pytest.raises(NotFound):
            await d.stat(f"{name}/top")
        status = await d.fs.status()
        assert status.removals == (f"{name}/top",)
        both.clear_faults()
        await all_sent(d)
        assert tree_on_disk(disk) == {"stays": b""}
        assert deletions(both) <= 2  # one, unless this machine was slow


async def test_directory_is_made_anew_while_its_removal_is_under_way(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk)
    async with background(both, tmp_path) as d:
        both.reset_calls()
        stall(both, "", DELETE)
        await remove(d, f"{name}/top")
        await until(lambda: deletions(both) == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.mkdir, f"{name}/top")
            await until(lambda: bool(d.fs._removals._wanted))
            release(both)
        await d.write(f"{name}/top/x", b"new")
        await all_sent(d)
        assert tree_on_disk(disk) == {"top": None, "top/x": b"new"}
        assert await d.names(f"{name}/top") == ["x"]


@pytest.mark.parametrize("somebody", [True, False])
async def test_call_that_comes_late_looks_first(
    both: Embedded,
    tmp_path: Path,
    somebody: bool,
    monkeypatch: pytest.MonkeyPatch,
    expect_warnings: list[Any],
) -> None:
    """What somebody else has put there meanwhile stays, with the directory; what was removed does not."""
    monkeypatch.setattr(removals, "LATE_S", 0.0)
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk)
    async with background(both, tmp_path) as d:
        both.reset_calls()
        both.faults(AWAY)
        await remove(d, f"{name}/top")
        await until(lambda: deletions(both) >= 1)
        if somebody:
            (disk / "top" / "a" / "theirs").write_bytes(b"theirs")
        both.clear_faults()
        if not somebody:
            await all_sent(d)
            assert tree_on_disk(disk) == {}
            return
        await until(lambda: set(contents(disk)) == {"top/a/theirs"})
        await until(lambda: not d.fs._removals._pending)
        assert contents(disk) == {"top/a/theirs": b"theirs"}
        assert any("removal.refused" in r.getMessage() for r in expect_warnings)
        await d.look_again(name)
        assert await d.read(f"{name}/top/a/theirs") == b"theirs"


@pytest.mark.parametrize("somebody", [True, False])
@pytest.mark.usefixtures("expect_warnings")
async def test_tree_of_a_mount_that_ended_is_removed_by_the_next(
    both: Embedded, tmp_path: Path, somebody: bool
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk)
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await remove(d, f"{name}/top")
    if somebody:
        (disk / "top" / "a" / "theirs").write_bytes(b"theirs")
    assert contents(disk) == LAID_OUT | ({"top/a/theirs": b"theirs"} if somebody else {})
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await until(lambda: not d.fs._removals._pending)
        if somebody:
            assert contents(disk) == {"top/a/theirs": b"theirs"}
            await d.look_again(name)
            assert await d.read(f"{name}/top/a/theirs") == b"theirs"
        else:
            assert tree_on_disk(disk) == {}
            assert await d.names(name) == []


async def test_names_in_a_directory_that_stays_go_as_well(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk)
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top", at_last="keep")
        await all_sent(d)
        assert tree_on_disk(disk) == {"top": None}
        assert await d.names(f"{name}/top") == []


async def test_directory_that_may_hold_more_than_is_shown_is_looked_at_when_its_names_are_gone(
    old_server: Embedded, tmp_path: Path
) -> None:
    """A hundred names that are on their way out may hide others from a listing that ends at a hundred."""
    name, folder = fresh(old_server)
    disk = old_server.folder_dir(folder)
    (disk / "d").mkdir()
    for n in range(100):
        (disk / "d" / f"f{n}").touch()
    async with background(old_server, tmp_path) as d:
        old_server.reset_calls()
        await remove(d, f"{name}/d")
        assert not list((disk / "d").iterdir()), "the names went before the directory was taken for empty"
        await all_sent(d)
        assert tree_on_disk(disk) == {}


async def test_tree_of_the_same_name_in_another_folder_is_another_one(both: Embedded, tmp_path: Path) -> None:
    (name, folder), (other_name, other) = fresh(both), fresh(both)
    for disk in (both.folder_dir(folder), both.folder_dir(other)):
        lay_out(disk)
    async with background(both, tmp_path) as d:
        await d.names(other_name)
        await d.names(f"{other_name}/top")
        both.faults(AWAY)
        await d.unlink(f"{other_name}/top/w")
        await remove(d, f"{name}/top")
        await until(lambda: deletions(both) >= 1)
        both.clear_faults()
        await all_sent(d)
        assert tree_on_disk(both.folder_dir(folder)) == {}
        assert set(contents(both.folder_dir(other))) == LAID_OUT.keys() - {"top/w"}


@pytest.mark.usefixtures("expect_warnings")
async def test_file_that_somebody_has_replaced_in_a_removed_directory_stays(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk)
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await remove(d, f"{name}/top")
    replace(disk / "top" / "a" / "x", b"somebody's")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await until(lambda: not d.fs._removals._pending)
        assert contents(disk) == {"top/a/x": b"somebody's"}
