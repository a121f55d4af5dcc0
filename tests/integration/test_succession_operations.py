"""A process is killed in the middle of a change of names: who asked is told that it is done, and it is
done once."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import below, contents, lay_out, tree_on_disk
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from tests.support.succession import Succession
from tests.support.vfs import stall
from vfsmount.errors import AlreadyExists, NotFound
from vfsmount.vfs.handles import SetAttr

Request = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One change of a name.

    Attributes:
        before: what is on the server's disk.
        prepare: what is done on the mount first; a request, and what is looked at with its result.
        call: what the server is asked; (method, path).
    """

    before: dict[str, bytes | None]
    request: Callable[[Succession, str], Request]
    check: Callable[[Succession, str, Any], None]
    after: dict[str, bytes]
    call: tuple[str, str] = ("POST", "")


def nothing_to_check(mount: Succession, top: str, result: Any) -> None:
    pass


def made_directory(mount: Succession, top: str, attr: Any) -> None:
    assert stat.S_ISDIR(attr.mode) and attr.mode & 0o7777 == 0o750
    assert mount.stat(f"{top}/d").ino == attr.ino
    mount.write(f"{top}/d/in", b"x")


def made_file(mount: Succession, top: str, result: Any) -> None:
    fh, attr = result
    assert mount.stat(f"{top}/f").ino == attr.ino == mount.call("ino_of", fh)
    mount.call("write", fh, 0, b"content")
    mount.close(fh)


def made_link(mount: Succession, top: str, attr: Any) -> None:
    assert mount.call("readlink", attr.ino) == b"target"
    assert mount.stat(f"{top}/l").ino == attr.ino


def made_fifo(mount: Succession, top: str, attr: Any) -> None:
    assert stat.S_ISFIFO(attr.mode)
    assert mount.stat(f"{top}/p").ino == attr.ino


def made_empty(mount: Succession, top: str, attr: Any) -> None:
    assert mount.stat(f"{top}/f").ino == attr.ino


def no_longer(name: str) -> Callable[[Succession, str, Any], None]:
    def check(mount: Succession, top: str, result: Any) -> None:
        assert not mount.exists(f"{top}/{name}")

    return check


def moved(old: str, new: str) -> Callable[[Succession, str, Any], None]:
    def check(mount: Succession, top: str, result: Any) -> None:
        assert not mount.exists(f"{top}/{old}") and mount.exists(f"{top}/{new}")

    return check


def at(mount: Succession, path: str) -> tuple[int, bytes]:
    """A place, whose name the kernel has looked up."""
    if mount.exists(path):
        mount.stat(path)
    return mount.place(path)


CASES = {
    "mkdir": Case(
        {},
        lambda m, top: ("mkdir", *at(m, f"{top}/d"), 0o750),
        made_directory,
        {"d/in": b"x"},
        ("POST", "/folders/*/mkdir"),
    ),
    "create": Case(
        {},
        lambda m, top: (
            "create",
            *at(m, f"{top}/f"),
            0o644,
            os.O_CREAT | os.O_EXCL | os.O_RDWR,
        ),
        made_file,
        {"f": b"content"},
    ),
    "symlink": Case({}, lambda m, top: ("symlink", *at(m, f"{top}/l"), b"target"), made_link, {}),
    "mknod": Case({}, lambda m, top: ("mknod", *at(m, f"{top}/p"), stat.S_IFIFO | 0o600), made_fifo, {}),
    "mknod-file": Case(
        {}, lambda m, top: ("mknod", *at(m, f"{top}/f"), stat.S_IFREG | 0o600), made_empty, {"f": b""}
    ),
    "unlink": Case({"f": b"old"}, lambda m, top: ("unlink", *at(m, f"{top}/f")), no_longer("f"), {}),
    "rmdir": Case({"d": None}, lambda m, top: ("rmdir", *at(m, f"{top}/d")), no_longer("d"), {}),
    "rename": Case(
        {"a": b"moved", "d": None},
        lambda m, top: ("rename", *at(m, f"{top}/a"), *at(m, f"{top}/d/b")),
        moved("a", "d/b"),
        {"d/b": b"moved"},
        ("POST", "/folders/*/move-file"),
    ),
    "rename-over": Case(
        {"a": b"moved", "b": b"replaced"},
        lambda m, top: ("rename", *at(m, f"{top}/a"), *at(m, f"{top}/b")),
        moved("a", "b"),
        {"b": b"moved"},
        ("POST", "/folders/*/move-file"),
    ),
    "rename-directory": Case(
        {"a/f": b"moved"},
        lambda m, top: ("rename", *at(m, f"{top}/a"), *at(m, f"{top}/b")),
        moved("a", "b"),
        {"b/f": b"moved"},
        ("POST", "/folders/*/move-file"),
    ),
}


@pytest.mark.parametrize("case", [n for n, c in CASES.items() if c.call[1]])
def test_server_has_done_it_and_nobody_heard(both: Embedded, tmp_path: Path, case: str) -> None:
    c = CASES[case]
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    lay_out(disk, c.before)
    method, path = c.call
    rule = {"action": "hold_reply", "path": path}
    with Succession(both, tmp_path) as mount:
        request = c.request(mount, name)
        mount.prepare()
        both.faults({"rules": [rule if method == "*" else {**rule, "method": method}]})
        was = contents_and_directories(disk)
        number = mount.begin(*request)
        eventually(lambda: contents_and_directories(disk) != was)
        mount.kill()
        both.clear_faults()
        mount.succeed()
        result = mount.result(number)
        mount.heard()
        c.check(mount, name, result)
        mount.call("idle")
        assert contents(disk) == c.after
        with pytest.raises((AlreadyExists, NotFound)):  # a second one is no success
            mount.call(*request)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_step(new_server: Embedded, tmp_path: Path, case: str) -> None:
    """Before each change of the disk and of the journal in turn, until it gets through."""
    c = CASES[case]
    name, folder = fresh(new_server)
    top = new_server.folder_dir(folder)
    with Succession(new_server, tmp_path) as mount:
        for step in range(1, 60):
            disk = top / f"s{step}"
            disk.mkdir()
            lay_out(disk, c.before)
            mount.call("refresh")
            request = c.request(mount, f"{name}/s{step}")
            mount.call("idle")
            with dying_at(mount, step) as died:
                result = died.call(*request)
            c.check(mount, f"{name}/s{step}", result)
            with pytest.raises((AlreadyExists, NotFound)):
                mount.call(*request)
            mount.call("idle")
            assert contents(disk) == c.after
            if not died.times:
                break
        else:
            raise AssertionError("it never got through")
        assert mount.lives > 1
    assert list((tmp_path / "unsent").iterdir()) == []


def test_tree_whose_removal_is_killed_at_every_step(new_server: Embedded, tmp_path: Path) -> None:
    """Names in a directory are on their way out when it is removed, a directory among them."""
    name, folder = fresh(new_server)
    top = new_server.folder_dir(folder)
    with Succession(new_server, tmp_path) as mount:
        for step in range(1, 100):
            disk = top / f"s{step}"
            lay_out(disk, {"d/e/f": b"f", "d/g": b"g", "stays": b"stays"})
            mount.call("refresh")
            removals = [
                (operation, *at(mount, f"{name}/s{step}/{path}"))
                for operation, path in (
                    ("unlink", "d/e/f"),
                    ("rmdir", "d/e"),
                    ("unlink", "d/g"),
                    ("rmdir", "d"),
                )
            ]
            mount.call("idle")
            with dying_at(mount, step) as died:
                for removal in removals:
                    died.call(*removal)
                died.call("idle")
            assert mount.names(f"{name}/s{step}") == ["stays"]
            assert tree_on_disk(disk) == {"stays": b"stays"}
            if not died.times:
                break
        else:
            raise AssertionError("it never got through")
        assert mount.lives > 1
        mount.end()
    assert list((tmp_path / "unsent").iterdir()) == []


def test_directory_from_which_a_file_just_sent_is_moved_stays_away(
    new_server: Embedded, tmp_path: Path
) -> None:
    """Killed at every step, and the next one as well: no record of the file brings its old directory back."""
    name, folder = fresh(new_server)
    top = new_server.folder_dir(folder)
    with Succession(new_server, tmp_path, settle_s=2.0) as mount:
        for step in range(1, 100):
            disk = top / f"s{step}"
            lay_out(disk, {"d": None, "w": b"w"})
            mount.call("refresh")
            mount.write(f"{name}/s{step}/d/f", b"content")
            mount.call("wait")
            old, new = at(mount, f"{name}/s{step}/d/f"), at(mount, f"{name}/s{step}/m")
            other, directory = at(mount, f"{name}/s{step}/w"), at(mount, f"{name}/s{step}/d")
            with dying_at(mount, step, again=True) as died:
                died.call("rename", *old, *new)
                died.call("unlink", *other)  # so that a tree seems to be removed
                died.call("rmdir", *directory)
            if died.times:
                mount.die_and_rise()
            mount.call("wait")
            assert mount.names(f"{name}/s{step}") == ["m"]
            assert tree_on_disk(disk) == {"m": b"content"}
            if not died.times:
                break
        else:
            raise AssertionError("it never got through")
        mount.call("idle")
        assert mount.lives > 3
        mount.end()
    assert list((tmp_path / "unsent").iterdir()) == []
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("name", ["made", "cut", "in-place"])
def test_content_of_a_file_whose_process_is_killed_at_every_step(
    new_server: Embedded, tmp_path: Path, name: str, pytestconfig: pytest.Config
) -> None:
    """Written, synced, written on and closed; sent in the background meanwhile."""
    folder_name, folder = fresh(new_server)
    disk = new_server.folder_dir(folder)
    every = 1 if pytestconfig.getoption("--slow") else 4
    flags = {"made": os.O_CREAT | os.O_EXCL, "cut": os.O_TRUNC, "in-place": 0}[name] | os.O_RDWR
    old = os.urandom(3 << 20)
    with Succession(new_server, tmp_path) as mount:
        for step in range(1, 200, every):
            file, path = disk / f"f{step}", f"{folder_name}/f{step}"
            if name != "made":
                file.write_bytes(old)
                mount.call("refresh")
                ino = mount.stat(path).ino
            directory, last = mount.place(path)
            mount.call("idle")
            with dying_at(mount, step) as died:
                if name == "made":
                    fh, attr = died.call("create", directory, last, 0o644, flags)
                    ino = attr.ino
                else:
                    fh = died.call("open", ino, flags).fh
                died.call("write", fh, 0, b"a" * 5000)
                died.call("write", fh, 5000, b"b" * 5000)
                died.call("fsync", fh)
                died.call("write", fh, 7000, b"c" * 5000)
                died.call("setattr", ino, SetAttr(size=11000), fh)
                died.call("flush", fh)
                died.call("release", fh)
                died.call("idle")
            wanted = b"a" * 5000 + b"b" * 2000 + b"c" * 4000
            assert mount.read(path) == wanted
            assert mount.stat(path).ino == ino
            assert file.read_bytes() == wanted
            assert mount.names(folder_name) == sorted(p.name for p in disk.iterdir() if p.name != ".upload")
            if not died.times:
                break
        else:
            raise AssertionError("it never got through")
        assert mount.lives > 1
        mount.end()
    assert list((tmp_path / "unsent").iterdir()) == []
    assert left_over(tmp_path) == []


def test_file_whose_process_is_killed_at_every_step_and_whose_next_one_is_killed_at_once(
    new_server: Embedded, tmp_path: Path
) -> None:
    """What the second one has found out is known to the third: nobody else's version is seen in our own."""
    name, folder = fresh(new_server)
    disk = new_server.folder_dir(folder)
    with Succession(new_server, tmp_path, settle_s=0.4) as mount:
        for step in range(1, 100):
            path = f"{name}/f{step}"
            mount.write(path, b"old")
            mount.call("idle")
            ino = mount.stat(path).ino
            with dying_at(mount, step, again=True) as died:
                fh = died.call("open", ino, os.O_WRONLY | os.O_TRUNC).fh
                died.call("write", fh, 0, b"new content")
                died.call("flush", fh)
                died.call("release", fh)
                died.call("wait")
                if died.times:
                    mount.call("refresh")
                    assert mount.names(name) == sorted(p.name for p in disk.glob("f*"))
                died.call("idle")
            assert mount.read(path) == (disk / f"f{step}").read_bytes() == b"new content"
            assert mount.stat(path).ino == ino
            assert not list(disk.glob("*.conflict-*"))
            if not died.times:
                break
        else:
            raise AssertionError("it never got through")
        assert mount.lives > 2
        mount.end()
    assert list((tmp_path / "unsent").iterdir()) == []


@pytest.mark.parametrize("change", ["cut", "written"])
def test_file_that_is_changed_before_its_row_says_that_it_was_sent(
    new_server: Embedded, tmp_path: Path, change: str
) -> None:
    """The journal knows before the row does; killed at every step of the change, and the next at once."""
    name, folder = fresh(new_server)
    disk = new_server.folder_dir(folder)
    with Succession(new_server, tmp_path) as mount:
        for step in range(1, 30):
            path = f"{name}/f{step}"
            new_server.faults({"rules": [{"action": "hold_reply", "method": "PATCH", "path": "/upload"}]})
            mount.write(path, b"sent first")
            ino = mount.stat(path).ino
            fh = mount.open(path, os.O_RDWR) if change == "written" else None
            eventually((disk / f"f{step}").exists)
            mount.prepare()
            with closing(sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)) as db:
                db.execute("begin immediate")
                so_far = mount.log.stat().st_size
                new_server.faults({"release": True})
                eventually(lambda so_far=so_far: b"upload.sent" in mount.log.read_bytes()[so_far:])
                mount.call("die_at", step)
                if change == "cut":
                    number = mount.begin("open", ino, os.O_RDWR | os.O_TRUNC)
                else:
                    number = mount.begin("write", fh, 0, b"SENT")
                done, died = None, False
                try:
                    done = mount.result(number)
                except ConnectionError:
                    died = True
                    mount.kill()
            if died:
                mount.succeed()
                mount.die_and_rise()
                done = mount.result(number)
                mount.heard()
            else:
                mount.call("die_at", 0)
            mount.close(done.fh if fh is None else fh)
            mount.call("idle")
            wanted = b"" if change == "cut" else b"SENT first"
            assert mount.read(path) == (disk / f"f{step}").read_bytes() == wanted
            assert mount.names(name) == sorted(p.name for p in disk.glob("f*"))
            if not died:
                break
        else:
            raise AssertionError("it never got through")
        assert mount.lives > 2
        mount.end()
    assert list((tmp_path / "unsent").iterdir()) == []
    assert rows_left(tmp_path) == []
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_file_that_is_cut_before_it_was_sent(new_server: Embedded, tmp_path: Path, again: bool) -> None:
    """Killed at every step of that, and the next process at once."""
    name, folder = fresh(new_server)
    disk = new_server.folder_dir(folder)
    with Succession(new_server, tmp_path) as mount:
        for step in range(1, 30):
            path = f"{name}/f{step}"
            stall(new_server, "PATCH", "/upload", times=None)
            mount.write(path, b"not sent yet")
            ino = mount.stat(path).ino
            with dying_at(mount, step, again=again) as died:
                fh = died.call("open", ino, os.O_WRONLY | os.O_TRUNC).fh
                died.call("flush", fh)
                died.call("release", fh)
            new_server.clear_faults()
            mount.call("idle")
            assert mount.read(path) == (disk / f"f{step}").read_bytes() == b""
            assert mount.names(name) == sorted(p.name for p in disk.glob("f*"))
            if not died.times:
                break
        else:
            raise AssertionError("it never got through")
        assert mount.lives > 2
        mount.end()
    assert list((tmp_path / "unsent").iterdir()) == []
    assert rows_left(tmp_path) == []
    assert left_over(tmp_path) == []


def rows_left(state_dir: Path) -> list[bytes]:
    """Names of files that the next mount would look for."""
    with closing(sqlite3.connect(state_dir / "records.sqlite")) as db:
        return [bytes(found) for (found,) in db.execute("select name from staged")]


def left_over(state_dir: Path) -> list[Path]:
    """Content that nobody has taken care of; a process that only stood by has an empty directory."""
    return [p for p in below(state_dir / "staging") if p.is_file() and p.name != "lock"]


class Dying:
    """Calls of a mount whose process dies in the middle of them, and is succeeded.

    Args:
        again: the next one is killed, too, as soon as it serves.
    """

    def __init__(self, mount: Succession, again: bool) -> None:
        self.mount = mount
        self.again = again
        self.times = 0

    def call(self, *request: Any) -> Any:
        number = None
        try:
            number = self.mount.begin(*request)
            return self.mount.result(number)
        except (ConnectionError, BrokenPipeError):
            self.times += 1
            for _ in range(1 + self.again):
                self.mount.kill()
                self.mount.succeed()
        if number is None:
            number = max(self.mount.in_flight)
        result = self.mount.result(number)
        self.mount.heard()
        return result


@contextmanager
def dying_at(mount: Succession, step: int, *, again: bool = False) -> Iterator[Dying]:
    """Killed before the n-th change of the disk or of the journal that is made in the body, or after it."""
    if mount.standby is None:
        mount.prepare()
    mount.call("die_at", step)
    dying = Dying(mount, again)
    yield dying
    dying.call("die_at", 0)


def contents_and_directories(disk: Path) -> set[str]:
    """Names with what they stand for: a file that is written, moved or replaced is another one."""
    found = set()
    for path in below(disk):
        with suppress(FileNotFoundError):
            found.add(f"{path} {path.lstat().st_ino}")
    return found
