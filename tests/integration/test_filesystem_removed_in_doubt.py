"""What has a removed name when the call is made may be another's: it stays, and so does what it lies in."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.disks import contents, lay_out, tree_on_disk
from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.removing import AWAY, LISTING, REFUSED, all_done, remove, until_late
from tests.support.sending import DELETE, background, deletions, replace
from tests.support.vfs import release, serving, until
from vfsmount.errors import NotEmpty, PermissionDenied, RemoteError, VfsError
from vfsmount.vfs import namespace, pending, removals

pytestmark = pytest.mark.usefixtures("expect_warnings")


def take_place(file: Path, kind: str) -> None:
    """Somebody else puts something else under a name."""
    if kind == "file":
        replace(file, b"somebody's")
        return
    file.unlink()
    lay_out(file, {"in it": b"somebody's"})


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_whoever_removes_the_directory_is_told_of_what_the_mount_before_left(
    both: Embedded, tmp_path: Path, kind: str
) -> None:
    """The listing that hid it is not believed when its removal has been dropped."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/x": b"x", "d/y": b"y"})
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await d.unlink(f"{name}/d/x")
    take_place(disk / "d" / "x", kind)
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/d", at_last="keep")
        await all_done(d)
        with pytest.raises(NotEmpty):
            await d.rmdir(f"{name}/d")
        assert list(contents(disk).values()) == [b"somebody's"]


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_what_takes_a_removed_name_while_the_server_is_away_is_not_lost_with_the_directory(
    both: Embedded, tmp_path: Path, kind: str
) -> None:
    """Nobody knows whether a call was executed that was not answered: each name is looked at again."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/x": b"x", "d/y": b"y"})
    async with background(both, tmp_path) as d:
        both.reset_calls()
        await d.names(f"{name}/d")
        both.faults(AWAY)
        await d.unlink(f"{name}/d/x")
        await until(lambda: deletions(both) >= 1)
        take_place(disk / "d" / "x", kind)
        await d.look_again(f"{name}/d")
        assert await d.names(f"{name}/d") == ["y"]
        both.clear_faults()
        await d.unlink(f"{name}/d/y")
        await all_done(d)
        with pytest.raises(NotEmpty):
            await d.rmdir(f"{name}/d")
        assert list(contents(disk).values()) == [b"somebody's"]


async def test_what_has_a_removed_name_shows_once_it_is_known_to_be_anothers(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/x": b"x", "d/y": b"y"})
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await d.unlink(f"{name}/d/x")
    replace(disk / "d" / "x", b"somebody's")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        assert await d.names(f"{name}/d") == ["y"]
        await all_done(d)
        assert await d.names(f"{name}/d") == ["x", "y"]
        assert await d.read(f"{name}/d/x") == b"somebody's"


async def test_file_that_is_written_on_while_its_directory_is_removed_goes(
    both: Embedded, tmp_path: Path
) -> None:
    """Somebody appends to a log: as on any file system its name goes all the same."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/log": b"1", "d/x": b"x"})
    async with background(both, tmp_path) as d:
        with (disk / "d" / "log").open("ab") as log:
            await remove(d, f"{name}/d", at_last="keep")
            log.write(b"2")
        await d.look_again(f"{name}/d")
        await d.rmdir(f"{name}/d")
        await all_done(d)
        assert tree_on_disk(disk) == {}


@pytest.mark.parametrize("just_s", [0.0, 60.0])
async def test_tree_with_a_file_that_is_newer_than_its_listing_goes_or_somebody_is_told(
    both: Embedded, tmp_path: Path, just_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the directory is listed once more."""
    monkeypatch.setattr(namespace, "JUST_S", just_s)
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/out": b"1", "d/x": b"x"})
    async with background(both, tmp_path) as d:
        await d.names(f"{name}/d")
        replace(disk / "d" / "out", b"the result")
        told = False
        try:
            await remove(d, f"{name}/d")
        except VfsError:
            told = True
        await all_done(d)
        await d.look_again(name)
        assert told == (await d.names(name) == ["d"])


# --- when a look is too old -----------------------------------------------------------------------------


@pytest.mark.parametrize("somebody", [True, False])
@pytest.mark.usefixtures("soon_late")
async def test_look_is_as_old_as_its_request(both: Embedded, tmp_path: Path, somebody: bool) -> None:
    """One whose answer takes long is made again, and nobody is told that it came too late."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/x": b"x", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        both.reset_calls()
        both.faults(AWAY)
        await remove(d, f"{name}/d")
        await until(lambda: deletions(both) >= 1)
        both.reset_calls()
        both.faults({"clear": True, "rules": [{"action": "hold_reply", "path": "/folders/*/files"}]})
        await until(lambda: not (disk / "d" / "x").exists() and both.count("GET", LISTING) == 1)
        await until_late()
        if somebody:
            (disk / "d" / "theirs").write_bytes(b"theirs")
            release(both)
            await all_done(d)
            assert contents(disk) == {"d/theirs": b"theirs", "stays": b"stays"}
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.fs._removals.flush)
            release(both)
        assert tree_on_disk(disk) == {"stays": b"stays"}
        assert both.count("GET", LISTING) >= 2


@pytest.mark.parametrize("suspended_s", [0.0, 60.0])
async def test_nothing_that_was_seen_before_the_machine_was_suspended_is_believed(
    both: Embedded, tmp_path: Path, suspended_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the looks stands still meanwhile."""
    for what in ("TREE_IDLE_S", "LONGEST_S"):
        monkeypatch.setattr(removals, what, 60.0)  # the call is made when somebody waits for it
    monkeypatch.setattr(pending, "LATE_S", 60.0)
    slept = removals.slept
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/x": b"x", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/d")
        monkeypatch.setattr(removals, "slept", lambda: slept() + suspended_s)
        (disk / "d" / "theirs").write_bytes(b"theirs")
        with suppress(NotEmpty):
            await d.fs._removals.flush()
        await all_done(d)
        # What comes between a look and its call is lost with this server.
        theirs = {"d/theirs": b"theirs"} if suspended_s else {}
        assert contents(disk) == {"stays": b"stays", **theirs}


@pytest.mark.usefixtures("soon_late")
async def test_directory_that_is_to_be_replaced_is_looked_at_again_when_that_takes_long(
    both: Embedded, tmp_path: Path
) -> None:
    """What was removed below the one that is moved has to go first."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"src/x": b"x", "src/kept": b"kept", "dst": None})
    async with background(both, tmp_path) as d:
        both.reset_calls()
        both.faults({"rules": [{"action": "stall", "path": DELETE}]})
        await d.unlink(f"{name}/src/x")

        async def move() -> None:
            with pytest.raises(NotEmpty):
                await d.rename(f"{name}/src", f"{name}/dst")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            await until(lambda: deletions(both) == 1 and bool(d.fs._removals._wanted))
            await until_late()
            (disk / "dst" / "theirs").write_bytes(b"theirs")
            release(both)
        assert contents(disk) == {"src/kept": b"kept", "dst/theirs": b"theirs"}


# --- what a listing does not show -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [30, 64])
async def test_names_that_a_cut_listing_never_showed_stay(tmp_path: Path, limit: int) -> None:
    """A server may cut at a number that nobody suspects; names on their way out hide others from the look."""
    with Embedded(tmp_path / "server", dialect="23.09", scandir_limit=limit) as server:
        name, folder = fresh(server)
        disk = server.folder_dir(folder)
        lay_out(disk, {f"d/f{n}": b"x" for n in range(limit + 5)})
        async with background(server, tmp_path) as d:
            await remove(d, f"{name}/d", at_last="keep")
            with pytest.raises(NotEmpty):
                await d.rmdir(f"{name}/d")
            await all_done(d)
            assert len(contents(disk)) == 5


# --- what somebody else removes as well -----------------------------------------------------------------


async def test_directory_that_somebody_else_removed_keeps_no_other(both: Embedded, tmp_path: Path) -> None:
    """23.09 stops at the first of a call that it does not find."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x", "top/b/y": b"y", "top/c/z": b"z", "stays": b"stays"})
    async with background(both, tmp_path) as d:
        await remove(d, f"{name}/top", at_last="keep")
        (disk / "top/b/y").unlink()
        (disk / "top/b").rmdir()
        await all_done(d)
        assert tree_on_disk(disk) == {"stays": b"stays", "top": None}


async def test_directory_that_somebody_else_removed_is_no_obstacle_for_the_next_mount(
    both: Embedded, tmp_path: Path
) -> None:
    """A file of it was on its way out, then what it lay in was removed."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/b/y": b"y", "top/w": b"w"})
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await d.unlink(f"{name}/top/b/y")
        (disk / "top/b/y").unlink()
        (disk / "top/b").rmdir()
        await d.look_again(f"{name}/top")
        await remove(d, f"{name}/top")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        await all_done(d)
        assert tree_on_disk(disk) == {}


async def test_tree_that_two_ended_mounts_were_removing_goes(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/b/y": b"y", "top/b/z": b"z", "stays": b"stays"})
    async with background(both, tmp_path) as d, background(both, tmp_path) as other:
        both.faults(AWAY)
        await d.unlink(f"{name}/top/b/y")
        (disk / "top/b/y").unlink()
        await remove(other, f"{name}/top")
    both.clear_faults()
    async with background(both, tmp_path) as d:
        assert await d.names(name) == ["stays"]
        await all_done(d)
        await d.look_again(name)
        assert await d.names(name) == ["stays"]
        assert tree_on_disk(disk) == {"stays": b"stays"}


# --- replies --------------------------------------------------------------------------------------------


async def test_file_made_anew_after_a_lost_reply_stays(both: Embedded, tmp_path: Path) -> None:
    """The tree had gone with the call; what has the name afterwards is another's."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x", "top/a/y": b"y"})
    async with background(both, tmp_path) as d:
        lost = {"action": "lose_reply", "path": DELETE}
        away = {"action": "status", "path": DELETE, "status": 503, "times": 2}
        both.faults({"rules": [lost, away]})
        await remove(d, f"{name}/top")
        await until(lambda: not (disk / "top").exists())
        lay_out(disk, {"top/a/x": b"theirs, and longer"})
        await all_done(d)
        assert contents(disk) == {"top/a/x": b"theirs, and longer"}


async def test_name_that_must_not_be_looked_at_keeps_no_other(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/x": b"x", "d/y": b"y", "other": b"other"})
    async with background(both, tmp_path) as d:
        both.faults(AWAY)
        await d.unlink(f"{name}/d/x")
    refused = {"action": "status", "path": "/folders/*/request-download", "status": 403, "times": None}
    both.faults({"clear": True, "rules": [refused]})
    async with background(both, tmp_path) as d:
        await d.unlink(f"{name}/other")
        await until(lambda: not (disk / "other").exists())
        await all_done(d)
        assert contents(disk) == {"d/x": b"x", "d/y": b"y"}


async def test_mount_without_background_tells_of_a_directory_that_must_not_go(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"top/a/x": b"x", "top/b/y": b"y"})
    async with serving(both, tmp_path) as d:
        await d.unlink(f"{name}/top/a/x")
        both.faults(REFUSED)
        with pytest.raises(PermissionDenied):
            await d.rmdir(f"{name}/top/a")
        both.clear_faults()
        assert tree_on_disk(disk / "top") == {"a": None, "b": None, "b/y": b"y"}
        await d.look_again(f"{name}/top")
        assert await d.names(f"{name}/top") == ["a", "b"]
        await remove(d, f"{name}/top")
        assert tree_on_disk(disk) == {}


async def test_call_that_was_done_and_answered_with_500_is_not_repeated_unseen(
    both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a manager does that loses its storage-proxy. What has the name since is another's."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, {"d/x": b"x", "d/y": b"y"})
    async with background(both, tmp_path) as d:
        delete_files, calls = d.fs._client.delete_files, 0

        async def fails_once(*args: Any, **options: Any) -> None:
            nonlocal calls
            calls += 1
            await delete_files(*args, **options)
            if calls == 1:
                (disk / "d" / "x").write_bytes(b"theirs, new")
                raise RemoteError("the server answers 500", status=500)

        monkeypatch.setattr(d.fs._client, "delete_files", fails_once)
        await d.unlink(f"{name}/d/x")
        await all_done(d)
        assert contents(disk)["d/x"] == b"theirs, new"
        assert await d.names(f"{name}/d") == ["x", "y"]
