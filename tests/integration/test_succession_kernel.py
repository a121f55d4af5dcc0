"""What the kernel knows of a mount whose process was killed: numbers, references, answers it never had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.disks import contents
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from tests.support.sending import REQUEST, replace
from tests.support.succession import Succession
from tests.support.vfs import stall
from vfsmount.errors import AlreadyExists, NoAttribute, NotFound, Stale, VfsError
from vfsmount.store.leftovers import leftovers
from vfsmount.store.staging import StagingArea
from vfsmount.values import ROOT_INO


def unanswered(mount: Succession, *request: object) -> int:
    """Ask, have the process do it, and kill it before anybody has heard the answer."""
    number = mount.begin(*request)  # type: ignore[arg-type]
    mount.process.wait_for(number)  # thrown away
    mount.kill()
    mount.succeed()
    return number


def test_handle_that_nobody_heard_of_is_given_out_again(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        ino, top = mount.stat(f"{name}/f").ino, mount.stat(name).ino
        mount.prepare()
        opened = mount.result(unanswered(mount, "open", ino, os.O_RDWR))
        mount.heard()
        other = mount.call("open", ino, os.O_RDWR)
        assert other.fh != opened.fh
        mount.prepare()
        listing = mount.result(unanswered(mount, "opendir", top))
        mount.heard()
        assert sorted(mount.rest(listing, 0)) == [b".", b"..", b"f"]
        for fh in (opened.fh, other.fh):
            mount.call("release", fh)
        mount.call("releasedir", listing)
        counts = mount.call("metrics")
        assert (counts["open_files"], counts["open_directories"]) == (0, 0)


def test_file_that_was_made_and_nobody_heard_of_it(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    with Succession(both, tmp_path) as mount:
        top = mount.stat(name).ino
        mount.prepare()
        number = unanswered(mount, "create", top, b"f", 0o644, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        fh, attr = mount.result(number)
        mount.heard()
        assert mount.call("ino_of", fh) == attr.ino
        mount.close(fh)
        assert mount.call("metrics")["open_files"] == 0
        mount.call("idle")
        assert contents(both.folder_dir(folder)) == {"f": b""}


def test_handle_that_is_in_use_is_not_given_out_again(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        ino = mount.stat(f"{name}/f").ino
        first = mount.call("open", ino, os.O_RDWR).fh
        mount.call("read", first, 0, 1)
        mount.kill()
        number = len(mount.in_flight) + 1000
        mount.in_flight[number] = ("open", (ino, os.O_RDWR))  # read by the dead process, and never begun
        mount.succeed()
        second = mount.result(number).fh
        mount.heard()
        assert second != first


def test_handle_that_two_programs_have_is_closed_twice(both: Embedded, tmp_path: Path) -> None:
    """The one had just heard of it when the process died, the other has asked the same again."""
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        ino, top = mount.stat(f"{name}/f").ino, mount.stat(name).ino
        for what, asked, args in ("open", ino, (os.O_RDONLY,)), ("opendir", top, ()):
            mount.prepare()
            first = mount.call(what, asked, *args)
            mount.kill()
            number = len(mount.in_flight) + 1000
            mount.in_flight[number] = (what, (asked, *args))
            mount.succeed()
            second = mount.result(number)
            mount.heard()
            if what == "open":
                mount.call("release", first.fh)
                assert mount.call("read", second.fh, 0, 7) == b"content"
                mount.call("flush", second.fh)
                mount.call("release", second.fh)
            else:
                mount.call("releasedir", first)
                assert sorted(mount.rest(second, 0)) == [b".", b"..", b"f"]
                mount.call("releasedir", second)
        counts = mount.call("metrics")
        assert (counts["open_files"], counts["open_directories"]) == (0, 0)


def test_name_that_is_taken_stays_taken_when_it_is_asked_for_again(both: Embedded, tmp_path: Path) -> None:
    """Only what was begun counts as done: a lock that somebody else has made is his."""
    name, _ = fresh(both)
    with Succession(both, tmp_path) as mount:
        top = mount.stat(name).ino
        mount.call("mkdir", top, b"lock", 0o755)
        mount.write(f"{name}/f", b"x")
        mount.call("rename", top, b"f", top, b"g")
        mount.kill()
        again = {
            1001: ("mkdir", (top, b"lock", 0o755), AlreadyExists),
            1002: ("create", (top, b"g", 0o644, os.O_CREAT | os.O_EXCL | os.O_RDWR), AlreadyExists),
            1003: ("rename", (top, b"f", top, b"g"), NotFound),
            1004: ("unlink", (top, b"f"), NotFound),
            1005: ("symlink", (top, b"lock", b"t"), AlreadyExists),
        }
        mount.in_flight |= {number: (what, args) for number, (what, args, _) in again.items()}
        mount.succeed()
        for number, (_, _, error) in again.items():
            with pytest.raises(error):
                mount.result(number)
        mount.heard()


def test_attribute_that_was_removed_and_nobody_heard(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    (both.folder_dir(folder) / "f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        ino = mount.stat(f"{name}/f").ino
        mount.call("set_xattr", ino, b"user.a", b"1")
        mount.prepare()
        assert mount.result(unanswered(mount, "set_xattr", ino, b"user.a", None)) is None
        mount.heard()
        with pytest.raises(NoAttribute):
            mount.call("set_xattr", ino, b"user.a", None)


@pytest.mark.parametrize("what", ["mkdir", "rename", "rmdir"])
def test_folder_whose_making_moving_or_removing_nobody_heard_of(
    both: Embedded, tmp_path: Path, what: str
) -> None:
    name, _ = fresh(both)
    new = f"{name}-new".encode()
    method, path, request = {
        "mkdir": ("POST", "/folders", ("mkdir", ROOT_INO, new, 0o755)),
        "rename": ("POST", "/folders/*/rename", ("rename", ROOT_INO, name.encode(), ROOT_INO, new)),
        "rmdir": ("DELETE", "/folders*", ("rmdir", ROOT_INO, name.encode())),
    }[what]

    def listed() -> set[str]:
        ready = both.client("owner").ok("GET", "/folders")
        return {str(f["name"]) for f in ready if "delete" not in str(f.get("status", ""))}

    names = listed()
    with Succession(both, tmp_path) as mount:
        mount.stat(name)
        mount.prepare()
        both.faults({"rules": [{"action": "hold_reply", "method": method, "path": path}]})
        number = mount.begin(*request)
        eventually(lambda: listed() != names)
        mount.kill()
        both.clear_faults()
        mount.succeed()
        mount.result(number)
        mount.heard()
        assert mount.exists(name) == (what == "mkdir")
        assert mount.exists(new.decode()) == (what != "rmdir")
        with pytest.raises((AlreadyExists, NotFound)):
            mount.call(*request)


def test_rename_that_cannot_be_asked_about_waits_and_sends_nothing_to_the_old_name(
    both: Embedded, tmp_path: Path
) -> None:
    """The server moved a directory and is gone then; what is unsent in it goes to where it is now."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "a").mkdir()
    with Succession(both, tmp_path, deadline_s=3.0) as mount:
        refused = {"action": "status", "path": REQUEST, "times": None}
        both.faults({"rules": [{"action": "hold_reply", "path": "/folders/*/move-file"}, refused]})
        mount.write(f"{name}/a/f", b"unsent")
        request = ("rename", *mount.place(f"{name}/a"), mount.stat(name).ino, b"b")
        mount.prepare()
        number = mount.begin(*request)
        eventually(lambda: (disk / "b").exists())
        mount.kill()
        down = [{"action": "status", "path": "/folders", "times": None}]  # each new process has to connect
        both.faults({"clear": True, "rules": [*down, {"action": "reset", "half": "storage", "times": None}]})
        mount.succeed()
        with pytest.raises(VfsError):  # no answer in time
            mount.result(number)
        mount.die_and_rise()  # nor did this one find out
        both.clear_faults()
        mount.heard()
        mount.call("idle")
        assert contents(disk) == {"b/f": b"unsent"}
        assert not (disk / "a").exists()


def test_references_of_the_last_life_are_given_back(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        for _ in range(3):
            ino = mount.stat(f"{name}/f").ino
        mount.call("unlink", *mount.place(f"{name}/f"))
        mount.die_and_rise()
        assert mount.call("knows", ino)
        mount.call("forget", ino, 5)
        assert not mount.call("knows", ino)
        mount.call("forget", ino, 5)
        with pytest.raises(Stale):
            mount.call("getattr", ino)
        mount.stat(name)  # what is forgotten is written with what comes next
        mount.call("refresh")
        mount.names(name)
        mount.die_and_rise()
        assert not mount.call("knows", ino)


def test_folders_are_there_although_the_kernel_forgot_them(both: Embedded, tmp_path: Path) -> None:
    name, _ = fresh(both)
    with Succession(both, tmp_path) as mount:
        ino = mount.stat(name).ino
        mount.call("forget", ino, 1)
        mount.prepare()
        mount.kill()
        both.faults({"rules": [{"action": "status", "times": None}]})
        mount.succeed()
        assert name in {folder for folder, _ in mount.call("folders")}
        both.clear_faults()
        assert mount.stat(name).ino == ino


def test_kernel_is_told_again_of_what_it_may_not_have_heard(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        old, top = mount.stat(f"{name}/f").ino, mount.stat(name).ino
        replace(disk / "f", b"another")
        mount.call("refresh")
        assert mount.stat(f"{name}/f").ino != old
        mount.die_and_rise()
        told = mount.call("told")
        assert (old, b"") in told and (top, b"f") in told


def test_other_mounts_leave_it_alone_between_two_lives(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    with Succession(both, tmp_path) as mount:
        fh = mount.create(f"{name}/f")
        mount.call("write", fh, 0, b"unsent")
        mount.kill()
        other = StagingArea(tmp_path)
        assert other.claim_dead() == []
        assert leftovers(tmp_path).aside == 0 and leftovers(tmp_path).unsent == ()
        other.close()
        mount.succeed()
        mount.close(fh)
        mount.call("idle")
        assert contents(both.folder_dir(folder)) == {"f": b"unsent"}


def test_what_is_left_when_nobody_goes_on_is_taken_up_by_the_next_mount(
    both: Embedded, tmp_path: Path
) -> None:
    name, folder = fresh(both)
    with Succession(both, tmp_path) as mount:
        stall(both, "POST", REQUEST, times=None)
        mount.write(f"{name}/f", b"unsent")
        mount.die_and_rise()
        mount.process.kill()
        for lock in (tmp_path / "staging").glob("*/lock"):
            lock.write_bytes(b"")  # as where its holder has died
    both.clear_faults()
    with Succession(both, tmp_path) as mount:
        mount.call("idle")
    assert contents(both.folder_dir(folder)) == {"f": b"unsent"}


def test_directory_of_100_000_entries(tmp_path: Path) -> None:
    """Those that the kernel knows have their numbers again, and the journal does not grow for ever."""
    count = 100_000
    with Embedded(tmp_path / "server", dialect="26", scandir_limit=0) as server:
        name, folder = fresh(server)
        disk = server.folder_dir(folder)
        for n in range(count):
            (disk / f"f{n:06}").touch()
        with Succession(server, tmp_path, deadline_s=120.0, dir_ttl_s=600.0, folder_ttl_s=600.0) as mount:
            fh = mount.call("opendir", mount.stat(name).ino)
            page, inos, offset = True, dict[bytes, int](), 0
            while page:
                page = mount.call("readdir", fh, offset)
                inos |= {n: i for _, n, i in page}
                offset = page[-1][0] if page else offset
                if offset > count // 2 and mount.lives == 1:
                    mount.die_and_rise()
            assert len(inos) == count + 2
            length = mount.call("compact")
            mount.die_and_rise()
            for n in range(0, count, 9973):
                assert mount.stat(f"{name}/f{n:06}").ino == inos[f"f{n:06}".encode()]
            assert mount.call("compact") < 1.1 * length < 200 * count
            assert os.fstat(mount.journal).st_blocks * 512 < 200 * count
