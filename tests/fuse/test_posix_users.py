"""Several users of one machine on one mount: who owns what they make, and what others may do with it."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Site
from tests.support.mounting import Mounted, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
ANN, BOB, STAFF = 65_501, 65_502, 65_510
DENIED = "Operation not permitted"


@pytest.fixture
def shared(site: Site, folder: Path) -> Iterator[Mounted]:
    """A mount that lets others in, at a place others can reach; `folder` shows there too."""
    with tempfile.TemporaryDirectory(prefix="vfsmount-test-") as directory:
        os.chmod(directory, 0o755)
        with Mounted(Path(directory), site.env, "--allow-other") as mounted:
            yield mounted


@pytest.fixture
def open_to_all(shared: Mounted, folder: Path) -> Path:
    """The test's folder on that mount, where everybody may write."""
    d = shared.path / folder.name
    d.chmod(0o777)
    return d


def as_user(user: int, script: str, *paths: Path, groups: tuple[int, ...] = ()) -> str:
    """What a shell script of another user says on standard error; empty where all went well."""
    done = subprocess.run(
        ["sh", "-ec", f"umask 022; {script}", "sh", *map(str, paths)],
        user=user,
        group=user,
        extra_groups=groups,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        env={**os.environ, "LC_ALL": "C"},
    )
    assert bool(done.returncode) == bool(done.stderr)
    return done.stderr


def owners(d: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.lstat().st_uid, p.lstat().st_gid) for p in d.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def again(mounted: Mounted) -> None:
    """Unmount and mount anew: only what was recorded is left."""
    assert mounted.stop().returncode == 0
    mounted.start()


def test_who_makes_a_name_owns_it(shared: Mounted, open_to_all: Path) -> None:
    d = open_to_all
    assert as_user(ANN, "cd $1; echo x > f; : > empty; mkdir d; ln -s f link; mkfifo fifo", d) == ""
    (d / "roots").write_text("x")
    for _ in range(2):
        assert owners(d) == {
            **dict.fromkeys(("f", "empty", "d", "link", "fifo"), (ANN, ANN)),
            "roots": (0, 0),
        }
        again(shared)
    assert as_user(ANN, "echo more >> $1/f; rm $1/empty; mv $1/d $1/e; chmod 600 $1/f; rm $1/roots", d) == ""
    assert "Permission denied" in as_user(BOB, "cat $1/f", d)
    assert "Permission denied" in as_user(BOB, ": > $1/e/new", d)
    assert DENIED in as_user(BOB, "chmod 644 $1/f", d)
    assert DENIED in as_user(ANN, f"chown {BOB} $1/f", d)
    assert "Permission denied" in as_user(BOB, "test -w $1/f || { echo Permission denied >&2; exit 1; }", d)


def test_option_says_who_the_mounter_shows_as(site: Site, folder: Path, disk: Path, tmp_path: Path) -> None:
    (disk / "theirs").write_text("x")
    with Mounted(tmp_path, site.env, "--uid", str(ANN), "--gid", str(STAFF)) as mounted:
        d = mounted.path / folder.name
        (d / "mine").write_text("x")
        (d / "dir").mkdir()
        (d / "link").symlink_to("mine")
        assert set(owners(d).values()) == {(ANN, STAFF)}


def test_set_group_id_directory_hands_on_its_group(shared: Mounted, open_to_all: Path) -> None:
    d = open_to_all / "d"
    d.mkdir()
    os.chown(d, ANN, STAFF)
    d.chmod(0o2775)
    assert as_user(ANN, "cd $1; : > f; mkdir -p s/t; ln -s f l", d, groups=(STAFF,)) == ""
    (d / "roots").touch()
    for _ in range(2):
        assert {gid for _, gid in owners(d).values()} == {STAFF}
        assert (d / "s" / "t").stat().st_gid == STAFF
        assert [oct(mode(d / name)) for name in ("f", "s", "s/t")] == ["0o644", "0o2755", "0o2755"]
        again(shared)
    d.chmod(0o775)
    assert as_user(ANN, "mkdir $1/plain", d) == ""
    assert ((d / "plain").stat().st_gid, mode(d / "plain")) == (ANN, 0o755)


def test_sticky_directory_protects_what_others_made(open_to_all: Path) -> None:
    d = open_to_all / "tmp"
    d.mkdir()
    d.chmod(0o1777)
    assert as_user(ANN, "cd $1; : > f; mkdir d; mkfifo fifo; ln -s f link", d) == ""
    for attempt in ("rm -f $1/f", "rmdir $1/d", "mv -f $1/f $1/g", "rm -f $1/fifo", "rm -f $1/link"):
        assert DENIED in as_user(BOB, attempt, d)
    assert as_user(BOB, ": > $1/mine", d) == ""
    assert DENIED in as_user(BOB, "mv -f $1/mine $1/f", d)
    assert as_user(BOB, "mv $1/mine $1/mine2; rm $1/mine2", d) == ""
    assert as_user(ANN, "cd $1; mv f g; rmdir d; rm g fifo link", d) == ""
    assert os.listdir(d) == []


def test_set_id_bits_go_where_they_must(open_to_all: Path) -> None:
    d = open_to_all
    assert as_user(ANN, "echo content > $1/f", d) == ""
    f = d / "f"
    os.chown(f, ANN, STAFF)
    f.chmod(0o6777)
    assert as_user(ANN, "chmod 2755 $1/f", d) == ""
    assert mode(f) == 0o755, "who is not of the group cannot give it set-group-ID"
    assert as_user(ANN, "chmod 2755 $1/f", d, groups=(STAFF,)) == ""
    assert mode(f) == 0o2755
    for change in ("echo more >> $1/f", "truncate -s 3 $1/f", "echo x > $1/f"):
        f.chmod(0o6777)
        assert as_user(BOB, change, d) == ""
        assert mode(f) == 0o777, change
    (d / "new").touch()
    (d / "new").chmod(0o6777)
    direct = "dd if=/dev/zero of=$1/new bs=4096 count=1 oflag=direct conv=notrunc status=none"
    assert as_user(BOB, direct, d) == ""
    # Asks for the mode alone: what else the kernel knows to be old would bring the mode along.
    assert run("stat", "-c", "%a", d / "new") == "777\n"
    f.chmod(0o6755)
    assert as_user(ANN, f"chgrp {STAFF} $1/f", d, groups=(STAFF,)) == ""
    assert mode(f) == 0o755
    directory = d / "dir"
    directory.mkdir()
    directory.chmod(0o6755)
    os.chown(directory, ANN, STAFF)
    assert mode(directory) == 0o6755


def test_who_may_set_times(open_to_all: Path) -> None:
    d = open_to_all
    assert as_user(ANN, ": > $1/f; chmod 666 $1/f; : > $1/mine", d) == ""
    os.utime(d / "f", (1_000_000_000, 1_000_000_000))
    assert DENIED in as_user(BOB, "touch -d @1200000000 $1/f", d)
    assert DENIED in as_user(BOB, "touch -m $1/f", d)  # the present for one, the other left: not the same
    assert (d / "f").stat().st_mtime == 1_000_000_000
    assert as_user(BOB, "touch -c $1/f", d) == ""  # the present for both: who may write may do that
    assert (d / "f").stat().st_mtime > 1_500_000_000
    assert as_user(ANN, "touch -d @1200000000 $1/f", d) == ""
    assert (d / "f").stat().st_mtime == 1_200_000_000
    assert "Permission denied" in as_user(BOB, "touch -c $1/mine", d)
