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
QUERY = ("POST", "/admin/gql")
LIMIT = 64 << 20


def room(path: Path) -> tuple[int, int]:
    """(bytes in all, bytes that may be had), as df has them."""
    shown = os.statvfs(path)
    return shown.f_blocks * shown.f_frsize, shown.f_bavail * shown.f_frsize


def used(path: Path) -> int:
    """Bytes that are taken, as df has them."""
    shown = os.statvfs(path)
    return (shown.f_blocks - shown.f_bfree) * shown.f_frsize


def limit(server: Embedded, user: str, **limits: int) -> None:
    """Have the server tell hard limits, in bytes, of those who own the folders that a user sees by name."""
    folders = {f["name"]: f["quota_scope_id"] for f in server.client(user).ok("GET", "/folders")}
    server.faults({"switches": {"quota": {folders[name]: most for name, most in limits.items()}}})
    server.reset_calls()


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
                    assert room(top) == (PIB, PIB)
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


@pytest.mark.parametrize("dialect", ["23.09", "26"])
def test_df_shows_the_limit_of_the_folders_owner(tmp_path: Path, dialect: str) -> None:
    with Embedded(tmp_path / "data", dialect=dialect) as server:
        folder = server.create_folder("owner", "data")
        (server.folder_dir(folder) / "file").write_bytes(bytes(1 << 20))
        limit(server, "owner", data=LIMIT)
        with Mounted(tmp_path, server.env("owner")) as mounted:
            top = mounted.path / "data"
            eventually(lambda: room(top) == (LIMIT, LIMIT - (1 << 20)))
            assert used(top) == 1 << 20
            assert room(mounted.path) == room(top)
            for _ in range(50):
                room(top)
            assert (server.count(*QUERY), server.count(*HOSTS)) == (1, 1)


def test_df_shows_no_room_where_more_is_stored_than_may_be(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        folder = server.create_folder("owner", "data")
        (server.folder_dir(folder) / "file").write_bytes(bytes(1 << 20))
        limit(server, "owner", data=4096)
        with Mounted(tmp_path, server.env("owner")) as mounted:
            eventually(lambda: room(mounted.path / "data") == (4096, 0))


def test_df_shows_no_more_room_than_the_host_has(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        server.create_folder("owner", "data")
        limit(server, "owner", data=PIB)
        with Mounted(tmp_path, server.env("owner")) as mounted:
            top = mounted.path / "data"
            eventually(lambda: room(top)[0] == PIB and room(top)[1] < PIB)
            assert room(top)[1] <= room(server.data)[0]
            assert used(top) == 0


def test_df_shows_the_host_where_a_quota_is_refused(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        server.create_folder("owner", "theirs")
        server.create_folder("friend", "mine")
        server.share_folder("owner", "theirs", "friend")
        limit(server, "friend", mine=LIMIT, theirs=LIMIT)
        with Mounted(tmp_path, server.env("friend")) as mounted:
            # Of their own folder first, which the server lists first.
            eventually(lambda: room(mounted.path)[0] == room(server.data)[0])
            eventually(lambda: server.count(*QUERY) == 2)
            for _ in range(50):
                assert room(mounted.path)[0] == room(server.data)[0]
            assert server.count(*QUERY) == 2


def test_server_without_such_a_query_is_asked_once(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        server.create_folder("owner", "data")
        limit(server, "owner", data=LIMIT)
        server.faults({"rules": [{"action": "status", "path": "/admin", "status": 404, "times": None}]})
        with Mounted(tmp_path, server.env("owner")) as mounted:
            eventually(lambda: room(mounted.path)[0] == room(server.data)[0])
            eventually(lambda: server.count(*QUERY) == 1)
            for _ in range(50):
                assert room(mounted.path)[0] == room(server.data)[0]
            assert server.count(*QUERY) == 1


def test_df_shows_the_roomiest_of_several_limits(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        server.create_folder("owner", "own")
        server.create_folder("admin", "ours", group="default")
        limit(server, "owner", own=LIMIT, ours=2 * LIMIT)
        with Mounted(tmp_path, server.env("owner")) as mounted:
            for name in ("own", "ours"):
                eventually(lambda: room(mounted.path / name) == (2 * LIMIT, 2 * LIMIT))  # noqa: B023
            assert server.count(*QUERY) == 2
        limit(server, "owner", own=LIMIT)  # and none for the other
        with Mounted(tmp_path, server.env("owner")) as mounted:
            eventually(lambda: room(mounted.path / "own")[0] == room(server.data)[0])
            eventually(lambda: server.count(*QUERY) == 2)


def test_df_waits_for_no_quota(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        server.create_folder("owner", "data")
        limit(server, "owner", data=LIMIT)
        server.faults({"rules": [{"action": "stall", "path": "/admin", "times": None}]})
        with Mounted(tmp_path, server.env("owner")) as mounted:
            df = ["df", "-B1", "--output=size", mounted.path / "data"]
            done = subprocess.run(df, capture_output=True, text=True, check=True, timeout=15)
            assert int(done.stdout.split()[1]) in (PIB, room(server.data)[0])
            eventually(lambda: server.count(*QUERY) == 1)
            assert room(mounted.path)[0] != LIMIT
            server.faults({"release": True})
            eventually(lambda: room(mounted.path)[0] == LIMIT)
