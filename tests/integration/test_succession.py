"""A process of a mount is killed, the next goes on: the same numbers, handles and content, no copies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.disks import contents
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from tests.support.sending import LONG, MIB, replace, uploads_of
from tests.support.succession import Succession
from tests.support.vfs import stall
from vfsmount.errors import Stale
from vfsmount.vfs.handles import SetAttr


def test_open_file_goes_on_being_read(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(LONG)
    with Succession(both, tmp_path) as mount:
        before = mount.stat(f"{name}/f")
        fh = mount.open(f"{name}/f")
        assert mount.call("read", fh, 0, 1000) == LONG[:1000]
        mount.die_and_rise()
        assert mount.call("read", fh, 1000, 1000) == LONG[1000:2000]
        after = mount.stat(f"{name}/f")
        assert (after.ino, after.generation) == (before.ino, before.generation)
        assert mount.call("getattr", before.ino).size == len(LONG)
        other = mount.open(f"{name}/f")
        assert other > fh
        mount.call("release", fh)
        mount.call("release", fh)  # as often as it is asked for
        assert mount.read_all(other) == LONG


def test_version_that_was_read_is_not_mixed_with_another(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(LONG)
    with Succession(both, tmp_path) as mount:
        old = mount.stat(f"{name}/f")
        met, unmet = mount.open(f"{name}/f"), mount.open(f"{name}/f")
        assert mount.call("read", met, 0, 10) == LONG[:10]
        mount.kill()
        replace(disk / "f", b"other" * 1000)
        mount.succeed()
        with pytest.raises(Stale):
            mount.call("read", met, len(LONG) - 10, 10)
        mount.call("release", met)
        mount.call("release", unmet)
        new = mount.stat(f"{name}/f")
        assert new.ino != old.ino  # the kernel trusts its own size of a number it knows
        assert mount.read(f"{name}/f") == b"other" * 1000


def test_written_and_not_closed_is_the_very_same_open_file(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    with Succession(both, tmp_path) as mount:
        fh = mount.create(f"{name}/f")
        ino = mount.call("ino_of", fh)
        mount.call("write", fh, 0, b"one ")
        mount.die_and_rise()
        assert mount.call("read", fh, 0, 10) == b"one "
        mount.call("write", fh, 4, b"two ")
        mount.die_and_rise()
        mount.call("write", fh, 8, b"three")
        assert mount.call("ino_of", fh) == ino == mount.stat(f"{name}/f").ino
        mount.close(fh)
        mount.call("idle")
        assert contents(disk) == {"f": b"one two three"}
        assert uploads_of(both, "f")["sessions"] == 1
        assert mount.names(name) == ["f"]
        mount.end()
    assert list((tmp_path / "staging").iterdir()) == []
    assert list((tmp_path / "unsent").iterdir()) == []


def test_part_of_a_large_file_that_was_changed(both: Embedded, tmp_path: Path) -> None:
    """What was written stays, the rest is the server's still."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(LONG)
    with Succession(both, tmp_path) as mount:
        fh = mount.open(f"{name}/f", os.O_RDWR)
        mount.call("write", fh, 7 * MIB, b"here")
        mount.call("write", fh, 7 * MIB + 4, b" and")
        mount.die_and_rise()
        mount.call("write", fh, 7 * MIB + 8, b" now")
        assert mount.call("read", fh, 7 * MIB - 1, 14) == (
            LONG[7 * MIB - 1 : 7 * MIB] + b"here and now" + LONG[7 * MIB + 12 : 7 * MIB + 13]
        )
        mount.close(fh)
        mount.call("idle")
        assert contents(disk) == {"f": LONG[: 7 * MIB] + b"here and now" + LONG[7 * MIB + 12 :]}


def test_part_of_a_file_whose_version_is_gone_goes_stale(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "f").write_bytes(LONG)
    with Succession(both, tmp_path) as mount:
        fh = mount.open(f"{name}/f", os.O_RDWR)
        mount.call("write", fh, 7 * MIB, b"here")
        mount.kill()
        replace(disk / "f", LONG[::-1])
        mount.succeed()
        assert mount.call("read", fh, 7 * MIB, 4) == b"here"
        with pytest.raises(Stale):
            mount.call("read", fh, 0, 10)
        with pytest.raises(Stale):
            mount.call("flush", fh)


@pytest.mark.parametrize("closed", [False, True])
def test_upload_under_way_is_resumed_once(both: Embedded, tmp_path: Path, closed: bool) -> None:
    name, folder = fresh(both)
    data = os.urandom(40 * MIB)
    with Succession(both, tmp_path) as mount:
        cut = {"action": "cut_up", "half": "storage", "method": "PATCH", "after_bytes": 5 * MIB}
        silent = {"action": "stall", "half": "storage", "method": "HEAD", "times": None}
        both.faults({"rules": [cut, silent]})
        fh = mount.create(f"{name}/f", os.O_RDWR)
        for at in range(0, len(data), MIB):
            mount.call("write", fh, at, data[at : at + MIB])
        mount.call("flush", fh)
        if closed:
            mount.call("release", fh)
        eventually(lambda: both.count("HEAD", "/upload") == 1)
        mount.kill()
        both.clear_faults()
        mount.succeed()
        mount.call("idle")
        assert contents(both.folder_dir(folder)) == {"f": data}
        came = uploads_of(both, "f")
        assert came["sessions"] == 1 and came["bytes"] <= len(data) + 16 * MIB
        if not closed:
            mount.call("write", fh, 0, b"again")
            mount.close(fh)
            mount.call("idle")
            assert contents(both.folder_dir(folder)) == {"f": b"again" + data[5:]}


def test_rewrite_of_what_is_travelling_does_not_change_it(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    with Succession(both, tmp_path) as mount:
        stall(both, "PATCH", "/upload", times=None)
        mount.write(f"{name}/f", LONG)
        eventually(lambda: both.count("PATCH", "/upload") == 1)
        fh = mount.open(f"{name}/f", os.O_RDWR)
        mount.call("write", fh, 0, b"newer")
        mount.die_and_rise()
        mount.call("write", fh, 5, b", too")
        assert mount.call("read", fh, 0, 12) == b"newer, too" + LONG[10:12]
        both.clear_faults()
        mount.close(fh)
        mount.call("idle")
        assert contents(both.folder_dir(folder)) == {"f": b"newer, too" + LONG[10:]}


@pytest.mark.parametrize("seen", [True, False])
def test_what_was_sent_and_overwritten_at_once_is_brought_back(
    both: Embedded, tmp_path: Path, seen: bool
) -> None:
    """By somebody who had not seen it; the process that sent it is killed before or after it sees that."""
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    with Succession(both, tmp_path, settle_s=3.0) as mount:
        mount.prepare()  # or the start of the next process takes from the time there is to see it
        mount.write(f"{name}/f", b"ours")
        mount.call("wait")
        replace(disk / "f", b"theirs, and longer")
        if seen:
            mount.call("refresh")
            assert mount.read(f"{name}/f") == b"theirs, and longer"
        mount.die_and_rise()
        mount.call("idle")
        (copy,) = disk.glob("f.conflict-*")
        assert contents(disk) == {"f": b"theirs, and longer", copy.name: b"ours"}


@pytest.mark.parametrize("on_server", [False, True])
def test_removed_and_still_open(both: Embedded, tmp_path: Path, on_server: bool) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    if on_server:
        (disk / "f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        if on_server:
            fh = mount.open(f"{name}/f", os.O_RDWR)
        else:
            fh = mount.create(f"{name}/f")
            mount.call("write", fh, 0, b"content")
        ino = mount.call("ino_of", fh)
        mount.call("setattr", ino, SetAttr(mode=0o640))
        mount.call("unlink", *mount.place(f"{name}/f"))
        mount.die_and_rise()
        assert not mount.exists(f"{name}/f")
        attr = mount.call("getattr", ino)
        assert (attr.nlink, attr.size, attr.mode & 0o7777) == (0, 7, 0o640)
        assert mount.call("read", fh, 0, 10) == b"content"
        mount.call("write", fh, 7, b"!")
        mount.call("setattr", ino, SetAttr(mode=0o600))
        mount.die_and_rise()
        assert mount.call("read", fh, 0, 10) == b"content!"
        assert mount.call("getattr", ino).mode & 0o7777 == 0o600
        mount.close(fh)
        mount.call("idle")
        eventually(lambda: contents(disk) == {})
        mount.end()
    assert list((tmp_path / "staging").iterdir()) == []


def test_file_that_was_renamed_is_known_by_its_number(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "a").mkdir()
    (disk / "a/f").write_bytes(b"content")
    with Succession(both, tmp_path) as mount:
        ino, directory = mount.stat(f"{name}/a/f").ino, mount.stat(f"{name}/a").ino
        fh = mount.open(f"{name}/a/f")
        unsent = mount.create(f"{name}/a/unsent")
        mount.call("write", unsent, 0, b"x")
        mount.call("rename", *mount.place(f"{name}/a"), *mount.place(f"{name}/b"))
        mount.die_and_rise()
        assert mount.stat(f"{name}/b").ino == directory
        assert mount.stat(f"{name}/b/f").ino == ino
        assert mount.call("read", fh, 0, 10) == b"content"
        mount.close(unsent)
        mount.call("idle")
        assert contents(disk) == {"b/f": b"content", "b/unsent": b"x"}


def test_directory_that_is_read_goes_on_where_it_was(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    wanted = {f"f{n:04}" for n in range(950)}
    for n in wanted:
        (disk / n).touch()
    with Succession(both, tmp_path) as mount:
        fh = mount.call("opendir", mount.stat(name).ino)
        page = mount.call("readdir", fh, 0)
        inos = {n: i for _, n, i in page}
        mount.kill()
        for n in range(100):
            (disk / f"new{n}").touch()
        mount.succeed()
        rest = mount.rest(fh, page[-1][0])
        names = [n for _, n, _ in page] + rest
        assert sorted(names) == sorted([b".", b"..", *(n.encode() for n in wanted)])
        for n, ino in list(inos.items())[2:20]:
            assert mount.stat(f"{name}/{n.decode()}").ino == ino
        assert set(mount.rest(fh, 0)) > set(names)
        mount.call("releasedir", fh)


def test_server_is_down_while_it_goes_on(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    disk = both.folder_dir(folder)
    (disk / "known").write_bytes(b"content")
    with Succession(both, tmp_path, deadline_s=5.0, dir_ttl_s=0.1) as mount:
        known = mount.stat(f"{name}/known")
        reading = mount.open(f"{name}/known")
        fh = mount.create(f"{name}/f")
        mount.call("write", fh, 0, b"unsent")
        mount.prepare()
        mount.kill()
        both.faults({"rules": [{"action": "status", "times": None}]})
        mount.succeed()
        assert mount.call("getattr", known.ino).size == 7
        assert mount.call("read", fh, 0, 10) == b"unsent"
        mount.call("write", fh, 6, b", too")
        mount.close(fh)
        both.clear_faults()
        assert mount.call("read", reading, 0, 10) == b"content"
        mount.call("idle")
        assert contents(disk) == {"known": b"content", "f": b"unsent, too"}


def test_many_lives(both: Embedded, tmp_path: Path) -> None:
    name, folder = fresh(both)
    with Succession(both, tmp_path) as mount:
        fh = mount.create(f"{name}/f")
        for n in range(6):
            mount.call("write", fh, n, b"x")
            mount.write(f"{name}/g{n}", b"y" * n)
            mount.die_and_rise()
            if n % 2:
                mount.call("compact")
        mount.close(fh)
        mount.call("idle")
        assert contents(both.folder_dir(folder)) == {
            "f": b"x" * 6,
            **{f"g{n}": b"y" * n for n in range(6)},
        }


def test_file_that_grows_is_followed_through_a_death(both: Embedded, tmp_path: Path) -> None:
    """It has grown before, so it is known what was shown of it; it grows again while nobody serves it."""
    name, folder = fresh(both)
    log = both.folder_dir(folder) / "log"
    log.write_bytes(b"one\n" * 2000)
    with Succession(both, tmp_path, attr_ttl_s=0.05, dir_ttl_s=0.05) as mount:
        fh = mount.open(f"{name}/log")
        ino = mount.call("ino_of", fh)
        read = mount.read_all(fh)
        for line, dies in ((b"two\n", False), (b"three\n", True), (b"four\n", False)):
            if dies:
                mount.kill()
            with log.open("ab") as f:
                f.write(line)
            if dies:
                mount.succeed()
            eventually(lambda: mount.call("getattr", ino).size == log.stat().st_size)
            read += mount.read_all(fh, len(read))
            assert read == log.read_bytes()
