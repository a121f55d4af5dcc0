"""Transfers that are stopped in the middle go on where they were: kill -9, Ctrl-C, a line that is cut."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.commands import User, content, kill_when, user_of
from tests.support.cutproxy import CutProxy
from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from vfsmount.transfer.segments import LINES, SEGMENT

Capsys = pytest.CaptureFixture[str]
SIZE = 256 << 20
LOOKS = 2  # at a file, before its bytes are asked for
PIECE = 16 << 20  # of an upload: what 26.x forgets of a request that broke


@pytest.fixture
def me(both: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> User:
    return user_of(both, tmp_path, monkeypatch, capsys)


@pytest.fixture
def line(both: Embedded, me: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[CutProxy]:
    """The way to the storage-proxy."""
    name, _ = fresh(both)
    storage = urlsplit(both.client("owner").grant(name, ".")[0])
    with CutProxy(f"http://{storage.netloc}") as found:
        mapped = f"http://{storage.netloc}={found.url}"
        me.env["BACKEND_OVERRIDE_STORAGE_PROXY"] = mapped
        monkeypatch.setenv("BACKEND_OVERRIDE_STORAGE_PROXY", mapped)
        yield found


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def noise(path: Path, size: int) -> Path:
    """A file that is nowhere like itself."""
    with path.open("wb") as file:
        for n in range(size >> 20):
            file.write(hashlib.sha256(str(n).encode()).digest() * (1 << 15))
    return path


def test_upload_killed_five_times_is_not_sent_again(me: User, both: Embedded, line: CutProxy) -> None:
    name, ident = fresh(both)
    file = noise(me.here / "big", SIZE)
    for kill in range(1, 6):
        line.hold_at(kill * (40 << 20))
        process = me.start("upload", name, "big")
        line.wait_held()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        line.cut()  # the kernel closes its connections
        line.restore()
        line.hold_at(None)
    out, _ = me.run("upload", name, "big")
    assert "1 file sent" in out
    assert digest(both.folder_dir(ident) / "big") == digest(file)
    sent = both.report()["uploads"]["big"]
    assert sent["sessions"] == 1
    assert line.sent_up <= SIZE + 5 * PIECE + (2 << 20), f"{line.sent_up - SIZE} too many"
    assert me.json("sync", me.here, f"{name}:")["unchanged"] == 1


def test_upload_of_a_file_that_was_changed_since_begins_anew(
    me: User, both: Embedded, line: CutProxy
) -> None:
    name, ident = fresh(both)
    file = noise(me.here / "big", 64 << 20)
    line.hold_at(20 << 20)
    process = me.start("upload", name, "big")
    line.wait_held()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    line.hold_at(None)
    with file.open("r+b") as changed:
        changed.write(b"another beginning")
    me.run("upload", name, "big")
    assert digest(both.folder_dir(ident) / "big") == digest(file)
    assert not list((both.folder_dir(ident)).glob(".upload/*"))


def test_ctrl_c_says_how_to_go_on_and_the_next_one_does(me: User, both: Embedded, line: CutProxy) -> None:
    name, ident = fresh(both)
    file = noise(me.here / "big", 64 << 20)
    line.hold_at(36 << 20)
    process = me.start("upload", name, "big", "--json")
    line.wait_held()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "goes on where" in err and json.loads(out)["stopped"]
    line.hold_at(None)
    assert me.json("upload", name, "big")["files"] == 1
    assert both.report()["uploads"]["big"]["sessions"] == 1
    assert digest(both.folder_dir(ident) / "big") == digest(file)


def test_many_files_killed_in_the_middle_leave_no_content_behind(
    me: User, both: Embedded, line: CutProxy
) -> None:
    name, ident = fresh(both)
    source = me.here / "many"
    source.mkdir()
    for n in range(60):
        (source / f"f{n}").write_bytes(os.urandom(100_000))
    line.hold_at(2_000_000)
    process = me.start("upload", name, "many")
    line.wait_held()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    line.hold_at(None)
    me.run("sync", source, f"{name}:many")
    assert content(both.folder_dir(ident) / "many") == content(source)
    # Sessions that the server had begun, and whose beginning nobody lived to hear of: nothing was sent yet.
    assert [p for p in both.folder_dir(ident).glob(".upload/*") if p.stat().st_size] == []


def few_downloads(times: int, delay_ms: float = 0.0) -> dict[str, object]:
    """Only so many downloads are answered, so that a command is in the middle whenever it is stopped."""
    some = {"action": "delay", "method": "GET", "path": "/download", "delay_ms": delay_ms, "times": times}
    return {"clear": True, "rules": [some, {**some, "action": "stall", "times": None}]}


def part_of(directory: Path) -> Path | None:
    return next(iter(directory.glob(".vfsmount-*.part")), None)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_download_stopped_again_and_again_goes_on(me: User, both: Embedded, how: signal.Signals) -> None:
    name, ident = fresh(both)
    size, step, at_once = 128 << 20, 20 << 20, LINES * SEGMENT
    there = noise(both.folder_dir(ident) / "big", size)
    for kill in range(1, 4):
        # Enough for a step and what the last kill may have cost; three times that is not all of the file.
        both.faults(few_downloads(LOOKS + (step + at_once) // SEGMENT + 1, delay_ms=200))
        process = me.start("download", name, "big")

        def ripe(least: int = kill * step) -> bool:
            part = part_of(me.here)
            return part is not None and part.stat().st_blocks * 512 > least

        if how is signal.SIGKILL:
            kill_when(process, ripe)
        else:
            eventually(ripe, deadline_s=120)
            process.send_signal(how)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 130 and "goes on where" in err
        assert not (me.here / "big").exists()
    both.clear_faults()
    found = me.json("download", name, "big")
    # What was under way when it was stopped may come again: a segment on each of its lines.
    assert found["carried_bytes"] <= size - (3 * step - at_once)
    assert digest(me.here / "big") == digest(there)
    assert [p.name for p in me.here.iterdir()] == ["big"]


def test_download_begins_anew_where_another_version_is_there_by_then(me: User, both: Embedded) -> None:
    name, ident = fresh(both)
    there = noise(both.folder_dir(ident) / "big", 32 << 20)
    both.faults(few_downloads(LOOKS + 1))
    process = me.start("download", name, "big")
    kill_when(process, lambda: (p := part_of(me.here)) is not None and p.stat().st_blocks > 0)
    both.clear_faults()
    there.unlink()
    there.write_bytes(os.urandom(32 << 20))
    assert me.json("download", name, "big")["carried_bytes"] == 32 << 20
    assert digest(me.here / "big") == digest(there)
    assert [p.name for p in me.here.iterdir()] == ["big"]


@pytest.mark.slow
def test_a_server_that_is_gone_ends_it_and_all_is_kept(
    me: User, both: Embedded, line: CutProxy, expect_warnings: object
) -> None:
    name, ident = fresh(both)
    file = noise(me.here / "big", 64 << 20)
    line.hold_at(36 << 20)
    process = me.start("upload", name, "big")
    line.wait_held()
    line.cut()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 4, out + err
    line.restore()
    line.hold_at(None)
    me.run("upload", name, "big")
    assert both.report()["uploads"]["big"]["sessions"] == 1
    assert digest(both.folder_dir(ident) / "big") == digest(file)
