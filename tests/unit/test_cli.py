"""The command line as a user meets it: help, exit codes, and one sentence instead of a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vfsmount import errors
from vfsmount.cli import COMMANDS, main
from vfsmount.cli.exit_codes import exit_code

CHECKOUT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]

WAYS = {
    "cli.py": [sys.executable, str(CHECKOUT / "cli.py")],
    "module": [sys.executable, "-m", "vfsmount"],
    "script": [str(Path(sys.executable).parent / "vfsmount")],
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run vfsmount as a user who has no settings anywhere."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("BACKEND_", "SORNA_", "VFSMOUNT_", "XDG_"))
    }
    clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}

    def run(
        *arguments: str, way: str = "module", env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*WAYS[way], *arguments],
            env=clean | (env or {}),
            input=stdin,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def assert_one_sentence(done: subprocess.CompletedProcess[str], status: int) -> None:
    """The command ended with `status` and one line on stderr."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("vfsmount: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout


def test_help_is_the_same_from_checkout_module_and_script(run: Run) -> None:
    helps = {way: run("--help", way=way).stdout for way in WAYS}
    assert "vfsmount MOUNTPOINT" in helps["script"]
    assert helps["cli.py"] == helps["module"] == helps["script"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(run: Run, name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"vfsmount {name}" in done.stdout


def test_help_loads_neither_http_client_nor_fuse() -> None:
    code = (
        "import sys; from vfsmount.cli import main; main(['--help'])\n"
        "assert not {'httpx', 'pyfuse3', 'aiohttp', 'trio'} & set(sys.modules), 'loaded too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_version(run: Run) -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("vfsmount, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["config", "show", "--no-such-option"],
        ["config", "frobnicate"],
        ["login", "--endpoint"],
        ["login", "--endpoint-type"],
        ["login", "unexpected"],
        ["serve"],
        ["umount"],
        ["mount"],
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_secret_key_is_no_option(run: Run) -> None:
    done = run("config", "show", "--secret-key", "command-line-secret")
    assert done.returncode == 2
    assert "command-line-secret" not in done.stderr


@pytest.mark.parametrize("command", ["login", "logout"])
def test_login_without_settings_names_the_variable(run: Run, command: str) -> None:
    done = run(command)
    assert_one_sentence(done, 2)
    assert "BACKEND_ENDPOINT_TYPE" in done.stderr


def test_mount_without_settings_names_the_variables(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    done = run(str(tmp_path / "mnt"))
    assert_one_sentence(done, 2)
    for name in ("BACKEND_ENDPOINT", "BACKEND_ACCESS_KEY", "BACKEND_SECRET_KEY"):
        assert name in done.stderr


def test_mount_in_session_mode_without_login_says_how_to(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    env = {"BACKEND_ENDPOINT": "http://127.0.0.1:9", "BACKEND_ENDPOINT_TYPE": "session"}
    done = run(str(tmp_path / "mnt"), env=env)
    assert_one_sentence(done, 3)
    assert "vfsmount login" in done.stderr


def test_login_with_nobody_to_ask_names_the_variable(run: Run) -> None:
    env = {"BACKEND_ENDPOINT": "http://127.0.0.1:9", "BACKEND_ENDPOINT_TYPE": "session"}
    done = run("login", env=env)
    assert_one_sentence(done, 2)
    assert "BACKEND_USER" in done.stderr
    done = run("login", "--user", "me@example.org", env=env)
    assert_one_sentence(done, 2)
    assert "BACKEND_PASSWORD" in done.stderr


def test_login_at_a_dead_address_is_status_4(run: Run) -> None:
    env = {"BACKEND_ENDPOINT": "http://127.0.0.1:9", "BACKEND_ENDPOINT_TYPE": "session"}
    done = run("login", "--user", "me@example.org", env=env, stdin="the-password\n")
    assert_one_sentence(done, 4)
    assert "the-password" not in done.stderr + done.stdout


def test_config_show_tells_value_and_source_but_no_secret(run: Run) -> None:
    env = {
        "BACKEND_ENDPOINT": "http://manager:8081",
        "BACKEND_ACCESS_KEY": "AKIALABUSER1EXAMPLE0",
        "BACKEND_SECRET_KEY": "lab-secret-key-of-user-1-0123456789abcd",
    }
    done = run("config", "show", "--domain", "research", env=env)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines() if line}
    assert lines["BACKEND_ENDPOINT"] == ["http://manager:8081", "environment"]
    assert lines["BACKEND_DOMAIN"] == ["research", "command line"]
    assert lines["BACKEND_ACCESS_KEY"] == ["AKIALA************PLE0", "environment"]
    assert lines["BACKEND_SECRET_KEY"] == ["************cd", "environment"]


def test_config_show_shows_what_there_is_and_then_what_is_wrong(run: Run) -> None:
    done = run("config", "show", "--json", env={"BACKEND_ENDPOINT": "http://me:the-password@manager"})
    assert_one_sentence(done, 2)
    assert '"config_file"' in done.stdout
    assert "the-password" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigError, 2),
        (errors.AuthFailed, 3),
        (errors.ClockSkew, 3),
        (errors.OtpRequired, 3),
        (errors.RemoteUnavailable, 4),
        (errors.DeadlineExceeded, 4),
        (errors.MountError, 5),
        (errors.NotFound, 7),
        (errors.PermissionDenied, 8),
        (errors.AlreadyExists, 9),
        (errors.QuotaExceeded, 10),
        (errors.InvalidRequest, 1),
        (errors.RateLimited, 1),
    ],
)
def test_errors_have_their_exit_status(error: type[errors.VfsError], status: int) -> None:
    assert exit_code(error("why")) == status


def test_bug_has_no_exit_status_and_keeps_its_traceback() -> None:
    assert exit_code(KeyError("bug")) is None


def test_main_returns_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["config", "show", "--no-such-option"]) == 2
    assert "no-such-option" in capsys.readouterr().err
