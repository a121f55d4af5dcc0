"""What a directory shows of itself: link counts, `.` and `..`, places in a reading, times."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.fuse.conftest import Site, wait_out_ttl
from tests.fuse.test_calls import manager_calls
from tests.support.libc import DirStream
from tests.support.mounting import Mounted, run


def nlink(path: Path) -> int:
    return path.stat().st_nlink


def known_nlink(path: Path) -> int:
    """As `nlink`; where that is not known because a busy server took longer than a listing is believed,
    after another look."""
    end = time.monotonic() + 30
    while (count := nlink(path)) == 1 and time.monotonic() < end:
        os.listdir(path)
        time.sleep(0.6)  # longer than the kernel believes attributes
    return count


def test_link_count_is_two_and_the_subdirectories(folder: Path) -> None:
    d, other = folder / "d", folder / "other"
    for path in (d, other, d / "a", d / "b"):
        path.mkdir()
    (d / "file").touch()
    (d / "link").symlink_to("a")
    assert (known_nlink(d), known_nlink(other), known_nlink(d / "a")) == (4, 2, 2)
    (d / "b").rename(other / "b")
    assert (known_nlink(d), known_nlink(other)) == (3, 3)
    (d / "a").rename(other / "b")  # replaces an empty one
    assert (known_nlink(d), known_nlink(other)) == (2, 3)
    (other / "b").rmdir()
    assert known_nlink(other) == 2
    with os.scandir(folder) as entries:
        assert {e.name: known_nlink(Path(e.path)) for e in entries} == {"d": 2, "other": 2}


def test_link_count_is_one_where_it_is_not_known(
    site: Site, folder: Path, disk: Path, tmp_path: Path
) -> None:
    """1 says "not counted": programs that would stop looking after so many subdirectories go on."""
    (disk / "d" / "sub").mkdir(parents=True)
    wait_out_ttl()
    with Mounted(tmp_path, site.env, "--dir-ttl", "3600", "--attr-ttl", "3600") as patient:
        os.listdir(patient.path / folder.name)
        if site.embedded:
            site.embedded.reset_calls()
        assert nlink(patient.path / folder.name / "d") == 1
        if site.embedded:
            assert not manager_calls(site.embedded), "a count is not worth a call"
    assert run("find", folder, "-type", "d", "-name", "sub") == f"{folder}/d/sub\n"
    wait_out_ttl()
    assert nlink(folder / "d") in (1, 3)
    (disk / "d" / "later").mkdir()
    wait_out_ttl()
    wait_out_ttl()
    assert nlink(folder / "d") == 1
    found = run("perl", "-MFile::Find", "-e", "find(sub { print qq($_\n) if -d }, @ARGV)", folder / "d")
    assert sorted(found.split()) == [".", "later", "sub"]


def test_dot_and_dot_dot_are_entries_with_their_numbers(folder: Path) -> None:
    (folder / "d" / "e").mkdir(parents=True)
    for path in (folder.parent, folder, folder / "d", folder / "d" / "e"):
        with DirStream(path) as stream:
            numbers = dict(stream)
        assert numbers["."] == path.stat().st_ino
        if path != folder.parent:  # that one's `..` is another file system's
            assert numbers[".."] == path.parent.stat().st_ino == os.stat(f"{path}/..").st_ino
    (folder / "d" / "e").rename(folder / "e")
    with DirStream(folder / "e") as stream:
        assert dict(stream)[".."] == folder.stat().st_ino
    assert os.stat(f"{folder}/e/../d/.").st_ino == (folder / "d").stat().st_ino


@pytest.mark.parametrize("count", [7, 700])  # one reply of the kernel's, and several
def test_place_in_a_directory_is_found_again(folder: Path, count: int) -> None:
    for n in range(count):
        (folder / f"{n:04d}{'x' * 60}").symlink_to("nowhere")  # quickest to make
    with DirStream(folder) as stream:
        places = [stream.tell()]
        names = []
        for name, _ in stream:
            names.append(name)
            places.append(stream.tell())
        assert len(set(names)) == count + 2
        for at in (count // 2, 0, count - 1, 3):
            stream.seek(places[at])
            assert stream.names() == names[at:]
        (folder / names[4]).unlink()
        (folder / "new").symlink_to("nowhere")
        stream.seek(places[5])
        assert stream.names() == names[5:], "a place means the same while names come and go"
        stream.rewind()
        assert set(stream.names()) == {*names, "new"} - {names[4]}


def test_removed_directory_is_empty_to_who_has_it_open(folder: Path) -> None:
    (folder / "d").mkdir()
    with DirStream(folder / "d") as stream:
        (folder / "d").rmdir()
        assert set(stream.names()) <= {".", ".."}
    fd = os.open(folder, os.O_RDONLY)
    try:
        (folder / "e").mkdir()
        inside = os.open("e", os.O_RDONLY, dir_fd=fd)
        (folder / "e").rmdir()
        assert os.fstat(inside).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
        os.close(inside)
    finally:
        os.close(fd)


def changed(path: Path) -> tuple[int, int]:
    shown = path.stat()
    return shown.st_mtime_ns, shown.st_ctime_ns


def test_directory_is_newer_after_each_change_of_its_names(folder: Path) -> None:
    d, other = folder / "d", folder / "other"
    d.mkdir()
    other.mkdir()
    changes = {
        "create": lambda: (d / "f").touch(),
        "mkdir": lambda: (d / "sub").mkdir(),
        "symlink": lambda: (d / "link").symlink_to("f"),
        "mkfifo": lambda: os.mkfifo(d / "fifo"),
        "rename": lambda: (d / "f").rename(d / "g"),
        "rename away": lambda: (d / "g").rename(other / "g"),
        "rename back": lambda: (other / "g").rename(d / "g"),
        "unlink": lambda: (d / "g").unlink(),
        "rmdir": lambda: (d / "sub").rmdir(),
    }
    for name, change in changes.items():
        before, elsewhere = changed(d), changed(other)
        time.sleep(0.01)  # a file system's clock ticks every 4 ms
        change()
        assert all(new > old for new, old in zip(changed(d), before, strict=True)), name
        if "away" in name or "back" in name:
            assert all(new > old for new, old in zip(changed(other), elsewhere, strict=True)), name
        else:
            assert changed(other) == elsewhere, name
    before = changed(d)
    (d / "fifo").chmod(0o600)
    (d / "link").lstat()
    assert changed(d) == before


def test_moving_a_directory_on_the_mount_below_a_working_directory(folder: Path) -> None:
    """Who works in a directory stays in it when it moves, and `..` is where it is then."""
    (folder / "a" / "work").mkdir(parents=True)
    (folder / "b").mkdir()
    script = 'cd "$1/a/work" && mv "$1/a/work" "$1/b/moved" && echo x > f && cd -P .. && pwd'
    done = subprocess.run(
        ["sh", "-c", script, "sh", folder], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == f"{folder}/b"
    assert (folder / "b" / "moved" / "f").read_text() == "x\n"


def test_path_may_be_as_long_as_the_server_takes(folder: Path) -> None:
    """The server takes whole paths, with its own before ours: fewer than the 4095 bytes of PATH_MAX."""
    fds = [os.open(folder, os.O_RDONLY)]
    name = "n" * 200
    try:
        with pytest.raises(OSError) as refused:
            while len(fds) < 30:
                os.mkdir(name, dir_fd=fds[-1])
                fds.append(os.open(name, os.O_RDONLY, dir_fd=fds[-1]))
        # 26.x does not tell why it failed.
        assert refused.value.errno in (errno.ENAMETOOLONG, errno.EIO)
        assert len(fds) > 15, "some 3,000 bytes are taken"
        with open("f", "w", opener=lambda n, flags: os.open(n, flags, dir_fd=fds[-1])) as f:
            f.write("at the very bottom")
        assert os.stat("f", dir_fd=fds[-1]).st_size == 18
    finally:
        for fd in fds:
            os.close(fd)
    run("rm", "-r", folder / name)
    assert os.listdir(folder) == []


def test_name_that_cannot_be_removed_keeps_no_other(
    site: Site, folder: Path, disk: Path, tmp_path: Path
) -> None:
    """26.x answers 500 to a path that is too long; the call that says so may have named others too."""
    with Mounted(tmp_path, site.env, "--sync") as mounted:
        d = mounted.path / folder.name
        deep = [os.open(d, os.O_RDONLY)]
        try:
            with pytest.raises(OSError):
                while len(deep) < 30:
                    os.mkdir("n" * 200, dir_fd=deep[-1])
                    deep.append(os.open("n" * 200, os.O_RDONLY, dir_fd=deep[-1]))
            # Recorded, and tried in vain, so that it may have arrived for all we know.
            fd = os.open("f" * 200, os.O_CREAT | os.O_WRONLY, dir_fd=deep[-1])
            with pytest.raises(OSError):
                os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink("f" * 200, dir_fd=deep[-1])
        finally:
            for fd in deep:
                os.close(fd)
        for n in range(5):
            (d / f"{n}").write_text("x")
        for n in range(5):
            (d / f"{n}").unlink()
        assert not [name for name in os.listdir(disk) if name.isdigit()]
        (d / "4").mkdir()
        assert (disk / "4").is_dir()
