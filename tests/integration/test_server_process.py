"""``vfsmount serve`` as a process: how it starts, what it leaves, how it ends."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, RawClient
from tests.support.fixtures import fresh
from tests.support.live import read_env_file

SERVE = [sys.executable, "-m", "vfsmount", "serve"]


def test_env_files_are_private_and_complete(tmp_path: Path) -> None:
    with Embedded(tmp_path / "data") as server:
        for user in ("owner", "friend", "admin"):
            path = tmp_path / "data" / "env" / f"{user}.sh"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert path.read_text().startswith(f"# {user}@example.org")
            env = server.env(user)
            assert env["BACKEND_ENDPOINT"] == server.url
            assert env["BACKEND_ENDPOINT_TYPE"] == "api"
            assert server.client(user).call("GET", "/auth/role").is_success
        roles = {u: server.client(u).ok("GET", "/auth/role")["global_role"] for u in ("owner", "admin")}
        assert roles == {"owner": "user", "admin": "superadmin"}


def test_restart_keeps_users_keys_and_folders(tmp_path: Path) -> None:
    with Embedded(tmp_path) as server:
        name, folder = fresh(server)
        server.client("owner").upload(name, "f", b"kept")
        keys = {u: server.env(u)["BACKEND_SECRET_KEY"] for u in ("owner", "friend", "admin")}
    with Embedded(tmp_path) as server:
        assert {u: server.env(u)["BACKEND_SECRET_KEY"] for u in keys} == keys
        assert server.client("owner").ok("GET", f"/folders/{name}")["id"] == folder
        assert server.client("owner").download(name, "f").content == b"kept"


def test_two_data_directories_have_different_keys(tmp_path: Path) -> None:
    with Embedded(tmp_path / "a") as a, Embedded(tmp_path / "b") as b:
        assert a.env("owner")["BACKEND_SECRET_KEY"] != b.env("owner")["BACKEND_SECRET_KEY"]


def test_new_upload_session_survives_a_restart(tmp_path: Path) -> None:
    with Embedded(tmp_path, dialect="26") as server:
        name, _ = fresh(server)
        url, token = server.client("owner").grant(name, "f", 4)
        headers = {"Upload-Offset": "0"}
        server.client("owner").http.patch(url, params={"token": token}, content=b"ab", headers=headers)
        port = url.rsplit(":", 1)[1].partition("/")[0]
        server.kill()
        server.stop()
    with Embedded(tmp_path, dialect="26", storage_port=port) as server:
        held = server.client("owner").http.head(url, params={"token": token})
        assert held.headers["Upload-Offset"] == "2"


def test_sigterm_ends_it_cleanly_with_calls_inside(tmp_path: Path) -> None:
    with Embedded(tmp_path) as server:
        server.faults({"rules": [{"action": "stall", "path": "/"}]})
        with pytest.raises(OSError):  # a timeout is one
            urllib.request.urlopen(server.url, timeout=0.3)
        assert server.stop() == 0


def test_end_of_standard_input_ends_it(tmp_path: Path) -> None:
    server = Embedded(tmp_path)
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(timeout=30) == 0
    server.stop()


def test_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with Embedded(tmp_path / "a") as server:
        port = server.url.rsplit(":", 1)[1]
        second = subprocess.run(
            [*SERVE, "--data", str(tmp_path / "b"), "--port", port],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert second.returncode != 0
    assert "Traceback" not in second.stderr
    assert second.stderr.count("\n") == 1


def test_missing_extra_is_one_sentence(tmp_path: Path) -> None:
    # A module of that name that cannot be imported, as if it were not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['aiohttp'] = None\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [*SERVE, "--data", str(tmp_path)], capture_output=True, text=True, env=env, timeout=30
    )
    assert ended.returncode == 2
    assert "vfsmount[embedded]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_faults_are_off_unless_asked_for(tmp_path: Path) -> None:
    with Embedded(tmp_path, faults=False) as server:
        client = server.client("owner").http
        assert client.post(server.url + "/__faults", json={}).status_code == 404
        assert client.get(server.url + "/__calls").status_code == 404


def test_output_holds_no_secret(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*SERVE, "--data", str(tmp_path / "data"), "--until-eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    ready = process.stdout.readline()
    client = RawClient(dict(read_env_file(tmp_path / "data" / "env" / "owner.sh")))
    client.ok("POST", "/folders", {"name": "f"})
    client.upload("f", "x", b"1")
    url, token = client.grant("f", ".")
    client.http.get(url, params={"token": token, "dst_dir": "x" * 300})  # a crash
    client.close()
    process.stdin.close()
    output = ready + process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    for secret in (token, client.env["BACKEND_SECRET_KEY"], client.env["BACKEND_PASSWORD"]):
        assert secret not in output


def test_one_data_directory_takes_one_server(tmp_path: Path) -> None:
    with Embedded(tmp_path):
        second = subprocess.run([*SERVE, "--data", str(tmp_path)], capture_output=True, text=True, timeout=30)
    assert second.returncode != 0
    assert "another one runs on this directory" in second.stderr
    assert "Traceback" not in second.stderr


def test_interrupted_removal_is_finished_at_the_next_start(tmp_path: Path) -> None:
    with Embedded(tmp_path) as server:
        name, folder = fresh(server)
        server.client("owner").upload(name, "f", b"1")
        server.kill()
        server.stop()
    with sqlite3.connect(tmp_path / "server.sqlite") as db:
        db.execute("UPDATE folders SET status = 'deleting' WHERE id = ?", (folder,))
    db.close()
    with Embedded(tmp_path) as server:
        assert server.client("owner").ok("GET", "/folders") == []
        assert not server.folder_dir(folder).exists()


def test_wildcard_server_names_the_address_the_client_came_by(tmp_path: Path) -> None:
    with Embedded(tmp_path, host="0.0.0.0") as server:
        name, _ = fresh(server)
        client = server.client("owner")
        client.env["BACKEND_ENDPOINT"] = server.url.replace("127.0.0.1", "localhost")
        url, _ = client.grant(name, ".")
        assert url.startswith("http://localhost:")
