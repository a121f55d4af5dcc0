"""A mount as a service: what its supervisor is told, and when."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import VFSMOUNT, clean_environment
from tests.support.supervising import FakeSupervisor

WATCHDOG_S = 1.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "data") as server:
        yield server


@contextmanager
def service(
    server: Embedded, directory: Path, supervisor: FakeSupervisor, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """A foreground mount that somebody supervises."""
    daemon = subprocess.Popen(
        # What a holder changes about it is tested with the holder.
        [*VFSMOUNT, directory / "mnt", "-f", "--no-holder", "--state-dir", directory / "state", *options],
        env=clean_environment({**server.env("owner"), **supervisor.environment(WATCHDOG_S)}),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield daemon
    finally:
        daemon.send_signal(signal.SIGCONT)
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
        assert daemon.stderr is not None
        daemon.stderr.close()


def test_ready_means_that_the_mount_answers(server: Embedded, tmp_path: Path) -> None:
    server.create_folder("owner", "data")
    server.faults({"rules": [{"action": "stall", "path": "/folders", "times": None}]})
    with FakeSupervisor(tmp_path) as supervisor, service(server, tmp_path, supervisor) as daemon:
        time.sleep(2)
        assert not supervisor.messages("READY"), "the server has not answered yet"
        server.clear_faults()
        ready = supervisor.wait_for(lambda m: "READY" in m)
        assert os.listdir(tmp_path / "mnt") == ["data"]
        assert ready["MAINPID"] == str(daemon.pid) and ready["STATUS"] == f"mounted on {tmp_path}/mnt"
        daemon.terminate()
        supervisor.wait_for(lambda m: "STOPPING" in m)
        assert daemon.wait(30) == 0


def test_failure_is_told_in_words(tmp_path: Path, server: Embedded) -> None:
    (tmp_path / "mnt").write_text("no directory")
    with FakeSupervisor() as supervisor, service(server, tmp_path, supervisor) as daemon:
        assert daemon.wait(30) == 5
        assert supervisor.wait_for(lambda m: "STATUS" in m)["STATUS"].endswith("is not a directory")
        assert not supervisor.messages("READY")


def test_nobody_says_alive_for_a_mount_that_hangs(server: Embedded, tmp_path: Path) -> None:
    with FakeSupervisor(tmp_path) as supervisor, service(server, tmp_path, supervisor) as daemon:
        supervisor.wait_for(lambda m: "READY" in m)
        daemon.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        time.sleep(2 * WATCHDOG_S)
        assert not supervisor.messages("WATCHDOG", since=stopped_at + WATCHDOG_S / 2)
        daemon.send_signal(signal.SIGCONT)
        supervisor.heard.clear()
        supervisor.wait_for(lambda m: "WATCHDOG" in m)


def test_drain_is_told_and_asks_for_time(server: Embedded, tmp_path: Path) -> None:
    disk = server.folder_dir(server.create_folder("owner", "data"))
    with FakeSupervisor(tmp_path) as supervisor, service(server, tmp_path, supervisor) as daemon:
        supervisor.wait_for(lambda m: "READY" in m)
        server.faults({"rules": [{"action": "stall", "path": "/folders/*/request-upload", "times": None}]})
        (tmp_path / "mnt/data/a").write_bytes(b"unsent")
        supervisor.wait_for(lambda m: m.get("STATUS", "").endswith("; 1 file to be sent"))
        daemon.terminate()
        stopping = supervisor.wait_for(lambda m: "STOPPING" in m)
        assert stopping["STATUS"] == f"unmounted from {tmp_path}/mnt; 1 file to be sent"
        before = len(supervisor.messages("EXTEND_TIMEOUT_USEC"))
        end = time.monotonic() + 30
        while len(supervisor.messages("EXTEND_TIMEOUT_USEC")) < before + 3:
            assert time.monotonic() < end and daemon.poll() is None
            time.sleep(0.05)
        server.clear_faults()
        assert daemon.wait(60) == 0
    assert (disk / "a").read_bytes() == b"unsent"


def test_background_mount_names_the_process_that_stays(server: Embedded, tmp_path: Path) -> None:
    with FakeSupervisor() as supervisor:
        env = clean_environment({**server.env("owner"), **supervisor.environment()})
        options = ["--state-dir", tmp_path / "state"]
        started = subprocess.Popen([*VFSMOUNT, tmp_path / "mnt", *options], env=env)
        ready = supervisor.wait_for(lambda m: "READY" in m)
        assert started.wait(30) == 0
        assert int(ready["MAINPID"]) != started.pid
        os.kill(int(ready["MAINPID"]), signal.SIGTERM)
        supervisor.wait_for(lambda m: "STOPPING" in m)
        subprocess.run([*VFSMOUNT, "umount", tmp_path / "mnt", *options], env=env, check=False, timeout=60)
