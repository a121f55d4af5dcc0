"""Directories, names and moves on a real mount."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.fuse.conftest import Site, wait_out_ttl
from tests.support.mounting import Mounted, run


def raises(code: int):
    return pytest.raises(OSError, check=lambda e: e.errno == code)


def test_mkdir_list_and_rmdir(folder: Path, disk: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "e").mkdir()
    assert (disk / "d" / "e").is_dir()
    assert os.listdir(folder / "d") == ["e"]
    (folder / "d" / "e").rmdir()
    assert not (disk / "d" / "e").exists()
    assert stat.S_ISDIR((folder / "d").stat().st_mode)


def test_refusals_have_their_errno(folder: Path) -> None:
    (folder / "f").write_text("file")
    (folder / "d").mkdir()
    (folder / "d" / "x").write_text("x")
    (folder / "e").mkdir()
    with raises(errno.EEXIST):
        (folder / "f").mkdir()
    with raises(errno.EEXIST):
        (folder / "d").mkdir()
    with raises(errno.ENOENT):
        (folder / "no" / "such").mkdir()
    with raises(errno.ENOTDIR):
        (folder / "f" / "below").mkdir()
    with raises(errno.ENOTEMPTY):
        (folder / "d").rmdir()
    with raises(errno.ENOTDIR):
        (folder / "f").rmdir()
    with raises(errno.ENOENT):
        (folder / "none").unlink()
    with raises(errno.EISDIR):
        (folder / "d").unlink()
    with raises(errno.EISDIR):
        (folder / "d").write_text("x")
    with raises(errno.EISDIR):
        os.rename(folder / "f", folder / "d")
    with raises(errno.ENOTDIR):
        os.rename(folder / "d", folder / "f")
    with raises(errno.ENOTEMPTY):
        os.rename(folder / "e", folder / "d")
    with raises(errno.EINVAL):
        os.rename(folder / "d", folder / "d" / "inside")
    with raises(errno.ENOENT):
        os.rename(folder / "none", folder / "other")
    with raises(errno.EPERM):
        os.link(folder / "f", folder / "hard")
    assert sorted(os.listdir(folder)) == ["d", "e", "f"]
    assert (folder / "f").read_text() == "file"


def test_file_moves_over_a_file(folder: Path, disk: Path) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    os.rename(folder / "a", folder / "b")
    assert sorted(os.listdir(disk)) in (["b"], [".upload", "b"])
    assert (folder / "b").read_text() == "a"
    assert not (folder / "a").exists()


def test_directory_moves_over_an_empty_directory_not_into_it(folder: Path, disk: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "x").write_text("x")
    (folder / "b").mkdir()
    os.rename(folder / "a", folder / "b")
    assert (disk / "b" / "x").read_text() == "x"
    assert not (disk / "b" / "a").exists()
    assert not (disk / "a").exists()


def test_directory_moves_with_everything_below(folder: Path, disk: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "x").write_text("x")
    (folder / "c").mkdir()
    with (folder / "a" / "b" / "x").open() as held:
        os.rename(folder / "a", folder / "c" / "a2")
        assert held.read() == "x"
    assert (disk / "c" / "a2" / "b" / "x").read_text() == "x"
    assert (folder / "c" / "a2" / "b" / "x").read_text() == "x"
    assert not (folder / "a").exists()


def test_unsent_file_moves_with_its_directory(folder: Path, disk: Path) -> None:
    (folder / "a").mkdir()
    with (folder / "a" / "x").open("w") as f:
        f.write("written before the move")
        f.flush()
        os.rename(folder / "a", folder / "b")
    assert (disk / "b" / "x").read_text() == "written before the move"
    assert not (disk / "a").exists()


def test_move_of_a_file_that_is_open_for_writing(folder: Path, disk: Path) -> None:
    (folder / "target").write_text("old")
    with (folder / "tmp").open("w") as f:
        f.write("new")
        f.flush()
        os.rename(folder / "tmp", folder / "target")
        f.write(" content")
    assert (disk / "target").read_text() == "new content"
    assert (folder / "target").read_text() == "new content"
    assert not (folder / "tmp").exists()
    assert not (disk / "tmp").exists()


def test_no_replace_is_honoured(folder: Path) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    run("mv", "-n", folder / "a", folder / "b")
    assert (folder / "b").read_text() == "b"
    run("mv", "-n", folder / "a", folder / "c")
    assert (folder / "c").read_text() == "a"


def test_a_directory_made_elsewhere_does_not_swallow_a_move(
    site: Site, folder: Path, disk: Path, tmp_path: Path
) -> None:
    with Mounted(tmp_path, site.env, "--sync", "--dir-ttl", "3600", "--attr-ttl", "3600") as mounted:
        here = mounted.path / folder.name
        (here / "f").write_text("f")
        assert os.listdir(here) == ["f"]
        (disk / "d").mkdir()  # another client; our listing does not know it yet
        with raises(errno.ENOTEMPTY):
            os.rename(here / "f", here / "d")
    assert (disk / "f").read_text() == "f"
    assert os.listdir(disk / "d") == []


def test_moving_to_another_folder_copies(site, folder: Path, disk: Path) -> None:
    other = folder.parent / f"{folder.name}-other"
    other.mkdir()
    try:
        (folder / "f").write_text("content")
        with raises(errno.EXDEV):
            os.rename(folder / "f", other / "f")
        run("mv", folder / "f", other / "f")
        assert (site.disk(other.name) / "f").read_text() == "content"
        assert not (disk / "f").exists()
        (other / "f").unlink()
    finally:
        other.rmdir()


def test_entries_survive_changes_while_a_directory_is_read(folder: Path) -> None:
    for n in range(50):
        (folder / f"f{n}").touch()
    seen = []
    with os.scandir(folder) as entries:
        for n, entry in enumerate(entries):
            seen.append(entry.name)
            if n == 3:
                (folder / "new").touch()
                (folder / "f49").unlink() if "f49" not in seen else None
    assert set(seen) - {"new", "f49"} == {f"f{n}" for n in range(49)}
    assert len(seen) == len(set(seen))


def test_directory_of_more_than_the_scandir_limit(folder: Path, disk: Path) -> None:
    (disk / "big").mkdir()
    for n in range(1200):
        (disk / "big" / f"f{n:04d}").write_text(str(n))
    wait_out_ttl()
    shown = os.listdir(folder / "big")
    assert len(shown) == 1000
    missing = next(f"f{n:04d}" for n in range(1200) if f"f{n:04d}" not in set(shown))
    # Not in a listing that was cut is not the same as missing.
    assert (folder / "big" / missing).read_text() == str(int(missing[1:]))
    assert not (folder / "big" / "f9999").exists()
    (folder / "big" / "f9999").write_text("new")
    assert (disk / "big" / "f9999").read_text() == "new"
    with raises(errno.ENOTEMPTY):
        (folder / "big").rmdir()


def test_statvfs_answers(folder: Path) -> None:
    usage = os.statvfs(folder)
    assert usage.f_namemax == 255
    assert usage.f_bavail > 0


def test_folder_is_made_renamed_and_removed(site, folder: Path) -> None:
    names = lambda: {f["name"] for f in site.owner.ok("GET", "/folders") if f["status"] == "ready"}  # noqa: E731
    made = folder.parent / f"{folder.name}-made"
    renamed = folder.parent / f"{folder.name}-renamed"
    made.mkdir()
    assert made.name in names()
    (made / "x").write_text("x")
    os.rename(made, renamed)
    assert renamed.name in names() and made.name not in names()
    assert (renamed / "x").read_text() == "x"
    with raises(errno.ENOTEMPTY):
        renamed.rmdir()
    (renamed / "x").unlink()
    renamed.rmdir()
    assert renamed.name not in names()
    with raises(errno.EPERM):
        (folder.parent / ".dotted").mkdir()
    with raises(errno.EPERM):
        (folder.parent / "file-in-root").write_text("x")


def test_folder_is_not_deleted_under_an_upload(site, folder: Path) -> None:
    made = folder.parent / f"{folder.name}-made"
    made.mkdir()
    disk = site.disk(made.name)
    (disk / ".upload").mkdir()
    (disk / ".upload" / "0123456789abcdef0123456789abcdef").write_text("half a file")
    with raises(errno.ENOTEMPTY):
        made.rmdir()
    assert disk.is_dir()
    os.utime(disk / ".upload" / "0123456789abcdef0123456789abcdef", (1_700_000_000, 1_700_000_000))
    made.rmdir()  # nobody has sent anything for long: it was broken off
    assert made.name not in os.listdir(folder.parent)
