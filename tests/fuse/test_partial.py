"""Directories whose listing the server cuts: what it does not show is there all the same."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuse.conftest import Site, mounted_site, new_folder, wait_out_ttl
from tests.support.mounting import Mounted, vfsmount

SITES = [
    pytest.param(("embedded-23.09", 10), id="23.09-10"),
    pytest.param(("embedded-26", 10), id="26-10"),
    pytest.param(("embedded-23.09", 1000), id="23.09-1000"),
    pytest.param(("embedded-26", 1000), id="26-1000"),
    pytest.param(("live", 1000), id="live-1000", marks=pytest.mark.live),
]


@dataclass
class Cut:
    """A directory of files that a listing shows `limit` of.

    Attributes:
        path, disk: on the mount, and on the server's own disk.
    """

    site: Site
    limit: int
    path: Path
    disk: Path

    @property
    def unlisted(self) -> list[str]:
        """Names that a listing does not show, as the server's disk has them."""
        return sorted(set(os.listdir(self.disk)) - set(os.listdir(self.path)))

    def calls(self) -> int:
        """What the manager was asked for, but for the list of folders and the hosts' usage."""
        assert self.site.embedded is not None
        of_manager = self.site.embedded.calls("manager").items()
        return sum(n for (_, _, route), n in of_manager if route not in ("/folders", "/folders/_/hosts"))


@pytest.fixture(scope="module", params=SITES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, int]]:
    name, limit = request.param
    # With --sync a test sees at once on the server's disk what it has done.
    with mounted_site(tmp_path_factory.mktemp("partial"), name, "--sync", scandir_limit=limit) as site:
        yield site, limit


@pytest.fixture
def cut(server: tuple[Site, int]) -> Iterator[Cut]:
    site, limit = server
    with new_folder(site) as folder:
        disk = site.disk(folder.name) / "d"
        disk.mkdir()
        for n in range(limit * 5 // 4):
            (disk / f"f{n:04d}").write_text(f"content {n}")
        (disk / "sub").mkdir()
        (disk / "sub" / "file").write_text("below")
        wait_out_ttl()
        yield Cut(site, limit, folder / "d", disk)
        shutil.rmtree(disk, ignore_errors=True)
        wait_out_ttl()


def refused(work: Callable[[], object]) -> int:
    with pytest.raises(OSError) as e:
        work()
    return e.value.errno or 0


def test_it_is_shown_as_partial(cut: Cut) -> None:
    assert len(os.listdir(cut.path)) == cut.limit
    assert os.getxattr(cut.path, "user.vfsmount.partial") == b"1"
    assert os.getxattr(cut.path.parent, "user.vfsmount.partial") == b"0"
    (cut.path / cut.unlisted[0]).stat()  # now it has shown that there are more
    where = f"{cut.path.parent.name}/d"
    done = vfsmount("status", cut.site.mounted.path, "--state-dir", cut.site.mounted.state, env=cut.site.env)
    assert where in done.stdout and "partial" in done.stdout
    ino = cut.path.stat().st_ino
    wait_out_ttl()
    os.listdir(cut.path)
    told = [line for line in cut.site.mounted.log.read_text().splitlines() if "listing.partial" in line]
    assert sum(f"ino={ino} " in line for line in told) == 1, "once, when it is known"


def test_unlisted_names_are_found_without_the_manager(cut: Cut, tmp_path: Path) -> None:
    # No listing's time is over meanwhile.
    with Mounted(tmp_path, cut.site.env, "--dir-ttl", "3600", "--attr-ttl", "3600") as mounted:
        path = mounted.path / cut.path.parent.name / "d"
        unlisted = sorted(set(os.listdir(cut.disk)) - set(os.listdir(path)))
        assert (path / unlisted[0]).read_text() == (cut.disk / unlisted[0]).read_text()  # a token, if need be
        if cut.site.embedded:
            cut.site.embedded.reset_calls()
        for name in unlisted[1:30]:
            of_server = (cut.disk / name).stat()
            found = (path / name).stat()
            assert (found.st_mode & 0o170000, found.st_nlink > 0) == (of_server.st_mode & 0o170000, True)
            assert found.st_size == (of_server.st_size if name != "sub" else found.st_size)
        assert (path / "sub" / "file").read_text() == "below"
        for n in range(10):
            assert refused((path / f"missing {n}").stat) == errno.ENOENT
        if cut.site.embedded:
            assert cut.calls() <= 2  # sub's own listing, and a token for a single file


def test_what_was_found_stays_shown(cut: Cut) -> None:
    unlisted = cut.unlisted[:3]
    for name in unlisted:
        (cut.path / name).stat()
    wait_out_ttl()
    assert set(unlisted) <= set(os.listdir(cut.path))
    (cut.disk / unlisted[0]).unlink()
    wait_out_ttl()
    assert set(unlisted) & set(os.listdir(cut.path)) == set(unlisted[1:])
    assert refused((cut.path / unlisted[0]).stat) == errno.ENOENT


def test_creation_knows_what_it_cannot_see(cut: Cut) -> None:
    files = [name for name in cut.unlisted if name != "sub"]
    first, second, third = files[:3]
    assert refused(lambda: os.open(cut.path / first, os.O_CREAT | os.O_EXCL | os.O_WRONLY)) == errno.EEXIST
    assert refused((cut.path / first).mkdir) == errno.EEXIST
    assert refused((cut.path / "sub").mkdir) == errno.EEXIST
    assert refused(lambda: os.symlink("x", cut.path / first)) == errno.EEXIST
    with (cut.path / second).open("a") as file:
        file.write(", and more")
    assert (cut.disk / second).read_text() == f"content {int(second[1:])}, and more"
    (cut.path / "new").write_text("new")
    assert (cut.disk / "new").read_text() == "new"
    os.rename(cut.path / "new", cut.path / third)  # replaces what no listing shows
    assert (cut.disk / third).read_text() == "new" and not (cut.disk / "new").exists()
    assert not [name for name in os.listdir(cut.disk) if "conflict" in name]


def test_it_is_never_taken_for_empty(cut: Cut) -> None:
    shown = [name for name in os.listdir(cut.path) if name != "sub"]
    assert refused(cut.path.rmdir) == errno.ENOTEMPTY
    for name in shown:
        (cut.path / name).unlink()
    assert refused(cut.path.rmdir) == errno.ENOTEMPTY
    (cut.path.parent / "other").mkdir()
    assert refused(lambda: os.rename(cut.path.parent / "other", cut.path)) == errno.ENOTEMPTY
    assert set(shown).isdisjoint(os.listdir(cut.disk)) and len(os.listdir(cut.disk)) > 0


def test_rm_r_goes_on_until_it_is_empty(cut: Cut) -> None:
    """Each round removes what is shown; nothing that was not shown goes with it."""
    for _ in range(4):
        wait_out_ttl()
        before = set(os.listdir(cut.disk))
        shown = set(os.listdir(cut.path))
        done = subprocess.run(["rm", "-r", cut.path], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert "Directory not empty" in done.stderr
        assert before - set(os.listdir(cut.disk)) == shown
    assert done.returncode == 0
    assert not cut.disk.exists() and not cut.path.exists()
