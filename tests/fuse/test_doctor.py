"""`vfsmount doctor` and `health` about real mounts: well, small pieces, stopped, dead, covered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.mounting import Mounted, vfsmount
from vfsmount.fuse.mountpoint import device_number

PATIENT = ("--timeout", "20")  # with a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("doctor") / "data", dialect="26") as server:
        server.create_folder("owner", "data")
        yield server


@pytest.fixture
def mounted(server: Embedded, tmp_path: Path) -> Iterator[Mounted]:
    (tmp_path / "cache").mkdir(mode=0o700)
    with Mounted(tmp_path, server.env("owner")) as mounted:
        yield mounted


def diagnosed(mounted: Mounted, server: Embedded) -> dict[str, str]:
    """{cause: level}, without what is so on this machine for every mount."""
    options = ("--state-dir", mounted.state, "--cache-dir", mounted.cache)
    done = vfsmount("doctor", "--json", mounted.path, *options, env=server.env("owner"))
    report = json.loads(done.stdout)
    assert done.stderr == "" and done.returncode == (0 if report["well"] else 1)
    found = {v["cause"]: v["level"] for v in report["checks"] if v["cause"]}
    if found.get("mount-private") == "warn":  # a container
        del found["mount-private"]
    return found


def finds(mounted: Mounted, server: Embedded, wanted: dict[str, str]) -> None:
    """It says this of a mount that is well, unless a busy machine lets nobody answer in its few seconds."""
    eventually(lambda: diagnosed(mounted, server) == wanted, 60)


def health(mounted: Mounted, server: Embedded, *options: str) -> tuple[int, str]:
    """(exit status, what it says)"""
    done = vfsmount("health", mounted.path, "--state-dir", mounted.state, *options, env=server.env("owner"))
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_mount_that_is_well(server: Embedded, mounted: Mounted) -> None:
    setting = Path(f"/sys/class/bdi/{device_number(str(mounted.path))}/read_ahead_kb")
    small = int(setting.read_text()) < 1024
    finds(mounted, server, {"readahead-small": "warn"} if small else {})
    assert health(mounted, server, *PATIENT) == (0, "")
    # The directory of state is for us alone, whatever umask we had.
    assert mounted.state.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set a mount's readahead")
def test_small_readahead_is_found(server: Embedded, mounted: Mounted) -> None:
    Path(f"/sys/class/bdi/{device_number(str(mounted.path))}/read_ahead_kb").write_text("128")
    finds(mounted, server, {"readahead-small": "warn"})


def test_daemon_that_is_stopped_is_found(server: Embedded, mounted: Mounted) -> None:
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        assert diagnosed(mounted, server) == {"mount-hangs": "bad"}
        code, said = health(mounted, server, "--timeout", "0.5")
        assert code == 1 and "does not answer within 0.5 s" in said
    finally:
        os.kill(mounted.pid, signal.SIGCONT)


def test_dead_mount_is_found(server: Embedded, mounted: Mounted) -> None:
    mounted.kill()
    assert diagnosed(mounted, server) == {"dead-mount": "bad"}
    code, said = health(mounted, server)
    assert code == 1 and "does not answer" in said
    subprocess.run(["umount", "-l", mounted.path], check=True)
    assert diagnosed(mounted, server) == {}


def test_unmounted_is_not_well(server: Embedded, mounted: Mounted) -> None:
    assert mounted.stop().returncode == 0
    assert health(mounted, server)[0] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a tmpfs over it")
def test_mount_that_another_one_covers_is_not_well(server: Embedded, mounted: Mounted) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted.path], check=True)
    try:
        code, said = health(mounted, server, *PATIENT)
    finally:
        subprocess.run(["umount", mounted.path], check=True)
    assert code == 1 and "another one lies over it" in said
    assert health(mounted, server, *PATIENT) == (0, "")
