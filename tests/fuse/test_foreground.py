"""What a person waits for goes before what is done behind, however much of that there is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, run

LIMIT = 500  # of which 372 may go at once; the background leaves 93 of those
FILES = 300
TREE = 20
LOOKS = 30
# A look costs one call of 30 ms; the rest is for a busy machine. Behind the others it would take minutes.
LOOK_S = 20.0


@pytest.fixture(params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    """As fast as a manager is, and with a limit that binds."""
    with Embedded(tmp_path / "data", dialect=request.param, rate_limit=LIMIT, latency_ms=30) as server:
        yield server


def remaining(server: Embedded) -> int:
    """Calls the server says are left to this key; costs one."""
    reply = server.client("owner").call("GET", "/folders")
    return int(reply.headers["X-RateLimit-Remaining"])


def spend(server: Embedded, left: int) -> None:
    """Another program with the same key leaves so many calls."""
    server.faults({"latency_ms": {"manager": -30}})
    while remaining(server) > left:
        pass
    server.faults({"latency_ms": {"manager": 0}})


def test_look_is_answered_while_hundreds_wait_to_be_sent(server: Embedded, tmp_path: Path) -> None:
    disk = server.folder_dir(server.create_folder("owner", "data"))
    for n in range(FILES):
        (disk / "old" / f"o{n}").parent.mkdir(exist_ok=True)
        (disk / "old" / f"o{n}").touch()
    for n in range(TREE):
        (disk / "tree" / f"d{n}" / "below").mkdir(parents=True)
    other = server.folder_dir(server.create_folder("owner", "other"))  # where no walk looks ahead
    for n in range(LOOKS):
        (other / f"l{n}").mkdir()
        (other / f"l{n}" / "f").touch()
    (disk / "new").mkdir()
    with Mounted(tmp_path, server.env("owner"), "--dir-ttl", "600", "--drain-timeout", "1") as mounted:
        top = mounted.path / "data"
        took: list[float] = []
        with subprocess.Popen(["find", top / "tree"], stdout=subprocess.DEVNULL) as walk:
            for n in range(FILES):
                (top / "new" / f"n{n}").write_bytes(b"new")
            run("rm", "-r", top / "old", timeout=120)
            for n in range(LOOKS):
                began = time.monotonic()
                assert run("ls", mounted.path / "other" / f"l{n}") == "f\n"
                took.append(time.monotonic() - began)
            walk.kill()
        print(f"{server.dialect}: {max(took):.2f} s at most, {sum(took) / LOOKS:.2f} s on average")
        assert max(took) < LOOK_S
        there = len(list((disk / "new").iterdir()))
        assert there < FILES, "everything was sent: nothing was waiting behind"
    assert LIMIT - remaining(server) <= 0.8 * LIMIT + 3  # two made the folders, one asks


def test_name_that_is_needed_again_does_not_wait_behind(server: Embedded, tmp_path: Path) -> None:
    """Removals are sent behind; who wants the name anew waits for one, so that is urgent."""
    disk = server.folder_dir(server.create_folder("owner", "data"))
    (disk / "taken").touch()
    server.faults({"switches": {"rate_limit": 200}})
    spend(server, 85)  # less than the background leaves
    with Mounted(tmp_path, server.env("owner"), "--dir-ttl", "600", "--drain-timeout", "1") as mounted:
        path = mounted.path / "data" / "taken"
        path.unlink()
        time.sleep(1)
        assert (disk / "taken").exists()  # nobody wants it, so it waits
        path.mkdir()
        assert (disk / "taken").is_dir()
