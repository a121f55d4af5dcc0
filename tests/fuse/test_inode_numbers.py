"""A file keeps its inode number for as long as it is the same file: over renames and remounts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Site, wait_out_ttl
from tests.fuse.test_attributes import again
from tests.support.compare import settle
from tests.support.mounting import Mounted, run


@pytest.fixture
def mounted(site: Site, folder: Path, tmp_path: Path) -> Iterator[Mounted]:
    """A mount of the test's own, which it may take down and bring back; `folder` shows there too."""
    with Mounted(tmp_path, site.env, "--dir-ttl", "0.3", "--attr-ttl", "0.3") as mounted:
        yield mounted


def numbers(top: Path) -> dict[str, int]:
    """Inode numbers of everything below a directory and of itself, as `find` sees them."""
    lines = run("find", top, "-printf", "%i %P\n").splitlines()
    return {name: int(number) for number, _, name in (line.partition(" ") for line in lines)}


def as_readdir_has_it(top: Path) -> dict[str, int]:
    with os.scandir(top) as entries:
        return {entry.name: entry.inode() for entry in entries}


def test_numbers_survive_a_remount(mounted: Mounted, folder: Path, disk: Path) -> None:
    d = mounted.path / folder.name
    (disk / "there" / "before").mkdir(parents=True)
    (disk / "there" / "before" / "f").write_text("x")
    (d / "made").mkdir()
    (d / "made" / "file").write_text("y")
    os.symlink("nowhere", d / "link")
    os.mkfifo(d / "fifo")
    before = numbers(d)
    assert len(set(before.values())) == len(before) == 8
    again(mounted)
    assert numbers(d) == before
    assert as_readdir_has_it(d) == {n: i for n, i in before.items() if n and "/" not in n}


@pytest.mark.parametrize("sent", [True, False], ids=["sent", "unsent"])
def test_renames_keep_the_number(mounted: Mounted, folder: Path, sent: bool) -> None:
    d = mounted.path / folder.name
    for name in ("a", "b", "c"):
        (d / name).write_text(name)
    (d / "dir" / "sub").mkdir(parents=True)
    (d / "dir" / "sub" / "f").write_text("below")
    if sent:
        settle(d)
    a, b, c = ((d / name).stat().st_ino for name in ("a", "b", "c"))
    f = (d / "dir" / "sub" / "f").stat().st_ino
    os.rename(d / "a", d / "other")
    os.rename(d / "b", d / "a")  # another file has the name now
    os.rename(d / "c", d / "dir" / "sub" / "c")
    os.rename(d / "dir", d / "moved")
    (d / "b").write_text("a new one")
    after = numbers(d)
    assert (after["other"], after["a"], after["moved/sub/c"], after["moved/sub/f"]) == (a, b, c, f)
    assert after["b"] not in (a, b, c, f)
    again(mounted)
    assert numbers(d) == after
    os.rename(d / "other", d / "a")
    assert (d / "a").stat().st_ino == a
    again(mounted)
    assert (d / "a").stat().st_ino == a


def test_editors_save_gives_one_new_number_which_stays(mounted: Mounted, folder: Path) -> None:
    """Written beside and renamed over it, again and again: the name has the number of what came last."""
    d = mounted.path / folder.name
    (d / "f").write_text("0")
    with (d / "f").open() as still_open:
        for n in range(5):
            (d / ".f.tmp").write_text(f"version {n}")
            number = (d / ".f.tmp").stat().st_ino
            os.rename(d / ".f.tmp", d / "f")
            assert (d / "f").stat().st_ino == number != os.fstat(still_open.fileno()).st_ino
    again(mounted)
    assert (d / "f").stat().st_ino == number
    assert (d / "f").read_text() == "version 4"


def test_unsent_files_keep_theirs_when_the_daemon_dies(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "dir").mkdir()
    (d / "dir" / "tmp").write_text("content")
    os.rename(d / "dir" / "tmp", d / "dir" / "f")
    (d / "dir" / "tmp").write_text("another")
    os.rename(d / "dir", d / "renamed")
    before = numbers(d)
    mounted.kill()
    mounted.start()
    assert numbers(d) == before
    assert (d / "renamed" / "f").read_text() == "content"
    assert (d / "renamed" / "tmp").read_text() == "another"


def test_file_that_somebody_replaced_is_another_one(mounted: Mounted, folder: Path, disk: Path) -> None:
    d = mounted.path / folder.name
    (disk / "f").write_text("theirs")
    with (d / "f").open() as still_open:  # so that the kernel does not forget it
        number = os.fstat(still_open.fileno()).st_ino
        (disk / "f.new").write_text("another")
        (disk / "f.new").rename(disk / "f")
        wait_out_ttl()
        assert (d / "f").read_text() == "another"
        assert (d / "f").stat().st_ino != number


def test_hard_link_detectors_see_different_files(mounted: Mounted, folder: Path) -> None:
    """du and tar take two names of one number for one file."""
    d = mounted.path / folder.name
    for n in range(20):
        (d / f"f{n}").write_bytes(bytes(10_000))
        os.rename(d / f"f{n}", d / f"g{n}")
        (d / f"f{n}").write_bytes(bytes(10_000))
    shown = numbers(d)
    assert len(set(shown.values())) == len(shown) == 41
    assert int(run("du", "--apparent-size", "-sb", d).split()[0]) >= 400_000
