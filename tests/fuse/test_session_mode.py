"""Mounting with a login instead of keys, through the webserver half."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.support.embedded import Embedded
from tests.support.mounting import Mounted, vfsmount


@pytest.fixture(params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "data", dialect=request.param) as server:
        server.create_folder("owner", "mine")
        yield server


def session_env(server: Embedded, tmp_path: Path) -> dict[str, str]:
    mine = server.env("owner")
    return {
        "BACKEND_ENDPOINT": mine["BACKEND_ENDPOINT"],
        "BACKEND_ENDPOINT_TYPE": "session",
        "BACKEND_USER": mine["BACKEND_USER"],
        "BACKEND_PASSWORD": mine["BACKEND_PASSWORD"],
        "XDG_STATE_HOME": str(tmp_path / "xdg"),
    }


def expire_login(server: Embedded, tmp_path: Path) -> None:
    """What seven days do: the server forgets the cookie, we do not."""
    (stored,) = (tmp_path / "xdg" / "vfsmount" / "logins").glob("*")
    cookie = msgspec.json.decode(stored.read_bytes())["cookie"]
    reply = httpx.post(f"{server.url}/server/logout", cookies={"AIOHTTP_SESSION": cookie})
    assert reply.is_success


def test_mount_with_a_login(server: Embedded, tmp_path: Path) -> None:
    env = session_env(server, tmp_path)
    assert vfsmount("login", env=env).returncode == 0
    with Mounted(tmp_path, env) as mounted:
        (mounted.path / "mine" / "f").write_text("through the webserver")
        assert (mounted.path / "mine" / "f").read_text() == "through the webserver"
    log = mounted.log.read_text()
    assert env["BACKEND_PASSWORD"] not in log
    assert "AIOHTTP_SESSION=" not in log


def test_expired_login_is_one_sentence(server: Embedded, tmp_path: Path) -> None:
    env = session_env(server, tmp_path)
    assert vfsmount("login", env=env).returncode == 0
    expire_login(server, tmp_path)
    done = vfsmount(tmp_path / "mnt", env=env)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "vfsmount login" in line


def test_login_that_expires_under_a_mount_gives_errors(server: Embedded, tmp_path: Path) -> None:
    env = session_env(server, tmp_path)
    assert vfsmount("login", env=env).returncode == 0
    with Mounted(tmp_path, env) as mounted:
        expire_login(server, tmp_path)
        with pytest.raises(PermissionError):
            (mounted.path / "mine" / "d").mkdir()
        assert mounted.path.is_dir()
