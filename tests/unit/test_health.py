"""``vfsmount health`` keeps its own short ways; they lead where the long ones do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vfsmount import health, places
from vfsmount.__main__ import main
from vfsmount.fuse.mountpoint import device_number
from vfsmount.store.mounts import MountRecord, MountRecords, start_time

ROOT_DEVICE = device_number("/")


@contextmanager
def answering(
    state: Path, mountpoint: str, answer: dict[str, Any] | bytes | None, ended: bool = False
) -> Iterator[None]:
    """A recorded mount whose daemon gives one answer; None: it takes the connection and is silent."""
    path = state / "run" / "control.sock"
    listening = places.listen_private(path)
    ours = os.getpid()
    MountRecords(state).write(MountRecord(mountpoint, ours, start_time(ours), ended=ended, socket=str(path)))
    over = threading.Event()

    def serve() -> None:
        try:
            connection, _ = listening.accept()
        except OSError:  # nobody came
            return
        with connection:
            if answer is None:
                over.wait(20)
                return
            assert json.loads(connection.recv(4096)) == {"op": "hello"}
            connection.sendall(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        listening.close()


def hello(**fields: Any) -> dict[str, Any]:
    return {"protocol": 1, "pid": os.getpid(), "device": ROOT_DEVICE, "draining": False, **fields}


def test_mount_that_answers_and_is_there_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(tmp_path, "/", hello()):
        assert main(["health", "/", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (hello(device="999:999"), "is gone, or another one lies over it"),
        (hello(draining=True), "sends what is left"),
        (hello(pid=1), "is not the one that was recorded"),
        ({"error": "this mount knows no request 'hello'"}, "is not the one that was recorded"),
        (b"half an ans", "does not answer"),
        (b"[]\n", "is not the one that was recorded"),
        (None, "does not answer within 0.2 s"),
    ],
)
def test_mount_that_is_not_well_is_said_to_be_so(
    answer: Any, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timeout = 0.2 if answer is None else 20
    with answering(tmp_path, "/", answer):
        assert main(["health", f"--timeout={timeout}", "--state-dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and why in err and err.startswith("vfsmount: ")


def test_where_nothing_is_mounted_nothing_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--state-dir", str(tmp_path)]) == 1
    assert main(["health", str(tmp_path / "mnt"), "--state-dir", str(tmp_path)]) == 1
    (tmp_path / "mounts").mkdir()
    (tmp_path / "mounts" / "torn.json").write_text('{"mountpoint": "/mnt"')
    (tmp_path / "mounts" / "list.json").write_text("[]")
    assert main(["health", "--state-dir", str(tmp_path)]) == 1
    with answering(tmp_path, "/", hello(), ended=True):
        assert main(["health", "/", "--state-dir", str(tmp_path)]) == 1
    assert "is not a running mount" in capsys.readouterr().err


def test_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    MountRecords(tmp_path).write(MountRecord("/", 1, "1", socket=str(tmp_path / "gone" / "x.sock")))
    assert "does not answer" in health.check("/", str(tmp_path))
    MountRecords(tmp_path).write(MountRecord("/", 1, "1"))
    assert "does not answer" in health.check("/", str(tmp_path))


@pytest.mark.parametrize("words", [["--frobnicate"], ["a", "b"], ["--timeout", "soon"], ["--timeout", "0"]])
def test_wrong_usage_is_clicks(words: list[str]) -> None:
    assert health.quick(words) is None
    assert main(["health", *words]) == 2


def test_help_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--help"]) == 0
    assert "--timeout" in capsys.readouterr().out


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_STATE_HOME": "/var/lib/x"},
        {"XDG_STATE_HOME": ""},
        {"XDG_STATE_HOME": "  "},
        {"XDG_STATE_HOME": "~/x"},
        {"HOME": "/home/somebody"},
    ],
)
def test_state_directory_is_that_of_the_other_commands(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert health.default_state_dir() == str(places.state_dir())


def test_mount_points_are_found_as_the_others_find_them() -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        points = [line.split(" ")[4] for line in f if "\\" not in line.split(" ")[4]]
    for point in points:
        assert health.mounted_device(point) == device_number(point)
    assert health.mounted_device("/nowhere/at/all") is None


def test_records_are_read_as_they_are_written(tmp_path: Path) -> None:
    odd = os.fsdecode(b"/mnt/\xff and \\ more")
    MountRecords(tmp_path).write(MountRecord(odd, 7, "1", socket="/run/x.sock"))
    (found,) = health.read_records(str(tmp_path))
    shown = {"mountpoint": "/mnt/\\xff and \\ more", "pid": 7, "socket": "/run/x.sock"}
    assert found == {**shown, "holder": 0}
    assert "does not answer" in health.check(odd, str(tmp_path))


def test_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from vfsmount.__main__ import main\n"
        f"assert main(['health', '--state-dir', {str(tmp_path)!r}]) == 1\n"
        "heavy = {'click', 'httpx', 'trio', 'pyfuse3', 'rich', 'msgspec', 'ssl', 'platformdirs'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "ours = {m for m in sys.modules if m.startswith('vfsmount')}\n"
        "assert ours == {'vfsmount', 'vfsmount.__main__', 'vfsmount.health'}, ours"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
