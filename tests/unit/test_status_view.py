"""`status`, `queue` and `log-level` towards people: nothing is cut, nothing is wider than the terminal."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vfsmount import places
from vfsmount.cli import main, show
from vfsmount.cli.status_view import View
from vfsmount.store.mounts import MountRecord, MountRecords, start_time

LONG = "folder/" + "a-long-name-without-an-end-" * 8
UUID = "0a043817-5260-4226-b476-c6dc011b78bc"


def unsent(name: str, **fields: Any) -> dict[str, Any]:
    whole = {"size": 10, "state": "waiting", "age_s": 3.0, "reason": "", "kept_at": "/state/x"}
    return {"name": name, **whole, **fields}


MOUNT: dict[str, Any] = {
    "mountpoint": "/home/me/vfolders",
    "pid": 4242,
    "uptime_s": 300.0,
    "draining": False,
    "unsent_files": 30,
    "unsent_bytes": 5 << 30,
    "oldest_s": 40.0,
    "unsent": [
        unsent(LONG, state="uploading 43%"),
        unsent("folder/\x1b[31mred", reason="the server refuses this, and says so at length"),
    ],
    "removals_pending": 3,
    "conflicts": [{"path": LONG, "kept_as": f"{LONG}.conflict-host-20240101T000000Z", "at": 1.7e9}],
    "partial": [LONG, "big/"],
    "local_only": 2,
    "staging_used": 5 << 30,
    "staging_limit": 10 << 30,
    "calls_left": 23000,
    "folders_total": 40,
    "folders": [
        {"name": "quiet", "id": "a" * 32, "permission": "ro", "unsent_files": 0, "unsent_bytes": 0},
        {
            "name": LONG,
            "id": "b" * 32,
            "permission": "rw",
            "unsent_files": 30,
            "unsent_bytes": 5 << 30,
            "quota_limit": 64 << 20,
            "quota_used": 3 << 19,
        },
    ],
    "budget": {"left": 23000, "limit": 30000, "window_s": 900.0, "waiting": 7},
    "cache": {
        "memory_used": 1 << 20,
        "memory_limit": 128 << 20,
        "directory": "/var/cache/" + "deep/" * 20,
        "disk_used": 1 << 30,
        "disk_limit": 10 << 30,
        "disk_floor": 1 << 30,
        "disk_free": 1 << 20,
    },
    "errors": [
        {
            "at": 0.0,
            "times": 12,
            "what": "upload",
            "name": LONG,
            "error": "RemoteUnavailable",
            "reason": "the server answers 503",
            "request_id": UUID,
        }
    ]
    * 7,
}
REPORT = {
    "mounts": [MOUNT, {"mountpoint": "/mnt/" + "x" * 100, "pid": 1, "error": "no answer within 10 s"}],
    "dead_mounts": ["/mnt/" + "y" * 100],
    "left_behind": {"unsent_files": 1, "unsent": [unsent(LONG)], "removals_pending": 2},
    "unsent_dir_files": 1,
    "error": "the records cannot be read",
}


def shown(monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=True,
        color_system=None,
    )
    monkeypatch.setattr(show, "stdout_console", lambda: console)
    View().report(REPORT, Path("/state"))
    return out.getvalue()


def test_status_fits_80_columns_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(monkeypatch, 80)
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    together = "".join(out.split())
    assert "b" * 32 in out and "30 files, 5.0 GiB" in out  # in one piece
    for text in (
        "\\x1b[31mred",
        "23000 manager calls left of 30000 in 15 min",
        "the disk is full",
        "1.5 MiB of 64.0 MiB stored",
    ):
        assert "".join(text.split()) in together
    assert "and 28 more" in out and "and 38 more" in out and "and 2 more" in out


def test_in_a_pipe_every_name_is_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(monkeypatch, 10_000)
    assert out.count(LONG) >= 7 and f"(request {UUID})" in out
    # Folders with something unsent come first.
    assert out.index("b" * 32) < out.index("a" * 32)


# --- commands that put one question -----------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """A mount on /mnt/x that gives these answers to one request; the list will hold it."""
    listening = places.listen_private(tmp_path / "run" / "s")
    ours = os.getpid()
    record = MountRecord("/mnt/x", ours, start_time(ours), socket=str(tmp_path / "run" / "s"))
    MountRecords(tmp_path).write(record)
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
    listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)
    listening.close()


def test_queue_is_shown_in_order(
    mounted: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = unsent("data/first", state="uploading 5%", next_try_s=None)
    second = unsent("data/second", state="parked", reason="no right", next_try_s=290.0)
    answers = ({"queue": [first]}, {"queue": [second]}, {"done": True, "files": 2, "bytes": 20})
    asked = mounted(*answers)
    assert main(["queue", "/mnt/x", "--state-dir", str(tmp_path)]) == 0
    assert asked == [{"op": "queue"}]
    lines = capsys.readouterr().out.splitlines()
    assert "data/first" in lines[1] and "now" in lines[1]
    assert "data/second" in lines[2] and "in 5 min" in lines[2] and "no right" in lines[2]
    mounted(*answers)
    assert main(["queue", "--json", "--state-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"mountpoint": "/mnt/x", "queue": [first, second]}
    mounted({"done": True, "files": 0, "bytes": 0})
    assert main(["queue", "--state-dir", str(tmp_path)]) == 0
    assert "nothing is on its way" in capsys.readouterr().out


def test_log_level_is_asked_for_and_told(
    mounted: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = mounted({"done": True, "level": "DEBUG", "was": "WARNING"})
    assert main(["log-level", "/mnt/x", "debug", "--state-dir", str(tmp_path)]) == 0
    assert asked == [{"op": "log-level", "level": "debug"}]
    assert capsys.readouterr().out == "/mnt/x: debug (was warning)\n"


@pytest.mark.parametrize("words", [["chatty"], ["/mnt/x", "/mnt/y", "debug"], []])
def test_wrong_log_levels_are_wrong_usage(words: list[str], tmp_path: Path) -> None:
    assert main(["log-level", *words, "--state-dir", str(tmp_path)]) == 2


def test_one_of_several_mounts_has_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "--state-dir", str(tmp_path)]) == 5
    assert "no mount of yours is running" in capsys.readouterr().err
    for name in ("/mnt/a", "/mnt/b"):
        MountRecords(tmp_path).write(MountRecord(name, os.getpid(), start_time(os.getpid())))
    assert main(["queue", "--state-dir", str(tmp_path)]) == 5
    assert "say which: /mnt/a, /mnt/b" in capsys.readouterr().err
