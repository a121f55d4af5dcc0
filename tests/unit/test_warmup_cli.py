"""`vfsmount warmup`, `pin` and `unpin` towards people: what they ask a mount, say and end with."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vfsmount import places
from vfsmount.cli import main, warmup
from vfsmount.store.mounts import MountRecord, MountRecords, start_time

HALF = {"files": 1, "files_total": 2, "bytes": 10, "bytes_total": 3000, "fetched": 10}
WHOLE = {"files": 2, "files_total": 2, "bytes": 3000, "bytes_total": 3000, "fetched": 2990}
Say = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Say]:
    """A mount on ``tmp_path/mnt`` that answers one request with these lines; the list will hold it."""
    listening = places.listen_private(tmp_path / "run" / "control.sock")
    ours = os.getpid()
    MountRecords(tmp_path).write(
        MountRecord(
            str(tmp_path / "mnt"), ours, start_time(ours), socket=str(tmp_path / "run" / "control.sock")
        )
    )
    (tmp_path / "mnt").mkdir()
    threads: list[threading.Thread] = []

    def say(*answers: dict[str, Any]) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                asked.append(json.loads(lines.readline()))
                connection.sendall(b"".join(json.dumps(a).encode() + b"\n" for a in answers))

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return asked

    yield say
    for thread in threads:
        thread.join(10)
    listening.close()


def test_warmup_asks_the_mount_of_its_paths(
    mounted: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = mounted(HALF, {"done": True, **WHOLE})
    paths = [str(tmp_path / "mnt" / "data"), str(tmp_path / "mnt" / "other" / "x")]
    assert main(["warmup", "-r", *paths, "--state-dir", str(tmp_path)]) == 0
    assert asked == [{"op": "warmup", "paths": ["data", "other/x"], "recursive": True, "pin": False}]
    said = capsys.readouterr()
    assert said.out == "2 files, 2.9 KiB; 2.9 KiB fetched\n" and said.err == ""


def test_progress_is_told_in_lines_where_nobody_watches(
    mounted: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "_SAID_EVERY_S", 0.0)
    mounted(HALF, {"done": True, **WHOLE})
    assert main(["warmup", str(tmp_path / "mnt"), "--state-dir", str(tmp_path)]) == 0
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("vfsmount: 1 of 2 files, 10 B of 2.9 KiB, ") and line.endswith(" s left")


def test_pin_asks_for_more_than_warmup(mounted: Say, tmp_path: Path) -> None:
    asked = mounted({"done": True, **WHOLE})
    assert main(["pin", str(tmp_path / "mnt" / "data"), "--state-dir", str(tmp_path)]) == 0
    assert asked == [{"op": "warmup", "paths": ["data"], "recursive": False, "pin": True}]


@pytest.mark.parametrize(("unreachable", "status"), [(False, 1), (True, 4)])
def test_what_failed_is_named_and_shows_in_the_exit_status(
    mounted: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str], unreachable: bool, status: int
) -> None:
    failed = [{"name": f"data/f{n}", "reason": "no\x1b[2J room"} for n in range(30)]
    mounted(
        {"warning": "too much"},
        {"failed": failed, "failed_files": 5000, "unreachable": unreachable, **WHOLE},
    )
    assert main(["warmup", str(tmp_path / "mnt"), "--state-dir", str(tmp_path)]) == status
    said = capsys.readouterr()
    first, *named, rest = said.err.splitlines()
    assert first == f"vfsmount: {tmp_path}/mnt: too much"
    assert named[0] == f"vfsmount: not in the cache: {tmp_path}/mnt/data/f0 (no\\x1b[2J room)"
    assert len(named) == 20 and rest == "vfsmount: and 4980 more"
    assert said.out == "2 files, 2.9 KiB, 5000 failed; 2.9 KiB fetched\n"


def test_json_passes_on_what_the_mount_says(
    mounted: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted(HALF, {"done": True, **WHOLE})
    assert main(["warmup", "--json", str(tmp_path / "mnt"), "--state-dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    mountpoint = {"mountpoint": f"{tmp_path}/mnt"}
    assert [json.loads(line) for line in said.out.splitlines()] == [
        {**mountpoint, **HALF},
        {**mountpoint, "done": True, **WHOLE},
    ]
    assert said.err == ""


def test_list_of_pins(mounted: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = mounted(
        {"pins": [{"name": "data/a", "size": 5}, {"name": "data/b\n", "size": 3 << 20}]}, {"done": True}
    )
    assert main(["pin", "--list", "--state-dir", str(tmp_path)]) == 0
    assert asked == [{"op": "pins"}]
    assert capsys.readouterr().out == f"{tmp_path}/mnt/data/a  5 B\n{tmp_path}/mnt/data/b\\n  3.0 MiB\n"


def test_unpin_says_how_many(mounted: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = mounted({"done": True, "files": 1})
    assert main(["unpin", "-r", str(tmp_path / "mnt" / "data"), "--state-dir", str(tmp_path)]) == 0
    assert asked == [{"op": "unpin", "paths": ["data"], "recursive": True}]
    assert capsys.readouterr().out == "1 file unpinned\n"


@pytest.mark.parametrize("command", ["warmup", "pin", "unpin"])
def test_path_on_no_mount_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path), "--state-dir", str(tmp_path)]) == 5
    assert "is not on a running mount" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["warmup", "pin", "unpin"])
def test_nothing_named_is_wrong_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2


def test_pins_without_a_mount_are_shown_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pin", "--list", "--state-dir", str(tmp_path)]) == 5
    assert "vfsmount cache info" in capsys.readouterr().err
