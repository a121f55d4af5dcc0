"""Modes, owners, times, extended attributes, links and FIFOs: kept on this machine, across remounts."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.mounting import Mounted, run


@pytest.fixture
def mounted(site: Site, folder: Path, tmp_path: Path) -> Iterator[Mounted]:
    """A mount of the test's own, which it may take down and bring back; `folder` shows there too."""
    with Mounted(tmp_path, site.env, "--dir-ttl", "0.3", "--attr-ttl", "0.3") as mounted:
        yield mounted


def again(mounted: Mounted) -> None:
    """Unmount and mount anew: only what was recorded is left."""
    assert mounted.stop().returncode == 0
    mounted.start()


def test_modes_times_and_owners_survive_a_remount(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (d / "run.sh").chmod(0o750)
    os.utime(d / "run.sh", ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    (d / "dir").mkdir(mode=0o700)
    os.utime(d / "dir", (0, 1_200_000_000))
    (d / "plain").write_text("x")
    if os.geteuid() == 0:
        os.chown(d / "plain", 12345, 54321)
    again(mounted)
    shown = (d / "run.sh").stat()
    assert stat.S_IMODE(shown.st_mode) == 0o750
    assert (shown.st_atime_ns, shown.st_mtime_ns) == (1_000_000_000_123_456_789, 1_100_000_000_987_654_321)
    assert run(d / "run.sh") == "ran\n"
    assert stat.S_IMODE((d / "dir").stat().st_mode) == 0o700
    assert (d / "dir").stat().st_mtime == 1_200_000_000
    if os.geteuid() == 0:
        assert ((d / "plain").stat().st_uid, (d / "plain").stat().st_gid) == (12345, 54321)


def test_time_set_before_close_holds_for_the_version_that_is_sent(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    with (d / "f").open("wb") as f:
        f.write(b"content")
        f.flush()
        os.utime(f.fileno(), (1_000_000_000, 1_000_000_000))
        os.fchmod(f.fileno(), 0o600)
    again(mounted)
    assert (d / "f").stat().st_mtime == 1_000_000_000
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o600


def test_writing_gives_a_new_time_and_keeps_the_mode(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "f").write_text("one")
    (d / "f").chmod(0o755)
    os.utime(d / "f", (1_000_000_000, 1_000_000_000))
    (d / "f").write_text("two")
    for _ in range(2):
        assert (d / "f").stat().st_mtime > 1_500_000_000
        assert stat.S_IMODE((d / "f").stat().st_mode) == 0o755
        again(mounted)


def test_attributes_go_with_the_version_they_were_set_for(mounted: Mounted, folder: Path, disk: Path) -> None:
    d = mounted.path / folder.name
    (d / "f").write_text("ours")
    (d / "f").chmod(0o755)
    os.setxattr(d / "f", "user.note", b"about ours")
    assert mounted.stop().returncode == 0
    (disk / "f").write_text("replaced by somebody else")
    mounted.start()
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o644
    assert os.listxattr(d / "f") == []


def test_attributes_move_with_their_names(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "a" / "b").mkdir(parents=True)
    (d / "a" / "b" / "f").write_text("x")
    (d / "a" / "b" / "f").chmod(0o711)
    (d / "a" / "link").symlink_to("b/f")
    os.rename(d / "a", d / "moved")
    os.rename(d / "moved" / "b" / "f", d / "moved" / "g")
    again(mounted)
    assert stat.S_IMODE((d / "moved" / "g").stat().st_mode) == 0o711
    assert os.readlink(d / "moved" / "link") == "b/f"
    (d / "moved" / "g").unlink()
    (d / "moved" / "g").write_text("a new file of that name")
    assert stat.S_IMODE((d / "moved" / "g").stat().st_mode) == 0o644


def test_symlinks_are_kept_here_and_never_sent(mounted: Mounted, folder: Path, disk: Path) -> None:
    d = mounted.path / folder.name
    (d / "target").write_text("content")
    (d / "link").symlink_to("target")
    (d / "dangling").symlink_to("/no/such/place")
    for _ in range(2):
        assert os.readlink(d / "link") == "target"
        assert (d / "link").read_text() == "content"
        assert os.lstat(d / "dangling").st_size == len("/no/such/place")
        assert stat.S_ISLNK(os.lstat(d / "dangling").st_mode)
        assert sorted(os.listdir(d)) == ["dangling", "link", "target"]
        again(mounted)
    assert {n for n in os.listdir(disk) if n != ".upload"} == {"target"}
    run("ln", "-sfn", "elsewhere", d / "link")
    assert os.readlink(d / "link") == "elsewhere"
    (d / "dangling").unlink()
    again(mounted)
    assert sorted(os.listdir(d)) == ["link", "target"]
    assert os.readlink(d / "link") == "elsewhere"


def test_link_and_file_replace_each_other(mounted: Mounted, folder: Path, disk: Path) -> None:
    d = mounted.path / folder.name
    (d / "file").write_text("file")
    (d / "link").symlink_to("somewhere")
    os.rename(d / "link", d / "file")
    assert os.readlink(d / "file") == "somewhere"
    assert not (disk / "file").exists()
    (d / "new").write_text("new")
    os.rename(d / "new", d / "file")
    again(mounted)
    assert (d / "file").read_text() == "new"
    assert (disk / "file").read_text() == "new"
    assert os.listdir(d) == ["file"]


def test_name_taken_on_the_server_wins_over_a_local_link(mounted: Mounted, folder: Path, disk: Path) -> None:
    d = mounted.path / folder.name
    (d / "name").symlink_to("somewhere")
    (disk / "name").write_text("from a session")
    again(mounted)
    assert (d / "name").read_text() == "from a session"


def test_directory_with_only_a_link_in_it_is_not_empty(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "dir").mkdir()
    (d / "dir" / "link").symlink_to("x")
    with pytest.raises(OSError) as e:
        (d / "dir").rmdir()
    assert e.value.errno == errno.ENOTEMPTY
    run("rm", "-r", d / "dir")
    (d / "dir").mkdir()
    again(mounted)
    assert os.listdir(d / "dir") == []


def test_fifos_and_sockets_work_on_this_machine(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    os.mkfifo(d / "fifo", 0o600)
    writer = subprocess.Popen(["sh", "-c", 'echo through > "$1"', "sh", d / "fifo"])
    assert (d / "fifo").read_text() == "through\n"
    assert writer.wait(20) == 0
    # From inside, because the path of a socket may have 108 bytes only.
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(d):
        listener.bind("socket")
    again(mounted)
    assert stat.S_ISFIFO((d / "fifo").stat().st_mode)
    assert stat.S_IMODE((d / "fifo").stat().st_mode) == 0o600
    assert stat.S_ISSOCK((d / "socket").stat().st_mode)


def test_extended_attributes(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "f").write_text("x")
    (d / "dir").mkdir()
    for path in (d / "f", d / "dir"):
        os.setxattr(path, "user.colour", b"blue\0green")
        os.setxattr(path, "user.empty", b"")
    again(mounted)
    for path in (d / "f", d / "dir"):
        assert os.getxattr(path, "user.colour") == b"blue\0green"
        assert sorted(os.listxattr(path)) == ["user.colour", "user.empty"]
    os.removexattr(d / "f", "user.empty")
    assert os.listxattr(d / "f") == ["user.colour"]
    for name, value, code in (
        ("user.none", None, errno.ENODATA),
        ("trusted.x", b"x", errno.EOPNOTSUPP),
        ("user.vfsmount.state", b"x", errno.EPERM),
    ):
        with pytest.raises(OSError) as e:
            os.setxattr(d / "f", name, value) if value else os.removexattr(d / "f", name)
        assert e.value.errno == code


def test_rsync_twice_transfers_nothing_the_second_time(
    mounted: Mounted, folder: Path, tmp_path: Path
) -> None:
    d = mounted.path / folder.name
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for n in range(10):
        (source / "sub" / f"f{n}").write_text(str(n))
        os.utime(source / "sub" / f"f{n}", (1_600_000_000 + n, 1_600_000_000 + n))
    (source / "sub" / "f3").chmod(0o755)
    (source / "link").symlink_to("sub/f3")
    for path in (source / "sub", source):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    run("rsync", "-a", f"{source}/", d)
    again(mounted)
    assert run("rsync", "-a", "--itemize-changes", f"{source}/", d) == ""


def test_git_keeps_exec_bits_and_links_across_a_remount(mounted: Mounted, folder: Path) -> None:
    repo = mounted.path / folder.name / "repo"
    git = ["git", "-C", repo, "-c", "user.name=T", "-c", "user.email=t@example.org"]
    run("git", "init", "-q", repo)
    (repo / "run.sh").write_text("#!/bin/sh\n")
    (repo / "run.sh").chmod(0o755)
    (repo / "link").symlink_to("run.sh")
    run(*git, "add", ".")
    run(*git, "commit", "-qm", "first")
    again(mounted)
    assert run(*git, "status", "--porcelain") == ""
    assert run(*git, "ls-files", "-s").split()[0::4] == ["120000", "100755"]


def test_virtual_environment_works_on_the_mount(mounted: Mounted, folder: Path) -> None:
    venv = mounted.path / folder.name / "venv"
    run("python3", "-m", "venv", "--without-pip", venv, timeout=300)
    again(mounted)
    code = "import sys; print(sys.prefix)"
    assert run(venv / "bin" / "python", "-c", code).strip() == str(venv)


def test_directory_has_the_time_of_its_last_change(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "dir").mkdir()
    for path in (d / "dir", d):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert path.stat().st_mtime == 1_000_000_000
    again(mounted)
    assert [path.stat().st_mtime for path in (d, d / "dir")] == [1_000_000_000] * 2
    (d / "dir" / "new").write_text("x")
    (d / "other").mkdir()
    for _ in range(2):
        assert all(path.stat().st_mtime > 1_500_000_000 for path in (d, d / "dir"))
        again(mounted)


def test_writing_clears_the_set_id_bits(mounted: Mounted, folder: Path) -> None:
    d = mounted.path / folder.name
    (d / "f").write_text("x")
    (d / "f").chmod(0o6755)
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o6755
    with (d / "f").open("a") as f:
        f.write("more")
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o755
    if os.geteuid() == 0:
        (d / "f").chmod(0o4755)
        os.chown(d / "f", 12345, -1)
        assert stat.S_IMODE((d / "f").stat().st_mode) == 0o755
