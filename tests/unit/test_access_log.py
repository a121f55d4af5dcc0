"""The access log keeps within its size, loses nothing silently, and never holds anybody up."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vfsmount.errors import ConfigError, Stale
from vfsmount.fuse import accesslog
from vfsmount.fuse.accesslog import AccessLog, AccessLogSpec, Names, open_access_log


def no_name(_: int) -> bytes:
    raise Stale("gone")


def path_of(number: int) -> bytes:
    return b"data/file \xff" if number == 99_999 else b"data/%d" % number


def opened(path: Path, limit: int = 1 << 20, of_ino: Callable[[int], bytes] = path_of) -> AccessLog:
    return open_access_log(AccessLogSpec(path, limit), Names(of_ino, path_of, path_of))


def note(log: AccessLog, op: str, *args: Any, result: Any = None, code: int = 0) -> None:
    log.end(log.begin(op, args), result, code, 0.25, args)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_tell_what_was_asked_and_what_came(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    with log.writing():
        note(log, "read", 1, 4096, 100, result=b"x" * 60)
        note(log, "write", 99_999, 0, b"abc", result=3)
        note(log, "unlink", 7, b"\xff\n", code=errno.ENOENT)
        note(log, "rename", 1, b"a", 2, b"b", 0)
        note(log, "statfs")
    read, write, unlink, rename, statfs = lines(tmp_path / "log")
    assert (read["path"], read["offset"], read["length"], read["result"]) == ("data/1", 4096, 100, 60)
    assert read["seconds"] == 0.25 and read["source"] == "" and "pid" not in read
    assert (write["path"], write["length"]) == ("data/file \udcff", 3)
    assert (unlink["path"], unlink["errno"]) == ("data/7/\udcff\n", "ENOENT")
    assert (rename["path"], rename["to"]) == ("data/1/a", "data/2/b")
    assert statfs["path"] == ""


def test_what_has_no_name_any_more_is_logged_without(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", of_ino=no_name)
    with log.writing():
        note(log, "getattr", 5, code=errno.ESTALE)
        note(log, "rename", 1, b"a", 2, b"b", 0, code=errno.ESTALE)
    first, second = lines(tmp_path / "log")
    assert (first["path"], first["errno"]) == ("", "ESTALE") and second["path"] == ""


def test_two_generations_keep_within_the_limit(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    log = opened(path, limit=200_000)
    with log.writing():
        for n in range(10_000):
            note(log, "read", n, 0, 100, result=b"")
    assert path.stat().st_size + old.stat().st_size <= 200_000 + 60_000  # what is encoded at a time
    assert path.stat().st_mode & 0o777 == old.stat().st_mode & 0o777 == 0o600
    kept = [line["path"] for line in lines(old) + lines(path)]
    assert kept == [f"data/{n}" for n in range(10_000 - len(kept), 10_000)]


def test_log_is_gone_on_with_and_its_torn_end_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"time":1,"op":"open"}\n{"time":2,"op":"re')
    path.chmod(0o644)
    log = opened(path)
    with log.writing():
        note(log, "open", 1, 0)
    found = path.read_text().splitlines()
    assert len(found) == 3 and json.loads(found[2])["path"] == "data/1"
    assert path.stat().st_mode & 0o777 == 0o600


def test_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    with log.writing():
        with pytest.raises(ConfigError, match="another mount writes"):
            opened(tmp_path / "log")
        note(log, "open", 1, 0)
    with opened(tmp_path / "log").writing():
        pass
    assert len(lines(tmp_path / "log")) == 1


def test_lines_beyond_what_memory_may_hold_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "_PENDING", 100)
    log = opened(tmp_path / "log")
    for n in range(250):  # nobody writes yet: as with a disk that hangs
        note(log, "open", n, 0)
    with log.writing():
        pass
    found = lines(tmp_path / "log")
    assert [line["path"] for line in found[:-1]] == [f"data/{n}" for n in range(100)]
    assert found[-1]["dropped"] == 150
    assert accesslog.counters.snapshot()["log_lines_dropped"] == 150


def test_full_disk_costs_lines_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_warnings: list[Any]
) -> None:
    full = False
    write = os.write

    def limited(fd: int, data: bytes) -> int:
        if full and len(data) > 10:
            write(fd, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    log = opened(tmp_path / "log")
    monkeypatch.setattr(accesslog.os, "write", limited)
    full = True
    note(log, "open", 1, 0)
    log._write()
    note(log, "open", 2, 0)
    log._write()
    full = False
    note(log, "open", 3, 0)
    with log.writing():
        pass
    readable = [
        json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.endswith("}")
    ]
    assert [line.get("path", line.get("dropped")) for line in readable] == ["data/3", 2]
    assert len(expect_warnings) == 1 and "accesslog.failed" in expect_warnings[0].getMessage()
