"""Logging in and out through the embedded server's webserver half, as a user types it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded

CHECKOUT = Path(__file__).parents[2]
CODE = "123456"
Vfsmount = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=["23.09", "26"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server where `friend` needs a one-time password."""
    with Embedded(tmp_path_factory.mktemp("server"), dialect=request.param, otp=f"friend={CODE}") as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's environment without any settings."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("BACKEND_", "SORNA_", "VFSMOUNT_", "XDG_"))
    }
    return clean | {"HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def vfsmount(server: Embedded, environment: dict[str, str], tmp_path: Path) -> Vfsmount:
    """Run the command in session mode as one of the server's users."""

    def run(
        *arguments: str, user: str = "owner", stdin: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        env = environment | server.env(user) | {"BACKEND_ENDPOINT_TYPE": "session"} | variables
        command = [sys.executable, "-m", "vfsmount", *arguments]
        return subprocess.run(
            command, env=env, cwd=tmp_path, input=stdin, capture_output=True, text=True, timeout=60
        )

    return run


def stored(tmp_path: Path) -> list[Path]:
    """The files that hold logins."""
    return list((tmp_path / ".local/state/vfsmount/logins").glob("*"))


def test_login_is_kept_shown_and_forgotten(vfsmount: Vfsmount, server: Embedded, tmp_path: Path) -> None:
    done = vfsmount("login")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Logged in at {server.url} as owner@example.org.\n"
    (file,) = stored(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "logged in as  owner@example.org" in vfsmount("config", "show").stdout
    done = vfsmount("logout")
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(tmp_path) == []
    assert "Nobody is logged in" in vfsmount("logout").stdout


def test_second_login_replaces_the_first(vfsmount: Vfsmount, tmp_path: Path) -> None:
    assert vfsmount("login").returncode == 0
    (file,) = stored(tmp_path)
    first = file.read_text()
    assert vfsmount("login").returncode == 0
    assert [file] == stored(tmp_path)
    assert file.read_text() != first


def test_wrong_password_is_one_sentence_and_status_3(vfsmount: Vfsmount, tmp_path: Path) -> None:
    done = vfsmount("login", BACKEND_PASSWORD="not-the-password")
    assert done.returncode == 3
    assert done.stderr.startswith("vfsmount: ")
    assert done.stderr.count("\n") == 1
    assert "not-the-password" not in done.stderr
    assert stored(tmp_path) == []


def test_one_time_password_is_asked_for(vfsmount: Vfsmount) -> None:
    done = vfsmount("login", user="friend", stdin=f"{CODE}\n")
    assert (done.returncode, done.stderr) == (0, "")


def test_wrong_one_time_password_is_refused(vfsmount: Vfsmount, tmp_path: Path) -> None:
    done = vfsmount("login", user="friend", stdin="000000\n")
    assert done.returncode == 3
    assert stored(tmp_path) == []


def test_login_at_another_server_is_left_alone(vfsmount: Vfsmount, tmp_path: Path) -> None:
    assert vfsmount("login").returncode == 0
    (file,) = stored(tmp_path)
    assert "Nobody is logged in" in vfsmount("logout", BACKEND_ENDPOINT="http://127.0.0.1:9").stdout
    assert file.exists()


def test_logout_forgets_the_login_also_when_the_server_is_gone(vfsmount: Vfsmount, tmp_path: Path) -> None:
    with Embedded(tmp_path / "server") as short_lived:
        variables = short_lived.env("owner") | {"BACKEND_ENDPOINT_TYPE": "session"}
        assert vfsmount("login", **variables).returncode == 0
    done = vfsmount("logout", **variables)
    assert done.returncode == 4
    assert done.stderr.startswith("vfsmount: ")
    assert stored(tmp_path) == []


def test_password_typed_at_a_terminal_is_not_shown(
    server: Embedded, environment: dict[str, str], tmp_path: Path
) -> None:
    env = environment | {"BACKEND_ENDPOINT": server.url, "BACKEND_ENDPOINT_TYPE": "session"}
    owner = server.env("owner")
    ours, theirs = os.openpty()
    login = subprocess.Popen(
        [sys.executable, "-m", "vfsmount", "login"],
        env=env,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = read_until(ours, "User ID: ")
    os.write(ours, f"{owner['BACKEND_USER']}\n".encode())
    seen += read_until(ours, "Password: ")
    os.write(ours, f"{owner['BACKEND_PASSWORD']}\n".encode())
    seen += read_until(ours, "Logged in at")
    assert login.wait(timeout=60) == 0
    os.close(ours)
    assert owner["BACKEND_PASSWORD"] not in seen


def read_until(terminal: int, text: str) -> str:
    """What the terminal shows up to and including `text`."""
    seen = ""
    while text not in seen:
        readable, _, _ = select.select([terminal], [], [], 30)
        assert readable, f"no {text!r} after {seen!r}"
        seen += os.read(terminal, 4096).decode()
    return seen
