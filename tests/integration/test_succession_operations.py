"""A process is killed in the middle of a change of names: who asked is told that it is done, and it is
done once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from tests.support.sending import contents
from tests.support.succession import Succession
from vfsmount.errors import AlreadyExists, NotFound

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
    "rmdir": Case(
        {"d": None},
        lambda m, top: ("rmdir", *at(m, f"{top}/d")),
        no_longer("d"),
        {},
        ("*", "/folders/*/delete-files"),
    ),
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


def lay_out(disk: Path, files: dict[str, bytes | None]) -> None:
    for path, data in files.items():
        if data is None:
            (disk / path).mkdir(parents=True)
        else:
            (disk / path).parent.mkdir(parents=True, exist_ok=True)
            (disk / path).write_bytes(data)


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
    server = new_server
    name, folder = fresh(server)
    top = server.folder_dir(folder)
    with Succession(server, tmp_path) as mount:
        for step in range(1, 60):
            disk = top / f"s{step}"
            disk.mkdir()
            lay_out(disk, c.before)
            mount.call("refresh")
            request = c.request(mount, f"{name}/s{step}")
            if mount.standby is None:
                mount.prepare()
            mount.call("idle")
            mount.call("die_at", step)
            number = mount.begin(*request)
            try:
                result, died = mount.result(number), False
            except (ConnectionError, BrokenPipeError):
                died = True
                mount.kill()
                mount.succeed()
                result = mount.result(number)
                mount.heard()
            else:
                mount.call("die_at", 0)
            c.check(mount, f"{name}/s{step}", result)
            with pytest.raises((AlreadyExists, NotFound)):
                mount.call(*request)
            mount.call("idle")
            eventually(lambda: contents(disk) == c.after, 10)  # noqa: B023
            if not died:
                break
        else:
            raise AssertionError("it never got through")
        assert mount.lives > 1
    assert list((tmp_path / "unsent").iterdir()) == []


def contents_and_directories(disk: Path) -> set[str]:
    return {p.relative_to(disk).as_posix() + str(p.stat().st_ino) for p in disk.rglob("*")}
