"""Open flags, sizes, places in a file, locks and access: system calls on one file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.libc import name_to_handle, open_by_handle
from tests.support.mounting import Mounted, run, vfsmount


def open_fd(path: Path, flags: int, mode: int = 0o644) -> int:
    return os.open(path, flags, mode)


def test_open_flags_do_what_they_say(folder: Path, disk: Path) -> None:
    f = folder / "f"
    fd = open_fd(f, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
    assert os.write(fd, b"0123456789") == 10
    assert os.pread(fd, 20, 0) == b"0123456789"
    os.close(fd)
    assert stat.S_IMODE(f.stat().st_mode) == 0o640
    fd = open_fd(f, os.O_CREAT | os.O_WRONLY, 0o600)  # it exists: neither cut nor given a mode
    os.close(fd)
    assert (f.stat().st_size, stat.S_IMODE(f.stat().st_mode)) == (10, 0o640)
    fd = open_fd(f, os.O_WRONLY | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"end")
    os.close(fd)
    assert f.read_bytes() == b"0123456789end"
    fd = open_fd(f, os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
    os.write(fd, b"anew")
    os.close(fd)
    assert (disk / "f").read_bytes() == b"anew"
    os.close(open_fd(f, os.O_RDONLY | os.O_TRUNC))
    assert f.stat().st_size == 0
    assert (disk / "f").read_bytes() == b""
    os.close(open_fd(folder / "made by a reader", os.O_CREAT | os.O_RDONLY))
    assert (disk / "made by a reader").read_bytes() == b""
    for flag in (os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_CLOEXEC, os.O_NONBLOCK):
        fd = open_fd(f, os.O_WRONLY | flag)
        os.write(fd, b"x")
        os.close(fd)


def test_new_file_without_a_permission_can_be_written_by_who_made_it(folder: Path) -> None:
    """Permission is checked when a file is opened, not when its descriptor is used."""
    fd = open_fd(folder / "f", os.O_CREAT | os.O_WRONLY, 0)
    os.write(fd, b"written")
    os.close(fd)
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0
    (folder / "f").chmod(0o600)
    assert (folder / "f").read_bytes() == b"written"


def test_links_are_followed_or_not_as_asked(folder: Path) -> None:
    (folder / "link").symlink_to("made")
    (folder / "link").write_text("through a dangling link")
    assert (folder / "made").read_text() == "through a dangling link"
    fd = open_fd(folder / "link", os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(fd).st_mode)
    assert os.readlink("", dir_fd=fd) == "made"
    os.close(fd)
    fd = open_fd(folder, os.O_PATH | os.O_DIRECTORY)
    assert os.stat("made", dir_fd=fd).st_size == 23
    inside = os.open("made", os.O_RDONLY, dir_fd=fd)
    assert os.read(inside, 7) == b"through"
    os.close(inside)
    os.close(fd)


def test_umask_is_taken_from_modes(folder: Path) -> None:
    script = "umask 027; cd $1; touch f; mkdir d; mkfifo p; mkdir -m 1777 open"
    run("sh", "-c", script, "sh", folder)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
    assert modes == {"f": 0o640, "d": 0o750, "p": 0o640, "open": 0o1777}


def test_mknod_makes_a_file(folder: Path, disk: Path) -> None:
    os.mknod(folder / "f", stat.S_IFREG | 0o600)
    assert (disk / "f").read_bytes() == b""
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel lets only root make devices")
def test_devices_are_kept_as_names(site: Site, folder: Path, disk: Path, tmp_path: Path) -> None:
    """They exist on this machine, like FIFOs; the mount is `nodev`, so nobody can use one."""
    with Mounted(tmp_path, site.env) as mounted:
        d = mounted.path / folder.name
        os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(d / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
        run("tar", "-cf", tmp_path / "t.tar", "-C", d, ".")
        for _ in range(2):
            null, block = (d / "null").stat(), (d / "disk").stat()
            assert stat.S_ISCHR(null.st_mode)
            assert stat.S_ISBLK(block.st_mode)
            assert null.st_rdev == os.makedev(1, 3)
            assert block.st_rdev == os.makedev(259, 70_000)
            assert mounted.stop().returncode == 0
            mounted.start()
        with pytest.raises(PermissionError):
            (d / "null").open("rb")
        (d / "null").unlink()
        (d / "disk").rename(d / "moved")
        assert os.listdir(d) == ["moved"]
        assert [n for n in os.listdir(disk) if n != ".upload"] == []
        (d / "moved").unlink()


# --- sizes and places ------------------------------------------------------------------------------


def test_size_the_disk_cannot_hold_is_efbig(folder: Path, tmp_path: Path) -> None:
    huge = 1 << 62
    with (tmp_path / "probe").open("wb") as probe:
        try:
            os.ftruncate(probe.fileno(), huge)
        except OSError as e:
            assert e.errno == errno.EFBIG
        else:
            pytest.skip("this machine's disk takes files of 4 EiB")
    (folder / "f").write_text("content")
    with pytest.raises(OSError) as refused:
        os.truncate(folder / "f", huge)
    assert refused.value.errno == errno.EFBIG
    fd = open_fd(folder / "f", os.O_RDWR)
    try:
        with pytest.raises(OSError) as refused:
            os.ftruncate(fd, huge)
        assert refused.value.errno == errno.EFBIG
    finally:
        os.close(fd)
    assert (folder / "f").read_text() == "content"


def test_write_past_what_the_disk_can_hold_is_told(folder: Path, tmp_path: Path) -> None:
    """Written into the kernel's pages first, so it may be fsync that says it; never nobody."""
    with (tmp_path / "probe").open("wb") as probe:
        try:
            os.ftruncate(probe.fileno(), 1 << 62)
        except OSError:
            pass
        else:
            pytest.skip("this machine's disk takes files of 4 EiB")
    (folder / "f").write_text("content")
    fd = open_fd(folder / "f", os.O_RDWR)
    with pytest.raises(OSError) as refused:
        os.pwrite(fd, b"x", 1 << 62)
        os.fsync(fd)
    assert refused.value.errno == errno.EFBIG
    os.ftruncate(fd, 7)
    os.close(fd)
    assert (folder / "f").read_text() == "content"


def test_resource_limit_of_the_writer_holds(folder: Path) -> None:
    script = 'ulimit -f 8; trap "" XFSZ; head -c 100000 /dev/zero > "$1"'
    done = subprocess.run(
        ["bash", "-c", script, "sh", folder / "f"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "File too large" in done.stderr
    assert (folder / "f").stat().st_size == 8192


def test_reads_past_the_end_are_empty(folder: Path) -> None:
    (folder / "f").write_bytes(b"0123456789")
    fd = open_fd(folder / "f", os.O_RDONLY)
    for offset, expected in ((8, b"89"), (10, b""), (11, b""), (1 << 40, b""), (1 << 62, b"")):
        assert os.pread(fd, 100, offset) == expected
    assert os.lseek(fd, 1 << 50, os.SEEK_SET) == 1 << 50
    assert os.read(fd, 1) == b""
    os.close(fd)


def test_holes_are_data_to_who_asks(folder: Path) -> None:
    """SEEK_DATA and SEEK_HOLE know one piece of data and the end: always true, if not helpful."""
    with (folder / "f").open("wb") as f:
        f.write(b"start")
        f.truncate(1 << 20)
        f.seek(1 << 20)
        f.write(b"end")
    size = (1 << 20) + 3
    fd = open_fd(folder / "f", os.O_RDONLY)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    assert os.lseek(fd, 5000, os.SEEK_DATA) == 5000
    assert os.lseek(fd, 0, os.SEEK_HOLE) == size
    assert os.fstat(fd).st_blocks == -(-size // 512)
    os.close(fd)
    run("cp", "--sparse=always", folder / "f", folder / "copy")
    run("cmp", folder / "f", folder / "copy")


def test_copy_file_range_copies(folder: Path, disk: Path) -> None:
    content = os.urandom(300_000)
    (folder / "from").write_bytes(content)
    with (folder / "from").open("rb") as source, (folder / "to").open("wb") as target:
        done = 0
        while done < len(content):
            done += os.copy_file_range(source.fileno(), target.fileno(), len(content) - done)
    assert (disk / "to").read_bytes() == content
    run("cp", "--reflink=auto", folder / "from", folder / "again")
    assert (disk / "again").read_bytes() == content


# --- times -----------------------------------------------------------------------------------------


def test_times_change_when_they_should(folder: Path) -> None:
    f = folder / "f"
    f.write_text("content")

    def after(change: object) -> set[str]:
        before = f.stat()
        time.sleep(0.01)  # a file system's clock ticks every 4 ms
        assert callable(change)
        change()
        now = f.stat()
        return {n for n in ("mtime", "ctime") if getattr(now, f"st_{n}_ns") > getattr(before, f"st_{n}_ns")}

    def write_nothing() -> None:
        fd = open_fd(f, os.O_WRONLY)
        os.write(fd, b"")
        os.close(fd)

    both = {"mtime", "ctime"}
    assert after(lambda: f.write_text("other")) == both
    assert after(lambda: os.truncate(f, 2)) == both
    assert after(lambda: os.truncate(f, 9)) == both
    assert after(lambda: f.chmod(0o600)) == {"ctime"}
    assert after(lambda: os.chown(f, os.getuid(), os.getgid())) == {"ctime"}
    assert after(lambda: os.setxattr(f, "user.x", b"x")) == {"ctime"}
    assert after(lambda: os.removexattr(f, "user.x")) == {"ctime"}
    assert after(lambda: f.read_text()) == set()
    assert after(write_nothing) == set()
    old = f.stat().st_ctime_ns
    time.sleep(0.01)
    f.rename(folder / "g")
    f = folder / "g"
    assert f.stat().st_ctime_ns > old
    atime = f.stat().st_atime_ns
    f.read_text()
    assert f.stat().st_atime_ns == atime, "reading leaves the time of access alone"
    # No time of birth: the server tells none.
    assert run("stat", "-c", "%W", f) in ("0\n", "-\n")


def test_touch_sets_one_time_and_leaves_the_other(folder: Path) -> None:
    f, link = folder / "f", folder / "link"
    f.write_text("x")
    link.symlink_to("f")
    os.utime(f, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    run("touch", "-a", "-d", "@1200000000.5", f)  # UTIME_OMIT for the other
    assert f.stat().st_atime_ns == 1_200_000_000_500_000_000
    assert f.stat().st_mtime_ns == 1_100_000_000_987_654_321
    run("touch", "-m", "-d", "@1300000000", f)
    assert f.stat().st_atime_ns == 1_200_000_000_500_000_000
    assert f.stat().st_mtime_ns == 1_300_000_000 * 10**9
    start = time.time()
    run("touch", "-m", f)  # UTIME_NOW
    assert f.stat().st_atime_ns == 1_200_000_000_500_000_000
    assert abs(f.stat().st_mtime - start) < 60
    run("touch", f)
    assert abs(f.stat().st_atime - start) < 60
    before = f.stat()
    run("touch", "-h", "-d", "@1400000000", link)
    assert link.lstat().st_mtime == 1_400_000_000
    assert f.stat() == before
    run("touch", "-d", "@-86400", f)
    assert f.stat().st_mtime == -86400
    run("touch", "-d", "@4000000000", f)
    assert f.stat().st_mtime == 4_000_000_000


# --- locks and access ------------------------------------------------------------------------------

_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as f:
    try:
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, int(sys.argv[3]), int(sys.argv[2]))
    except OSError:
        sys.exit(1)
"""


def can_lock(path: Path, start: int, length: int) -> bool:
    command = [sys.executable, "-c", _TRY_LOCK, path, str(start), str(length)]
    return subprocess.run(command, check=False, timeout=60).returncode == 0


def test_flock_excludes_other_processes(folder: Path) -> None:
    f = folder / "lock"
    with f.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        taken = ["flock", "-n", f, "true"]
        assert subprocess.run(taken, check=False, timeout=60).returncode == 1
        with f.open() as second, pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(held, fcntl.LOCK_SH)
        assert subprocess.run(["flock", "-sn", f, "true"], check=False, timeout=60).returncode == 0
        waiting = subprocess.Popen(["flock", f, "echo", "got it"], stdout=subprocess.PIPE, text=True)
        fcntl.flock(held, fcntl.LOCK_UN)
        assert waiting.communicate(timeout=60)[0] == "got it\n"


def test_fcntl_locks_exclude_ranges(folder: Path) -> None:
    f = folder / "lock"
    f.write_bytes(bytes(100))
    with f.open("r+b") as held:
        fcntl.lockf(held, fcntl.LOCK_EX, 10, 20)
        assert not can_lock(f, 25, 10)
        assert can_lock(f, 30, 10)
        assert can_lock(f, 0, 20)
        fcntl.lockf(held, fcntl.LOCK_UN, 5, 20)
        assert can_lock(f, 20, 5)
        assert not can_lock(f, 25, 5)
        f.open("rb").close()  # any close of the file by this process lets go of all
        assert can_lock(f, 0, 100)


def test_locks_are_of_this_machine_and_mount(site: Site, folder: Path, tmp_path: Path) -> None:
    (folder / "lock").touch()
    with Mounted(tmp_path, site.env) as elsewhere, (folder / "lock").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        fcntl.lockf(held, fcntl.LOCK_EX)
        other = elsewhere.path / folder.name / "lock"
        assert subprocess.run(["flock", "-n", other, "true"], check=False, timeout=60).returncode == 0
        assert can_lock(other, 0, 100)


def test_access_tells_what_modes_permit(folder: Path) -> None:
    f = folder / "f"
    f.write_text("x")
    f.chmod(0o644)
    assert os.access(f, os.F_OK | os.R_OK | os.W_OK)
    assert not os.access(f, os.X_OK)  # not for root either, where nobody may execute it
    f.chmod(0o700)
    assert os.access(f, os.X_OK)
    assert not os.access(folder / "none", os.F_OK)
    (folder / "dangling").symlink_to("none")
    assert not os.access(folder / "dangling", os.F_OK)
    assert os.access(folder / "dangling", os.F_OK, follow_symlinks=False)
    assert os.access(folder, os.X_OK)


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel lets only root open by handle")
def test_file_handles_mean_the_same_as_long_as_the_mount(site: Site, folder: Path, tmp_path: Path) -> None:
    with Mounted(tmp_path, site.env) as mounted:
        d = mounted.path / folder.name

        def opened(handle: object) -> int:
            root = os.open(mounted.path, os.O_RDONLY)
            try:
                return open_by_handle(root, handle, os.O_RDONLY)  # type: ignore[arg-type]
            finally:
                os.close(root)

        (d / "f").write_text("content")
        (d / "dir").mkdir()
        handles = {name: name_to_handle(d / name) for name in ("f", "dir")}
        (d / "f").rename(d / "dir" / "g")
        for again in (False, True):
            for handle in handles.values():
                os.close(opened(handle))
            fd = opened(handles["f"])
            assert os.read(fd, 100) == b"content"
            os.close(fd)
            if not again:  # the kernel forgets what nobody uses, and has to ask what a handle means
                refreshed = vfsmount("refresh", mounted.path, "--state-dir", mounted.state, env=site.env)
                assert refreshed.returncode == 0, refreshed.stderr
        (d / "dir" / "g").unlink()
        with pytest.raises(OSError) as stale:
            opened(handles["f"])
        assert stale.value.errno == errno.ESTALE
        (d / "f").write_text("another, where it was first")
        with pytest.raises(OSError) as stale:
            opened(handles["f"])
        assert stale.value.errno == errno.ESTALE
        assert mounted.stop().returncode == 0
        mounted.start()
        os.listdir(d)
        for handle in handles.values():
            with pytest.raises(OSError) as stale:
                opened(handle)
            assert stale.value.errno == errno.ESTALE
