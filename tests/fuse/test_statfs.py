"""What df shows, and that it asks the server behind the caller's back, seldom."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.mounting import Mounted

PIB = 1 << 50
HOSTS = ("GET", "/folders/_/hosts")


def room(path: Path) -> tuple[int, int]:
    """(bytes in all, bytes that may be had), as df has them."""
    shown = os.statvfs(path)
    return shown.f_blocks * shown.f_frsize, shown.f_bavail * shown.f_frsize


@pytest.mark.parametrize("dialect", ["23.09", "26"])
def test_df_shows_what_the_cluster_tells(tmp_path: Path, dialect: str) -> None:
    with Embedded(tmp_path / "data", dialect=dialect) as server:
        server.create_folder("owner", "data")
        total, _ = room(server.data)
        for told in (["percentage", "used", "total"], ["percentage"], []):
            server.faults({"switches": {"usage": told}})
            server.reset_calls()
            where = tmp_path / str(len(told))
            where.mkdir()
            with Mounted(where, server.env("owner")) as mounted:
                top = mounted.path / "data"
                if "total" in told:
                    eventually(lambda: room(top)[0] == total)  # noqa: B023
                elif told:
                    eventually(lambda: room(top)[1] < PIB)  # noqa: B023
                    assert room(top)[0] == PIB
                else:
                    eventually(lambda: server.count(*HOSTS) == 1)
                    assert room(top) == (PIB, PIB)
                if told:
                    free, all_told = room(server.data)[1] / total, room(top)
                    assert abs(all_told[1] / all_told[0] - free) < 0.1
                for _ in range(50):
                    room(top)
                assert server.count(*HOSTS) == 1


def test_df_is_answered_while_the_server_says_nothing(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        server.create_folder("owner", "data")
        server.faults({"rules": [{"action": "stall", "path": "/folders/_/hosts", "times": None}]})
        with Mounted(tmp_path, server.env("owner")) as mounted:
            # Long before the request behind it is given up.
            df = ["df", "-B1", "--output=size", mounted.path / "data"]
            done = subprocess.run(df, capture_output=True, text=True, check=True, timeout=15)
            assert int(done.stdout.split()[1]) == PIB
            eventually(lambda: server.count(*HOSTS) == 1)
            server.clear_faults()
