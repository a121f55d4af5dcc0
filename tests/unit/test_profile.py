"""`vfsmount profile` adds an access log up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vfsmount.cli import main
from vfsmount.cli.access_profile import Profile

T = 1_700_000_000.0


def line(op: str, path: str = "data/file", seconds: float = 0.001, **more: Any) -> bytes:
    return json.dumps({"time": T, "op": op, "path": path, "seconds": seconds, **more}).encode() + b"\n"


def read(path: str, offset: int, length: int = 128 << 10, pid: int = 7, **more: Any) -> bytes:
    fields = {"result": length, "source": "memory", "pid": pid, "comm": "python3", **more}
    return line("read", path, offset=offset, length=length, **fields)


def report(*lines: bytes, top: int = 10) -> dict[str, Any]:
    profile = Profile(top)
    profile.add(lines)
    return profile.report()


def test_operations_are_told_by_the_time_they_took() -> None:
    found = report(
        *[line("getattr", seconds=0.001)] * 99,
        line("getattr", seconds=0.5),
        line("open", seconds=2.0, errno="EIO"),
    )
    first, second = found["operations"]
    assert (first["op"], first["count"], first["errors"]) == ("open", 1, {"EIO": 1})
    assert (second["op"], second["count"], second["errors"]) == ("getattr", 100, {})
    assert second["median_s"] == 0.001 and second["max_s"] == 0.5
    assert second["seconds"] == pytest.approx(0.599)
    assert [row["op"] for row in found["slowest"][:2]] == ["open", "getattr"]


@pytest.mark.parametrize(
    ("offsets", "pattern"),
    [
        (range(40), "sequential"),
        ([0, 2, 1, 3, 5, 4, 6, 7, 9, 8], "sequential"),  # as the kernel asks for a stream's pieces
        (range(40, 0, -1), "sequential"),  # backward
        ([0, 400, 17, 233, 99, 1000, 5, 720], "random"),
        ([0, 1, 2, 3, 400, 401, 402, 403, 17, 300, 200], "mixed"),
        ([5], "once"),
    ],
)
def test_pattern_of_a_file(offsets: list[int], pattern: str) -> None:
    (file,) = report(*(read("data/f", n * (128 << 10)) for n in offsets))["files"]
    assert file["pattern"] == pattern


def test_two_programs_in_one_file_each_have_their_own_order() -> None:
    both = [
        read("data/f", n * (128 << 10) + far, pid=pid)
        for n in range(20)
        for pid, far in ((1, 0), (2, 1 << 30))
    ]
    (file,) = report(*both)["files"]
    assert file["pattern"] == "sequential" and file["reads"] == 40


def test_small_reads_are_told_where_they_are_many() -> None:
    few = [read("data/few", n * 4096, 4096) for n in range(15)]
    many = [read("data/many", n * 1_000_000, 4096, seconds=0.002) for n in range(20)]
    (hot,) = report(*few, *many)["small_reads"]
    assert (hot["path"], hot["count"], hot["pattern"]) == ("data/many", 20, "random")
    assert hot["seconds"] == pytest.approx(0.04)


def test_hits_programs_and_directories() -> None:
    found = report(
        read("data/a/x", 0, source="memory"),
        read("data/a/x", 0, source="disk"),
        read("data/a/x", 0, source="memory+network", comm="cat", pid=9),
        read("data/a/x", 0, source="staged", pid=8),
        line("write", "data/b/y", offset=0, length=1000, result=1000, pid=9, comm="cat"),
        line("opendir", "data/b", seconds=5.0),
        line("statfs", ""),
    )
    assert found["reads"]["hit_rate"] == 0.75 and len(found["reads"]["sources"]) == 4
    programs = {p["comm"]: p for p in found["processes"]}
    assert programs["python3"]["processes"] == 2 and programs["python3"]["read_bytes"] == 3 * (128 << 10)
    assert programs["cat"]["written_bytes"] == 1000
    assert found["directories"][0]["path"] == "data/b" and found["directories"][0]["seconds"] == 5.001
    assert all(f["path"] != "data/b" for f in found["files"])


def test_lines_that_are_none_are_counted_and_odd_names_kept() -> None:
    found = report(
        b'{"time":1,"op":"re',
        b"\xff\xfe\n",
        b"[1]\n",
        b"\n",
        line("open", "data/odd \udcff"),
        b'{"time":2,"dropped":17}\n',
    )
    assert (found["requests"], found["unreadable"], found["dropped"]) == (1, 3, 17)
    assert found["files"][0]["path"] == "data/odd \udcff"


def test_top_bounds_every_list() -> None:
    found = report(*(line("open", f"d{n}/f", seconds=n, comm=f"p{n}", pid=n) for n in range(30)), top=3)
    assert [f["path"] for f in found["files"]] == ["d29/f", "d28/f", "d27/f"]
    assert len(found["directories"]) == len(found["processes"]) == len(found["slowest"]) == 3


def test_command_reads_both_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    (tmp_path / "log.1").write_bytes(line("open", "data/old"))
    log.write_bytes(read("data/new\x1b[31m", 0, seconds=1.5))
    assert main(["profile", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 2 and found["from"] == "2023-11-14T22:13:20Z"
    assert main(["profile", str(log)]) == 0
    shown = capsys.readouterr().out
    assert "2 requests from" in shown and "data/old" in shown and "1.5 s" in shown
    assert "100% without waiting for the server" in shown and "\x1b" not in shown


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err
    (tmp_path / "empty").write_text("hello\n")
    assert main(["profile", str(tmp_path / "empty")]) == 0
    assert "is it an access log" in capsys.readouterr().err
