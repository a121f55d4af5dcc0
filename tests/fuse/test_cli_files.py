"""Commands about files of a folder that is mounted here: never past what the mount has not sent, and
what they change shows at once, however long listings are believed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment, vfsmount
from vfsmount.cli import main
from vfsmount.cli.exit_codes import CONFLICT, FAILED, MOUNT, NOT_FOUND, OK, UNSENT, USAGE

LIMIT = 10
STALL = {"action": "stall", "path": "/folders/*/request-upload", "times": None}


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    directory = tmp_path_factory.mktemp("files")
    with Embedded(directory / "data", dialect=request.param, scandir_limit=LIMIT) as server:
        yield server


class Site:
    """A folder of the test's own on a mount that believes what it has learnt for an hour."""

    def __init__(
        self, server: Embedded, mounted: Mounted, name: str, disk: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._capsys = capsys
        self.err = ""
        self.server = server
        self.mounted = mounted
        self.name = name
        self.path = mounted.path / name
        self.disk = disk

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        command = [*VFSMOUNT, *map(str, words), "--state-dir", str(self.mounted.state)]
        env = clean_environment(self.server.env("owner"))
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words: str | Path, code: int = OK) -> str:
        """Run one command, here, which spares the start of a process; what it wrote to stdout."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.server.env("owner").items():
                patch.setenv(name, value)
            found = main([*map(str, words), "--state-dir", str(self.mounted.state)])
        out, self.err = self._capsys.readouterr()
        assert found == code, f"{words}: {found}\n{out}{self.err}"
        return out

    @contextmanager
    def waiting(self, *words: str | Path, code: int = OK) -> Iterator[list[str]]:
        """The command has begun and waits for the mount inside, and ends after that; its output."""
        output: list[str] = []
        with self.start(*words) as child:
            try:
                assert child.stderr is not None
                line = child.stderr.readline()
                assert "waiting until 1 file" in line, line
                assert child.poll() is None
                yield output
            finally:
                self.server.clear_faults()
                out, self.err = child.communicate(timeout=60)
        assert child.returncode == code, f"{words}: {child.returncode}\n{out}{self.err}"
        output.append(out)

    def stall(self) -> None:
        """No upload begins until the faults are cleared."""
        self.server.faults({"rules": [STALL]})

    def on_mount(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def on_disk(self) -> list[str]:
        return sorted(n for n in os.listdir(self.disk) if n != ".upload")


@pytest.fixture(scope="module")
def mounted(server: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    directory = tmp_path_factory.mktemp("mount")
    options = ("--dir-ttl", "3600", "--attr-ttl", "3600")
    with Mounted(directory, server.env("owner"), *options) as mounted:
        yield mounted
    # One test has the server refuse a file.
    assert not [line for line in mounted.warnings() if " upload.parked " not in line]


@pytest.fixture
def site(server: Embedded, mounted: Mounted, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    path = mounted.path / f"f{time.monotonic_ns()}"
    path.mkdir()
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == path.name]
    try:
        yield Site(server, mounted, path.name, server.folder_dir(folder["id"]), capsys)
    finally:
        server.clear_faults()


def soon(shows: Callable[[], object], wanted: object) -> None:
    """The kernel is told from a thread of its own, so a moment may pass."""
    until = time.monotonic() + 30
    while (found := shows()) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    assert found == wanted


# --- what is not sent ----------------------------------------------------------------------------


def test_path_on_the_mount_shows_what_is_unsent(site: Site) -> None:
    site.stall()
    (site.path / "new").write_text("unsent")
    (site.path / "d").mkdir()
    assert site.run("ls", "-1", site.path) == "d\nnew\n"
    assert site.run("cat", site.path / "new") == "unsent"
    assert site.run("cat", site.path / "new", "--offset", "-4", "--length", "3") == "sen"
    assert site.run("du", "-s", site.path) == f"6\t{site.path}\n"
    (entry,) = json.loads(site.run("ls", "--json", site.path / "new"))["entries"]
    assert (entry["folder"], entry["path"], entry["size"]) == (site.name, "new", 6)
    assert "new" not in site.on_disk()


@pytest.mark.parametrize(
    ("words", "shows"), [(["ls", "-1"], "new\n"), (["cat"], "unsent"), (["du", "-s"], "6\t{name}:new\n")]
)
def test_named_folder_is_read_once_the_mount_has_sent(site: Site, words: list[str], shows: str) -> None:
    site.stall()
    (site.path / "new").write_text("unsent")
    with site.waiting(*words, site.name, "new") as output:
        pass
    assert output == [shows.format(name=site.name)]


def test_what_is_unsent_elsewhere_is_not_waited_for(site: Site) -> None:
    (site.path / "there").write_text("sent")
    site.run("wait", site.path)
    site.stall()
    (site.path / "new").write_text("unsent")
    assert site.run("cat", site.name, "there") == "sent"


def test_mv_of_what_is_unsent(site: Site) -> None:
    site.stall()
    (site.path / "a").write_text("unsent")
    with site.waiting("mv", site.name, "a", "b"):
        pass
    assert (site.disk / "b").read_text() == "unsent" and site.on_disk() == ["b"]
    soon(site.on_mount, ["b"])
    site.stall()
    (site.path / "c").write_text("unsent, too")
    with site.waiting("mv", site.path / "c", site.path / "d"):  # through the mount
        assert site.on_mount() == ["b", "d"]
    assert (site.disk / "d").read_text() == "unsent, too" and site.on_disk() == ["b", "d"]


def test_rm_of_what_is_unsent(site: Site) -> None:
    site.stall()
    (site.path / "a").write_text("unsent")
    with site.waiting("rm", site.name, "a"):
        pass
    assert site.on_disk() == []
    soon(site.on_mount, [])
    site.stall()
    (site.path / "b").write_text("unsent")
    site.run("rm", site.path / "b")  # through the mount, where it is all there is
    assert site.on_mount() == [] and site.on_disk() == []


def test_what_the_server_refuses_is_told(site: Site) -> None:
    refuse = {"action": "status", "status": 403, "path": "/folders/*/request-upload", "times": None}
    site.server.faults({"rules": [refuse]})
    (site.path / "new").write_text("refused")
    site.run("cat", site.name, "new", code=UNSENT)
    assert "new is not on the server" in site.err and "nothing was done" in site.err
    site.run("rm", site.path / "new")


def test_file_that_is_open_on_the_mount_while_it_is_removed_is_not_lost(site: Site) -> None:
    (site.path / "log").write_text("one\n")
    site.run("wait", site.path)
    with (site.path / "log").open("a") as log:
        log.write("two\n")
        log.flush()
        site.run("rm", site.name, "log")
        log.write("three\n")
    site.run("wait", site.path)
    kept = [(site.disk / name).read_text() for name in site.on_disk()]
    assert kept == ["one\ntwo\nthree\n"]


# --- what is changed shows -----------------------------------------------------------------------


def test_changes_by_name_show_on_the_mount(site: Site) -> None:
    assert site.on_mount() == []
    site.run("mkdir", site.name, "d", "e")
    soon(site.on_mount, ["d", "e"])
    (site.path / "d" / "x").write_text("x")
    site.run("mv", site.name, "d/x", "e/y")
    soon(lambda: (os.listdir(site.path / "d"), os.listdir(site.path / "e")), ([], ["y"]))
    assert (site.path / "e" / "y").read_text() == "x"
    site.run("rm", "-r", site.name, "e")
    soon(site.on_mount, ["d"])


def test_changes_through_the_mount_are_on_the_server(site: Site) -> None:
    site.run("mkdir", "-p", site.path / "d" / "e")
    site.run("mkdir", site.path / "d", code=CONFLICT)
    (site.path / "d" / "x").write_text("x")
    site.run("mv", site.path / "d" / "x", site.path / "d" / "e")
    assert (site.disk / "d" / "e" / "x").read_text() == "x"
    site.run("mv", site.path / "d" / "e", site.path)
    assert site.on_disk() == ["d", "e"]
    site.run("rm", site.path / "e", code=FAILED)
    site.run("rm", "-r", site.path / "d", site.path / "e")
    assert site.on_disk() == []
    site.run("rm", site.path / "no", code=NOT_FOUND)
    site.run("rm", "-f", site.path / "no")
    site.run("rm", "-r", site.path, code=USAGE)


def test_one_word_on_the_mount_and_one_by_name(site: Site) -> None:
    (site.path / "a").write_text("a")
    site.run("mv", site.path / "a", f"{site.name}:b")
    assert site.on_disk() == ["b"]
    soon(site.on_mount, ["b"])


# --- links, cut listings, ways to name --------------------------------------------------------------


def test_link_of_the_mounts_own_is_a_name_like_others(site: Site) -> None:
    (site.path / "x").write_text("x")
    (site.path / "link").symlink_to("x")
    site.run("mv", site.path / "link", site.path / "other")
    assert os.readlink(site.path / "other") == "x"
    site.run("rm", site.path / "other")
    assert site.on_mount() == ["x"] and (site.path / "x").read_text() == "x"


def test_link_that_a_session_made_keeps_its_target(site: Site) -> None:
    (site.disk / "x").write_text("x")
    (site.disk / "link").symlink_to("x")
    site.run("refresh", site.path)
    soon(site.on_mount, ["link", "x"])
    for words in (
        ["rm", site.path / "link"],
        ["rm", site.name, "link"],
        ["mv", site.path / "link", site.path / "y"],
    ):
        site.run(*words, code=FAILED)
    assert site.on_disk() == ["link", "x"] and (site.path / "link").read_text() == "x"


@pytest.mark.parametrize("way", ["name", "mount"])
def test_rm_recursive_of_directories_that_are_listed_in_part(site: Site, way: str) -> None:
    top = site.path / "d"
    for n in range(2 * LIMIT + 3):
        directory = site.disk / "d" / f"s{n}"
        directory.mkdir(parents=True)
        (site.disk / "d" / f"f{n}").write_text("x")
    for n in range(3 * LIMIT):
        (site.disk / "d" / "s1" / f"x{n}").write_text("x")
    site.run("refresh", site.path)
    site.run("rm", "-r", *((site.name, "d") if way == "name" else (top,)))
    assert site.on_disk() == []
    soon(site.on_mount, [])


def test_paths_are_found_from_where_one_is(site: Site, tmp_path: Path) -> None:
    (site.path / "d").mkdir()
    (site.path / "d" / "x").write_text("x")
    (tmp_path / "link").symlink_to(site.path)
    env = clean_environment({})  # no settings are needed where the mount does it
    for cwd, word in ((site.path, "./d"), (site.path / "d", "."), (site.mounted.path, f"{site.name}/d")):
        done = vfsmount("ls", "-1", word, "--state-dir", site.mounted.state, env=env, cwd=cwd)
        assert (done.returncode, done.stdout) == (OK, "x\n"), done.stderr
    assert site.run("ls", "-1", tmp_path / "link" / "d") == "x\n"
    assert "the mount itself" in site.run("ls", site.mounted.path, code=FAILED) + site.err
    site.run("ls", site.mounted.path / "no-such-folder", code=NOT_FOUND)


def test_folder_that_is_new_is_found_on_the_mount(site: Site) -> None:
    site.server.create_folder("owner", f"{site.name}-new")
    site.run("refresh", site.mounted.path)
    assert site.run("ls", site.mounted.path / f"{site.name}-new") == ""


def test_mount_of_another_server_is_not_taken_for_it(site: Site, tmp_path: Path) -> None:
    """A path on a mount is about the folder that the mount shows, whatever the settings reach."""
    with Embedded(tmp_path / "other", dialect=site.server.dialect) as other:
        ident = other.create_folder("owner", site.name)
        (other.folder_dir(ident) / "x").write_text("the other's")
        (site.path / "x").write_text("the mount's")
        done = vfsmount(
            "mv", site.path / "x", f"{site.name}:y", "--state-dir", site.mounted.state, env=other.env("owner")
        )
        assert done.returncode == FAILED and "different folders" in done.stderr
        done = vfsmount("rm", site.path / "x", "--state-dir", site.mounted.state, env=other.env("owner"))
        assert done.returncode == OK, done.stderr
        assert (other.folder_dir(ident) / "x").read_text() == "the other's"
        assert site.on_disk() == []


def test_mount_that_is_being_taken_down_is_not_gone_through(
    server: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"f{time.monotonic_ns()}"
    ident = server.create_folder("owner", name)
    with Mounted(tmp_path, server.env("owner")) as mounted:
        site = Site(server, mounted, name, server.folder_dir(ident), capsys)
        site.stall()
        (site.path / "x").write_text("unsent")
        umount = site.start("umount", "--lazy", mounted.path)
        eventually(lambda: not os.path.ismount(mounted.path))
        (mounted.path / name).mkdir()
        (mounted.path / name / "x").write_text("of whoever owns the mountpoint")
        site.run("rm", mounted.path / name / "x", code=MOUNT)
        assert (mounted.path / name / "x").exists()
        with site.waiting("cat", name, "x") as output:
            pass
        assert output == ["unsent"]
        assert umount.communicate(timeout=60) and umount.returncode == OK
        (mounted.path / name / "x").unlink()
        (mounted.path / name).rmdir()
        mounted.start()
