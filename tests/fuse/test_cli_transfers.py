"""upload, download and sync of a folder that is mounted here: they wait for what the mount has not sent,
and what they change shows on it at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.mounting import Mounted
from vfsmount.cli import main

STALL = {"action": "stall", "path": "/folders/*/request-upload", "times": 1}


class Site:
    """A folder of the test's own on a mount that believes what it has learnt for an hour."""

    def __init__(
        self, server: Embedded, mounted: Mounted, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.server = server
        self.here = here
        self._mounted = mounted
        self._capsys = capsys
        self.path = mounted.path / f"f{time.monotonic_ns()}"
        self.path.mkdir()
        self.name = self.path.name
        (folder,) = [f for f in server.client("owner").ok("GET", "/folders") if f["name"] == self.name]
        self.disk = server.folder_dir(folder["id"])

    def json(self, *words: str | Path) -> Any:
        """Run a command, here; what it printed as JSON."""
        self._capsys.readouterr()
        status = main([*map(str, words), "--json", "--state-dir", str(self._mounted.state)])
        out, err = self._capsys.readouterr()
        assert status == 0, out + err
        return json.loads(out)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("transfers") / "data", dialect="26") as server:
        yield server


@pytest.fixture(scope="module")
def mounted(server: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    options = ("--dir-ttl", "3600", "--attr-ttl", "3600")
    with Mounted(tmp_path_factory.mktemp("mount"), server.env("owner"), *options) as mounted:
        yield mounted
    assert not mounted.warnings()


@pytest.fixture
def site(
    server: Embedded,
    mounted: Mounted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Site]:
    for name, value in server.env("owner").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield Site(server, mounted, tmp_path, capsys)
    server.clear_faults()


def soon(path: Path, text: str | None) -> None:
    """The kernel is told from a thread of its own, so a moment may pass."""
    eventually(lambda: (path.read_text() if path.exists() else None) == text, deadline_s=30)


def test_what_is_sent_shows_on_the_mount_at_once(site: Site) -> None:
    assert not (site.path / "a").exists() and list(site.path.iterdir()) == []
    (site.here / "a").write_text("one")
    assert site.json("upload", site.name, "a")["files"] == 1
    soon(site.path / "a", "one")
    (site.here / "a").write_text("two!")
    assert site.json("upload", f"{site.path}/", "a")["files"] == 1
    soon(site.path / "a", "two!")
    (site.here / "tree/d").mkdir(parents=True)
    (site.here / "tree/d/x").write_text("x")
    assert site.json("sync", "tree", site.path, "--delete")["deleted"] == 1
    soon(site.path / "a", None)
    soon(site.path / "d/x", "x")


def test_what_the_mount_holds_is_waited_for(site: Site) -> None:
    site.server.faults({"rules": [STALL]})
    (site.path / "new").write_text("from the mount")
    (site.path / "d").mkdir()
    eventually(lambda: site.server.count("POST", "/folders/{vf}/request-upload") > 0)
    assert not (site.disk / "new").exists()
    threading.Timer(1.0, site.server.faults, [{"release": True}]).start()
    assert site.json("download", site.path / "new", "out/")["files"] == 1
    assert (site.here / "out/new").read_text() == "from the mount"


def test_sync_from_and_to_a_path_on_the_mount(site: Site) -> None:
    (site.path / "d").mkdir()
    (site.path / "d/x").write_text("x")
    assert site.json("sync", site.path / "d", "copy")["files"] == 1
    assert (site.here / "copy/x").read_text() == "x"
    (site.here / "copy/y").write_text("y")
    assert site.json("sync", "copy", site.path / "d")["files"] == 1
    soon(site.path / "d/y", "y")
    assert site.json("sync", site.path / "d", "copy")["unchanged"] == 2
