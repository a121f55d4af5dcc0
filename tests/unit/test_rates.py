"""`vfsmount top`: two looks become rates, and rates a screen that no terminal of 80 columns wraps."""

from __future__ import annotations

import copy
import fcntl
import io
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vfsmount import places
from vfsmount.cli import main
from vfsmount.cli.rates import is_sequel, rates
from vfsmount.cli.top_view import screen
from vfsmount.metrics import Counters
from vfsmount.store.mounts import MountRecord, MountRecords, start_time

LEVELS = {
    "uploads": {"files": 1234, "bytes": 5 << 30, "sending": 8, "failing": 120, "removals": 1200},
    "manager": {"calls_left": 23999, "limit": 30000, "waiting": 120, "in_flight": 4, "concurrency": 8},
    "memory": {"limit": 128 << 20, "held": 1 << 20, "on_its_way": 0},
    "staging": {"used": 999 << 30, "limit": 0},
    "inodes": 1_000_000,
    "open_files": 99_999,
    "open_directories": 1,
}


def look(counters: Counters, uptime_s: float, mountpoint: str = "/mnt/x") -> dict[str, Any]:
    """An answer to {"op": "metrics"}."""
    hello = {"protocol": 1, "pid": 7, "mountpoint": mountpoint, "uptime_s": uptime_s}
    return copy.deepcopy({**hello, **counters.snapshot(), **LEVELS})


def busy(counters: Counters, times: int = 1) -> None:
    for _ in range(times):
        counters.operation("read").took(0.004)
        counters.operation("getxattr").took(0.0002)
        counters.operation("getxattr").failed(61)  # ENODATA
        counters.operation("write").took(0.04)
        counters.operation("write").failed(28)  # ENOSPC
        counters.call("manager", "POST", "/folders/{vf}/request-upload").ended(200, 0.03)
        counters.call("storage", "GET", "/download").ended(404, 0.004)
        counters.memory.gave(300)
        counters.network.gave(100)
        counters.read_bytes += 400
        counters.uploaded_bytes += 10
        counters.lagged(0.0004)


def test_rates_are_of_the_time_between() -> None:
    counters = Counters()
    busy(counters, 5)
    before = look(counters, 10.0)
    busy(counters, 20)
    counters.operation("unlink").running += 1
    found = rates(before, look(counters, 12.0))
    assert found["interval_s"] == 2.0 and found["operations_per_s"] == 30.0
    by_name = {op["name"]: op for op in found["operations"]}
    assert by_name["read"]["per_s"] == 10.0 and 0.0025 <= by_name["read"]["p50_s"] <= 0.005
    assert by_name["getxattr"]["errors_per_s"] == 0.0  # what every ls is full of
    assert by_name["write"]["errors_per_s"] == 10.0
    assert by_name["unlink"]["running"] == 1 and by_name["unlink"]["p99_s"] is None
    calls = {c["name"]: c for c in found["calls"]}
    assert calls["storage GET /download"]["failed_per_s"] == 10.0
    assert calls["manager POST /folders/{vf}/request-upload"]["failed_per_s"] == 0.0
    assert found["bytes_per_s"]["read"] == 4000.0 and found["bytes_per_s"]["uploaded"] == 100.0
    assert found["read_from"] == {"memory": 0.75, "disk": 0.0, "network": 0.25, "staged": 0.0}
    assert json.loads(json.dumps(found)) == found


def test_nothing_happened() -> None:
    counters = Counters()
    before = look(counters, 1.0)
    found = rates(before, look(counters, 2.0))
    assert found["operations_per_s"] == 0 and found["read_from"] is None and found["operations"] == []


def test_another_daemon_is_no_sequel() -> None:
    counters = Counters()
    first, second = look(counters, 1.0), look(counters, 2.0)
    assert is_sequel(first, second) and not is_sequel(second, first)
    assert not is_sequel(first, {**second, "pid": 8})


@pytest.mark.parametrize("height", [24, 12, 5, 60])
@pytest.mark.parametrize("mountpoint", ["/mnt/x", "/mnt/" + "deep-and-long/" * 20, "/mnt/\x1b[31m日本語" * 9])
def test_screen_fits(height: int, mountpoint: str) -> None:
    counters = Counters()
    before = look(counters, 1.0)
    busy(counters, 1000)
    for n in range(40):
        counters.operation(f"operation{n}").took(20.0)
        counters.call("manager", "GET", f"/a/call/of/a/long/name/that/goes/on/{{vf}}/and/on/{n}").ended(0, 31)
    counters.read_bytes += 1 << 50
    found = rates(before, look(counters, 1.001, mountpoint))
    out = io.StringIO()
    console = Console(
        file=out, width=80, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    console.print(screen(found, height=height, note="q quits"))
    lines = out.getvalue().splitlines()
    assert len(lines) <= max(height, 13)  # what Live leaves out of a terminal as low as that
    assert all(Console().measure(line).maximum <= 80 for line in lines)
    assert "\x1b" not in out.getvalue()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A state directory with a mount that answers with counters for as long as it is asked."""
    path = tmp_path / "run" / "s"
    listening = places.listen_private(path)
    ours = os.getpid()
    MountRecords(tmp_path).write(MountRecord("/mnt/x", ours, start_time(ours), socket=str(path)))
    counters, begin = Counters(), time.monotonic()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                assert json.loads(connection.recv(4096)) == {"op": "metrics"}
                busy(counters)
                answer = {**look(counters, time.monotonic() - begin), "pid": ours}
                connection.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield tmp_path
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(20)
    listening.close()


def test_once_as_json_and_for_people(mounted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["top", "--once", "--interval", "0.1", "--state-dir", str(mounted)]
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mountpoint"] == "/mnt/x" and 0 < found["operations_per_s"] < 1000
    assert main(options) == 0
    out = capsys.readouterr().out
    assert "memory 75% net 25%" in out and "q quits" not in out and "\x1b" not in out


def test_without_a_terminal_it_says_what_to_use(mounted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--state-dir", str(mounted)]) == 2
    assert "--once" in capsys.readouterr().err
    assert main(["top", "--json", "--state-dir", str(mounted)]) == 2


@pytest.mark.parametrize("leave", [b"q", b"\x03", "SIGTERM"])
def test_terminal_is_as_before_however_one_leaves(mounted: Path, leave: bytes | str) -> None:
    master, slave = pty.openpty()
    try:
        termios.tcsetwinsize(slave, (24, 80))
        before = termios.tcgetattr(slave)
        command = [sys.executable, "-m", "vfsmount", "top", "--interval", "0.2", "--state-dir", str(mounted)]
        child = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])},
            preexec_fn=take_terminal,
        )
        shown = read_until(master, b"getxattr")
        assert b"\x1b[?1049h" in shown  # a screen of its own
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        if isinstance(leave, bytes):
            os.write(master, leave)
        else:
            child.terminate()
        shown = read_until(master, b"\x1b[?1049l")
        assert b"\x1b[?25h" in shown  # the cursor is back
        _, err = child.communicate(timeout=30)
        assert (child.returncode, err) == (0, b"")
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def take_terminal() -> None:
    """Make standard input the terminal of a session of our own, so that Ctrl-C reaches us."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(fd: int, wanted: bytes) -> bytes:
    """What a terminal is told, up to these bytes."""
    shown, end = b"", time.monotonic() + 30
    while wanted not in shown:
        assert select.select([fd], [], [], max(0, end - time.monotonic()))[0], shown
        shown += os.read(fd, 65536)
    return shown
