"""Directories that are removed here go with the names in them and with what they lie in, and only if nobody
else has put anything there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import lay_out, tree_on_disk
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.removing import AWAY, LAID_OUT, LISTING, REFUSED, THEIRS, all_done, remove
from tests.support.sending import DELETE, all_sent, background, deletions, replace
from tests.support.vfs import release, serving, stall, until
from vfsmount.errors import NotEmpty, NotFound, PermissionDenied
from vfsmount.vfs import namespace, pending, removals

# --- as it goes -------------------------------------------------------------------------------------


async def test_tree_is_gone_at_once_and_in_one_call(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("IDLE_S", "TREE_IDLE_S", "LONGEST_S"):
        monkeypatch.setattr(removals, what, 60.0)  # the call is made when somebody waits for it
    monkeypatch.setattr(pending, "LATE_S", 60.0)
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    (disk / "stays").touch()
    async with background(both, tmp_path) as d:
        await d.names(name)
        both.reset_calls()
        await d.unlink(f"{name}/top/w")  # so that all of the rest is seen to be one removal
        await remove(d, f"{name}/top")
        await d.look_again(name)
        assert await d.names(name) == ["stays"]  # whatever the listing says
        with pytest.raises(NotFound):
            await d.stat(f"{name}/top")
        status = await d.fs.status()
        assert status.removals == (f"{name}/top",)
        assert deletions(both) == 0
        await all_sent(d)
        assert tree_on_disk(disk) == {"stays": b""}
        assert deletions(both) == 1


async def test_each_directory_is_looked_at_once(both: Embedded, tmp_path: Path) -> None:
    """Who removes a tree reads each directory just before: no other look is needed."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        await d.names(name)
        await d.names(f"{name}/top")
        await d.unlink(f"{name}/top/w")
        both.reset_calls()
        began = trio.current_time()
        await remove(d, f"{name}/top/a")
        await d.rmdir(f"{name}/top/c")
        await all_sent(d)
        assert tree_on_disk(disk) == {"top": None}
        if trio.current_time() - began < 0.4:  # or the first look was long ago by then
            assert both.count("GET", LISTING) == 3


async def test_directory_that_is_removed_alone_is_gone_when_the_call_returns(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "d").mkdir()
    async with background(both, tmp_path) as d:
        await d.rmdir(f"{name}/d")
        assert tree_on_disk(disk) == {}


async def test_mount_without_background_has_removed_a_tree_when_the_calls_return(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with serving(both, tmp_path) as d:
        await remove(d, f"{name}/top/a")
        assert tree_on_disk(disk) == {"top": None, "top/c": None, "top/w": b"w"}
        await remove(d, f"{name}/top")
        assert tree_on_disk(disk) == {}


async def test_directory_is_made_anew_while_its_removal_is_under_way(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        both.reset_calls()
        stall(both, "", DELETE)
        await remove(d, f"{name}/top/a")
        await until(lambda: deletions(both) == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.mkdir, f"{name}/top/a")
            await until(lambda: bool(d.fs._removals._wanted))
            release(both)
        await d.write(f"{name}/top/a/x", b"new")
        await all_sent(d)
        assert tree_on_disk(disk / "top") == {"a": None, "a/x": b"new", "c": None, "w": b"w"}
        assert await d.names(f"{name}/top/a") == ["x"]


async def test_names_in_a_directory_that_stays_go_as_well(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top", at_last="keep")
        await all_sent(d)
        assert tree_on_disk(disk) == {"top": None}
        assert await d.names(f"{name}/top") == []


async def test_directory_is_moved_while_what_was_in_it_is_on_its_way_out(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top/a")
        await d.rename(f"{name}/top", f"{name}/moved")
        await all_sent(d)
        assert tree_on_disk(disk) == {"moved": None, "moved/c": None, "moved/w": b"w"}
        assert await d.names(f"{name}/moved") == ["c", "w"]


async def test_directory_is_moved_to_the_place_of_a_tree_on_its_way_out(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    (disk / "other").mkdir()
    (disk / "other" / "kept").write_bytes(b"kept")
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top")
        await d.rename(f"{name}/other", f"{name}/top")
        await all_sent(d)
        assert tree_on_disk(disk) == {"top": None, "top/kept": b"kept"}
        assert await d.names(f"{name}/top") == ["kept"]


async def test_directory_that_may_hold_more_than_is_shown_is_looked_at_when_its_names_are_gone(
    old_server: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred names that are on their way out may hide others from a listing that ends at a hundred."""
    name, folder = fresh(old_server)
    disk = old_server.folder_dir(folder)
    (disk / "d").mkdir()
    for n in range(100):
        (disk / "d" / f"f{n}").touch()
    # The time for which the listing is believed: a hundred calls take a while.
    monkeypatch.setattr(namespace, "JUST_S", 60.0)
    async with background(old_server, tmp_path, dir_ttl_s=60.0) as d:
        old_server.reset_calls()
        stall(old_server, "", DELETE, times=None)
        for n in await d.names(f"{name}/d"):
            await d.unlink(f"{name}/d/{n}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.rmdir, f"{name}/d")
            await until(lambda: deletions(old_server) == 1)
            assert len(list((disk / "d").iterdir())) == 100
            assert old_server.count("GET", LISTING) == 2, "not the look for which its names have to be gone"
            old_server.clear_faults()
        await all_sent(d)
        assert tree_on_disk(disk) == {}


async def test_tree_of_the_same_name_in_another_folder_is_another_one(both: Embedded, tmp_path: Path) -> None:
    (name, folder), (other_name, other) = fresh(both), fresh(both)
    for disk in (both.folder_dir(folder), both.folder_dir(other)):
        lay_out(disk, LAID_OUT)
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
        before = tree_on_disk(both.folder_dir(other))
        assert {"top/a/x", "top/a/y", "top/a/b/z", "top/c"} < before.keys() and "top/w" not in before


# --- what others put there ------------------------------------------------------------------------------


@pytest.mark.parametrize("somebody", [True, False])
@pytest.mark.usefixtures("always_late")
async def test_call_that_comes_late_looks_first(
    both: Embedded, tmp_path: Path, somebody: bool, expect_warnings: list[Any]
) -> None:
    """What somebody else has put there meanwhile stays, with the directory; what was removed does not."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        both.reset_calls()
        both.faults(AWAY)
        await remove(d, f"{name}/top")
        await until(lambda: deletions(both) >= 1)
        if somebody:
            (disk / "top" / "a" / "theirs").write_bytes(b"theirs")
        both.clear_faults()
        await all_done(d)
        if not somebody:
            assert tree_on_disk(disk) == {}
            assert not expect_warnings
            return
        assert tree_on_disk(disk) == THEIRS
        assert any("removal.refused" in r.getMessage() for r in expect_warnings)
        await d.look_again(name)
        assert await d.read(f"{name}/top/a/theirs") == b"theirs"
        assert await d.names(f"{name}/top") == ["a"]


@pytest.mark.usefixtures("expect_warnings")
async def test_directory_seen_long_ago_is_not_believed_because_what_it_lies_in_is_fresh(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        for child in ("top", "top/a", "top/a/b", "top/c"):
            await d.names(f"{name}/{child}")
        both.reset_calls()
        both.faults(AWAY)
        await d.unlink(f"{name}/top/w")
        await remove(d, f"{name}/top/a")
        await d.rmdir(f"{name}/top/c")
        await until(lambda: deletions(both) >= 1)  # what was seen before that is believed no longer
        (disk / "top" / "a" / "theirs").write_bytes(b"theirs")
        await d.rmdir(f"{name}/top")
        both.clear_faults()
        await all_done(d)
        assert tree_on_disk(disk) == THEIRS


@pytest.mark.usefixtures("expect_warnings")
async def test_call_that_is_held_back_is_not_sent_late(both: Embedded, tmp_path: Path) -> None:
    """The look is fresh when the call is made, and too old when its turn comes."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        await d.names(name)
        await d.names(f"{name}/top")
        await d.unlink(f"{name}/top/w")
        both.reset_calls()
        async with d.fs._client.governor.turn():  # the clock of those who wait for theirs goes on
            pass
        turn = d.fs._client.governor.turn
        waited = trio.Event()

        def held() -> Any:
            return _late(turn(), waited, disk)

        await remove(d, f"{name}/top/a")
        d.fs._client.governor.turn = held  # type: ignore[method-assign]
        await waited.wait()
        d.fs._client.governor.turn = turn  # type: ignore[method-assign]
        await all_done(d)
        assert tree_on_disk(disk) == {**THEIRS, "top/c": None}


def _late(turn: Any, waited: trio.Event, disk: Path) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def late() -> Any:
        if not waited.is_set():
            (disk / "top" / "a" / "theirs").write_bytes(b"theirs")
            await trio.sleep(pending.LATE_S)
            waited.set()
        async with turn:
            yield

    return late()


@pytest.mark.parametrize("somebody", [True, False])
@pytest.mark.usefixtures("expect_warnings")
async def test_tree_of_a_mount_that_ended_is_removed_by_the_next(
    both: Embedded, tmp_path: Path, somebody: bool
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await remove(d, f"{name}/top")
    if somebody:
        (disk / "top" / "a" / "theirs").write_bytes(b"theirs")
    assert {"top/a/x", "top/a/b/z", "top/w"} < tree_on_disk(disk).keys()
    both.clear_faults()
    async with background(both, tmp_path) as d:
        assert await d.names(name) == []  # from the first moment
        await all_done(d)
        assert tree_on_disk(disk) == (THEIRS if somebody else {})
        await d.look_again(name)
        assert await d.names(name) == (["top"] if somebody else [])
        if somebody:
            assert await d.read(f"{name}/top/a/theirs") == b"theirs"


@pytest.mark.usefixtures("expect_warnings")
async def test_file_that_somebody_has_replaced_in_a_removed_directory_stays(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await remove(d, f"{name}/top")
    replace(disk / "top" / "a" / "x", b"somebody's")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_done(d)
        assert tree_on_disk(disk) == {"top": None, "top/a": None, "top/a/x": b"somebody's"}


@pytest.mark.parametrize("looked", ["before", "after"])
@pytest.mark.usefixtures("expect_warnings")
async def test_directory_that_somebody_made_of_a_removed_file_stays(
    both: Embedded, tmp_path: Path, looked: str
) -> None:
    """The server leaves it alone, 26.x without a word, and whoever removes what it lies in is told."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top/a/b")
        await all_sent(d)
        both.reset_calls()
        stall(both, "", DELETE, times=None)
        await remove(d, f"{name}/top/a", at_last="keep")
        await until(lambda: deletions(both) >= 1)
        (disk / "top" / "a" / "x").unlink()
        lay_out(disk, {"top/a/x/in it": b"somebody's"})
        if looked == "after":
            await d.look_again(f"{name}/top/a")
            assert await d.names(f"{name}/top/a") == []
        both.clear_faults()
        await all_done(d)
        with pytest.raises(NotEmpty):
            await d.rmdir(f"{name}/top/a")
        assert tree_on_disk(disk / "top" / "a") == {"x": None, "x/in it": b"somebody's"}
        assert await d.names(f"{name}/top/a") == ["x"]


@pytest.mark.usefixtures("expect_warnings")
async def test_reply_is_lost_and_somebody_makes_the_directory_anew(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    async with background(both, tmp_path) as d:
        both.reset_calls()
        both.faults({"rules": [{"action": "hold_reply", "path": DELETE}]})
        await remove(d, f"{name}/top")
        await until(lambda: not (disk / "top").exists())
        lay_out(disk, THEIRS | {"top/a/x": b"theirs as well"})
        both.faults({"release": True})
        both.faults({"rules": [{"action": "lose_reply", "path": DELETE}]})
        await all_done(d)
        assert tree_on_disk(disk)["top/a/theirs"] == b"theirs"


# --- what the server refuses ----------------------------------------------------------------------------


@pytest.mark.usefixtures("expect_warnings")
async def test_refused_tree_comes_back(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    whole = tree_on_disk(disk)
    async with background(both, tmp_path) as d:
        both.faults(REFUSED)
        await remove(d, f"{name}/top")
        with pytest.raises((PermissionDenied, NotEmpty)):
            await d.fs.wait()
        await all_done(d)
        both.clear_faults()
        assert tree_on_disk(disk) == whole
        await d.look_again(name)
        assert await d.names(f"{name}/top") == ["a", "c", "w"]
        assert await d.names(f"{name}/top/a") == ["b", "x", "y"]
        await remove(d, f"{name}/top")
        await all_sent(d)
        assert tree_on_disk(disk) == {}


@pytest.mark.usefixtures("expect_warnings", "always_late")
async def test_directory_that_cannot_be_listed_keeps_no_other(new_server: Embedded, tmp_path: Path) -> None:
    """26.x has no listing of a directory with a name that is not UTF-8."""
    name, folder = fresh(new_server)
    disk = new_server.folder_dir(folder)
    lay_out(disk, LAID_OUT)
    bad = os.fsencode(disk / "top" / "a" / "b") + b"/\xff"
    async with background(new_server, tmp_path) as d:
        await d.names(name)
        new_server.reset_calls()
        new_server.faults(AWAY)
        await remove(d, f"{name}/top")
        await until(lambda: deletions(new_server) >= 1)
        with open(bad, "w"):
            pass
        new_server.clear_faults()
        await until(lambda: not (disk / "top" / "c").exists() and not (disk / "top" / "w").exists())
        assert tree_on_disk(disk).keys() - {"top", "top/a", "top/a/b"} == {os.fsdecode(b"top/a/b/\xff")}
        await d.write(f"{name}/other", b"x")
        await d.unlink(f"{name}/other")
        await until(lambda: not (disk / "other").exists())
        os.unlink(bad)
        await all_done(d)
        assert tree_on_disk(disk) == {}
