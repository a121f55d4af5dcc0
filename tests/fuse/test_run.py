"""A session sees what was written on a mount of this machine before it was asked for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, vfsmount

IMAGE = "python:3.9"


@pytest.fixture(params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "data", dialect=request.param, sessions=True) as server:
        server.create_folder("owner", "data")
        server.create_folder("owner", "other")
        server.create_folder("owner", ".auto")
        yield server


def run(server: Embedded, mounted: Mounted, *words: str) -> subprocess.CompletedProcess[str]:
    return vfsmount("run", "--rm", "--state-dir", mounted.state, *words, env=server.env("owner"))


def test_unsent_files_are_waited_for(server: Embedded, tmp_path: Path) -> None:
    with Mounted(tmp_path, server.env("owner")) as mounted:
        server.faults({"latency_ms": {"PATCH /upload": 1500}})
        for name in ("data/a", "data/b", ".auto/c"):
            (mounted.path / name).write_text(f"content of {name}\n")
        done = run(server, mounted, "-m", "data", IMAGE, "sh", "-c", "cat data/a data/b .auto/c")
        assert done.returncode == 0, done.stderr
        # That it is in every session by itself is no reason to be late.
        assert done.stdout == "content of data/a\ncontent of data/b\ncontent of .auto/c\n"
    assert not mounted.warnings()


def test_other_folders_are_not_waited_for(server: Embedded, tmp_path: Path) -> None:
    with Mounted(tmp_path, server.env("owner")) as mounted:
        server.faults({"rules": [{"action": "stall", "path": "/upload", "method": "PATCH", "times": None}]})
        (mounted.path / "other" / "x").write_text("does not get there yet")
        done = run(server, mounted, "-m", "data", IMAGE, "echo", "on")
        assert done.returncode == 0 and done.stdout == "on\n", done.stderr
        server.clear_faults()


def test_no_session_is_made_where_a_file_is_refused(server: Embedded, tmp_path: Path) -> None:
    with Mounted(tmp_path, server.env("owner")) as mounted:
        rule = {"action": "status", "path": "/folders/*/request-upload", "status": 403, "times": None}
        server.faults({"rules": [{**rule, "method": "POST"}]})
        (mounted.path / "data" / "x").write_text("refused")
        done = run(server, mounted, "-m", "data", IMAGE, "echo", "on")
        assert done.returncode == 6 and "data/x" in done.stderr, done.stderr
        assert server.count("POST", "/session") == 0 and done.stdout == ""
        server.clear_faults()
