"""Daemons that die under programs that read, write, map, list and change names: nobody sees an error."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import WORKLOAD, Embedded
from tests.support.enduring import NAMES, PROGRAMS
from tests.support.mounting import Mounted, vfsmount

BIG = 12 << 20
MANY_DEATHS = json.dumps({"deaths": 10_000})
SHORT, LONG = 15, 100


def eventually_another(mounted: Mounted, pid: int, deadline_s: float = 60) -> int:
    """The daemon that serves after another one."""
    end = time.monotonic() + deadline_s
    while (now := mounted.pid) == pid:
        assert time.monotonic() < end, f"nobody took over\n{mounted.said_lately()}"
        time.sleep(0.01)
    return now


@contextmanager
def programs(top: Path, directory: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """All programs while the body runs; their reports when it is over."""
    stop, copy = directory / "stop", directory / "copy"
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.support.enduring", name, top, copy, stop],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in PROGRAMS
    }
    reports: dict[str, dict[str, Any]] = {}
    try:
        yield reports
        stop.touch()
        for name, process in running.items():
            said, _ = process.communicate(timeout=120)
            died = {"rounds": 0, "longest_s": 0.0, "errors": [f"status {process.returncode}"], "left": {}}
            reports[name] = json.loads(said) if process.returncode == 0 else died
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def kill_daemons(mounted: Mounted, kills: int) -> None:
    """One after the other, at any moment of their lives."""
    chance = random.Random(kills)
    for _ in range(kills):
        time.sleep(chance.uniform(0.05, 1.2))
        pid = mounted.pid
        os.kill(pid, signal.SIGKILL)
        eventually_another(mounted, pid)


@pytest.mark.parametrize("dialect", ["23.09", "26"])
@pytest.mark.parametrize("kills", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def test_nobody_sees_that_daemons_are_killed(
    tmp_path: Path, dialect: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Embedded(tmp_path / "data", dialect=dialect, **WORKLOAD) as server:
        disk = server.folder_dir(server.create_folder("owner", "data"))
        content = random.Random(1).randbytes(BIG)
        (tmp_path / "copy").write_bytes(content)
        (disk / "big").write_bytes(content)
        (disk / "many").mkdir()
        for n in range(NAMES):
            (disk / "many" / f"n{n:03}").write_bytes(bytes(n))
        env = {**server.env("owner"), "VFSMOUNT_HOLDER_TEST": MANY_DEATHS}
        with Mounted(tmp_path, env, "--dir-ttl", "1", holder=True) as mounted:
            holder = mounted.holder
            with programs(mounted.path / "data", tmp_path) as reports:
                kill_daemons(mounted, kills)
            with capsys.disabled():  # to be seen where all goes well, too
                for name, report in reports.items():
                    longest = f"longest wait {report['longest_s']:.2f} s"
                    print(f"\n{dialect}, {kills} kills, {name}: {report['rounds']} rounds, {longest}", end="")
            errors = {name: report["errors"] for name, report in reports.items() if report["errors"]}
            assert not errors, errors
            assert mounted.holder == holder
            status = json.loads(vfsmount("status", "--json", "--state-dir", mounted.state, env=env).stdout)
            assert status["mounts"][0]["takeovers"] == kills and status["mounts"][0]["holder"] == holder
            done = vfsmount("wait", mounted.path, "--state-dir", mounted.state, env=env, timeout=120)
            assert done.returncode == 0, done.stderr
        expected = {name: digest for report in reports.values() for name, digest in report["left"].items()}
        found = {
            str(path.relative_to(disk)): hashlib.sha256(path.read_bytes()).hexdigest()
            for below in ("written", "names")
            for path in sorted((disk / below).rglob("*"))
            if path.is_file()
        }
        assert found == expected
        assert (disk / "big").read_bytes() == content
        assert not list((tmp_path / "state").glob("unsent/*"))
