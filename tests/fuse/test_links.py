"""Symlinks that a session made: the server's calls act on their targets, so we only read through them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.fuse.conftest import wait_out_ttl


@pytest.fixture
def links(folder: Path, disk: Path) -> Path:
    (disk / "target").write_text("content of the target")
    (disk / "dir").mkdir()
    (disk / "dir" / "x").write_text("x")
    for name, to in {"link": "target", "dangling": "nowhere", "dirlink": "dir"}.items():
        (disk / name).symlink_to(to)
    wait_out_ttl()
    return folder


def test_link_shows_as_a_file_of_its_targets_size(links: Path) -> None:
    shown = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(links)}
    assert stat.S_ISREG(shown["link"].st_mode)
    assert shown["link"].st_size == len("content of the target")
    assert shown["dangling"].st_size == 0
    assert (links / "link").read_text() == "content of the target"


def test_link_follows_its_target(links: Path, disk: Path) -> None:
    assert (links / "link").read_text() == "content of the target"
    (disk / "target").write_text("longer content of the target")
    wait_out_ttl()
    assert (links / "link").stat().st_size == len("longer content of the target")
    assert (links / "link").read_text() == "longer content of the target"


def test_link_to_nothing_and_to_a_directory_cannot_be_read(links: Path) -> None:
    for name, code in {"dangling": errno.ENOENT, "dirlink": errno.EISDIR}.items():
        with pytest.raises(OSError) as e:
            (links / name).read_text()
        assert e.value.errno == code


def test_link_is_never_written_moved_or_removed(links: Path, disk: Path) -> None:
    (links / "other").write_text("other")
    for change in (
        lambda: (links / "link").write_text("x"),
        lambda: (links / "link").open("a"),
        lambda: os.truncate(links / "link", 0),
        lambda: (links / "link").unlink(),
        lambda: (links / "dangling").unlink(),
        lambda: os.rename(links / "link", links / "moved"),
        lambda: os.rename(links / "other", links / "link"),
    ):
        with pytest.raises(OSError) as e:
            change()
        assert e.value.errno == errno.EPERM
    assert (disk / "target").read_text() == "content of the target"
    assert (disk / "link").is_symlink()
    for name in ("link", "dangling", "dirlink"):
        (disk / name).unlink()
