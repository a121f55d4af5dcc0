"""A line that freezes, as after a suspension or a change of networks: nothing says that it is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.cutproxy import CutProxy
from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, run

READ_TIMEOUT_S = 2
DEADLINE_S = 6


@pytest.fixture(params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "data", dialect=request.param) as server:
        yield server


def in_time(work: Callable[[], object], deadline_s: float = 30) -> None:
    """Try until it works."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            work()
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def test_mount_works_again_after_the_line_was_frozen(server: Embedded, tmp_path: Path) -> None:
    folder = server.create_folder("owner", "data")
    disk = server.folder_dir(folder)
    for name in ("a", "b", "c"):
        (disk / name).mkdir()
        (disk / name / "file").write_text(name)
    storage = urlsplit(server.client("owner").grant("data", ".")[0])
    with CutProxy(server.url) as manager, CutProxy(f"http://{storage.netloc}") as proxy:
        env = {
            **server.env("owner"),
            "BACKEND_ENDPOINT": manager.url,
            "BACKEND_OVERRIDE_STORAGE_PROXY": f"http://{storage.netloc}={proxy.url}",
            "BACKEND_READ_TIMEOUT": str(READ_TIMEOUT_S),
        }
        with Mounted(tmp_path, env, "--deadline", str(DEADLINE_S)) as mounted:
            top, pid = mounted.path / "data", mounted.pid
            assert run("cat", top / "a/file") == "a"
            for line in (manager, proxy):
                line.hold_at(line.sent_up)
            began = time.monotonic()
            with pytest.raises(AssertionError, match=r"timed out|Input/output"):
                run("ls", top / "b")
            assert time.monotonic() - began < 5 * DEADLINE_S, "nothing hangs"
            run("sh", "-c", f"echo kept > {top}/a/new")
            time.sleep(2 * READ_TIMEOUT_S)
            for line in (manager, proxy):
                line.hold_at(None)
            in_time(lambda: run("ls", top / "b"))
            in_time(lambda: run("cat", top / "b/file"))
            assert run("cat", top / "c/file") == "c" and run("cat", top / "a/file") == "a"
            in_time(lambda: (disk / "a/new").read_text())
            assert (disk / "a/new").read_text() == "kept\n"
            run("mkdir", top / "after")
            assert mounted.pid == pid and os.path.isdir(disk / "after")
