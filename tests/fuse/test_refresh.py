"""What somebody else changed shows at once where it is asked for, however long listings are believed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, vfsmount


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("refresh") / "data", dialect=request.param) as server:
        server.create_folder("owner", "data")
        yield server


@pytest.fixture
def disk(server: Embedded) -> Iterator[Path]:
    """The folder on the server's disk: ``top``, and ``a/old`` and ``b/old``."""
    (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == "data"]
    disk = server.folder_dir(folder["id"])
    for name in ("a/old", "b/old", "top"):
        (disk / name).parent.mkdir(exist_ok=True)
        (disk / name).write_text("old")
    yield disk
    subprocess.run(["rm", "-rf", disk / "a", disk / "b", disk / "top"], check=True)


@pytest.fixture
def mounted(server: Embedded, disk: Path, tmp_path: Path) -> Iterator[Mounted]:
    """A mount that believes what it has learnt for an hour, and has learnt everything."""
    with Mounted(tmp_path, server.env("owner"), "--dir-ttl", "3600", "--attr-ttl", "3600") as mounted:
        read_all(mounted)
        yield mounted
    assert not mounted.warnings()


def read_all(mounted: Mounted) -> dict[str, str]:
    top = mounted.path / "data"
    return {str(p.relative_to(top)): p.read_text() for p in sorted(top.rglob("*")) if p.is_file()}


def change(disk: Path) -> None:
    for name in ("a", "b"):
        (disk / name / "new").write_text("new")
        (disk / name / "replaced").write_text("replaced")
        (disk / name / "replaced").rename(disk / name / "old")
    (disk / "top").unlink()


BEFORE = {"a/old": "old", "b/old": "old", "top": "old"}
AFTER = {"a/new": "new", "a/old": "replaced", "b/new": "new", "b/old": "replaced"}


def refresh(mounted: Mounted, server: Embedded, *paths: Path) -> None:
    done = vfsmount("refresh", *paths, "--state-dir", mounted.state, env=server.env("owner"))
    assert (done.returncode, done.stderr) == (0, "")


def soon(shows: Callable[[], dict[str, str]], wanted: dict[str, str]) -> None:
    """The kernel is told from a thread of its own, so a moment may pass."""
    until = time.monotonic() + 30
    while (found := shows()) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    assert found == wanted


def test_refresh_shows_what_has_changed(server: Embedded, mounted: Mounted, disk: Path) -> None:
    change(disk)
    assert read_all(mounted) == BEFORE
    refresh(mounted, server)
    soon(lambda: read_all(mounted), AFTER)


def test_refresh_of_a_path_asks_for_nothing_else(server: Embedded, mounted: Mounted, disk: Path) -> None:
    change(disk)
    server.reset_calls()
    refresh(mounted, server, mounted.path / "data" / "a")
    listed = {name: sorted(os.listdir(mounted.path / "data" / name)) for name in ("a", "b")}
    assert listed == {"a": ["new", "old"], "b": ["old"]}
    assert server.count("GET", "/folders/{vf}/files") == 1


def test_hangup_refreshes_a_background_mount(mounted: Mounted, disk: Path) -> None:
    change(disk)
    os.kill(mounted.pid, signal.SIGHUP)
    soon(lambda: read_all(mounted), AFTER)
    assert os.path.ismount(mounted.path)


def test_refresh_leaves_what_is_unsent_and_open(server: Embedded, mounted: Mounted, disk: Path) -> None:
    server.faults({"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]})
    try:
        path = mounted.path / "data" / "a" / "mine"
        with path.open("w+") as f:
            f.write("un")
            f.flush()
            refresh(mounted, server)
            f.write("sent")
            f.flush()
            f.seek(0)
            assert f.read() == "unsent"
        refresh(mounted, server)
        assert path.read_text() == "unsent" and "mine" in os.listdir(path.parent)
    finally:
        server.clear_faults()
    assert os.getxattr(path, "user.vfsmount.wait") == b"1"
    assert (disk / "a" / "mine").read_text() == "unsent"


def test_refresh_elsewhere_says_so(mounted: Mounted, server: Embedded, tmp_path: Path) -> None:
    done = vfsmount("refresh", tmp_path, "--state-dir", mounted.state, env=server.env("owner"))
    assert done.returncode != 0 and "is not on a running mount" in done.stderr
