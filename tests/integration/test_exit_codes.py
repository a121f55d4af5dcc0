"""Each exit status, as a script sees it: docs/exit-codes.md line by line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, eventually
from tests.support.fixtures import fresh
from tests.support.mounting import VFSMOUNT, Mounted, clean_environment

Env = dict[str, str]
Case = Callable[[Embedded, Env, Path], subprocess.CompletedProcess[str]]


def run(env: Env, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VFSMOUNT, *words],
        env=clean_environment(env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def start(env: Env, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*VFSMOUNT, *words],
        env=clean_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def usage(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run(env, "ls")


def missing_settings(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run({**env, "BACKEND_ENDPOINT": ""}, "list")


def mistyped(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run(env, "lst")


def no_reason_of_its_own(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run(env, "ls", fresh(server)[0], "/absolute")


def wrong_key(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run({**env, "BACKEND_SECRET_KEY": "wrong"}, "list")


def nobody_there(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run({**env, "BACKEND_ENDPOINT": "http://127.0.0.1:1"}, "list")


def not_mounted(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run(env, "umount", str(path))


def unsent(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    name, _ = fresh(server)
    # A daemon that dies while the storage-proxy is away leaves what it has not sent.
    server.faults({"rules": [{"action": "status", "half": "storage", "method": "PATCH", "times": None}]})
    with Mounted(path, env) as mounted:
        (mounted.path / name / "late.txt").write_text("late")
        mounted.kill()
    return run(env, "status", "--state-dir", str(mounted.state))


def not_found(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run(env, "cat", fresh(server)[0], "no-such-file")


def denied(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    name, _ = fresh(server)
    server.share_folder("owner", name, "friend", "ro")
    return run({**env, **server.env("friend")}, "mkdir", name, "new")


def conflict(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run(env, "create", fresh(server)[0])


def quota(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    return run(env, "dotfile", "create", ".large", stdin="x" * 70_000)


def full_disk(server: Embedded, env: Env, path: Path) -> subprocess.CompletedProcess[str]:
    with open("/dev/full", "w") as full:
        return subprocess.run(
            [*VFSMOUNT, "list"],
            env=clean_environment(env),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )


@pytest.mark.parametrize(
    ("case", "status", "says"),
    [
        (no_reason_of_its_own, 1, "relative to it"),
        (usage, 2, "Missing argument"),
        (missing_settings, 2, "BACKEND_ENDPOINT"),
        (mistyped, 2, "Did you mean list"),
        (wrong_key, 3, "BACKEND_SECRET_KEY"),
        (nobody_there, 4, "127.0.0.1 refuses the connection"),
        (not_mounted, 5, "is not mounted"),
        pytest.param(unsent, 6, "", marks=pytest.mark.fuse),
        (not_found, 7, "no-such-file"),
        (denied, 8, "vfsmount: "),
        (conflict, 9, "vfsmount: "),
        (quota, 10, "a dotfile holds at most"),
        (full_disk, 10, "standard output: No space left on device"),
    ],
)
def test_exit_status(both: Embedded, tmp_path: Path, case: Case, status: int, says: str) -> None:
    env = {**both.env("owner"), "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "xdg")}
    done = case(both, env, tmp_path)
    assert done.returncode == status, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr


# --- stopped -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "route", "how"),
    [
        (["ls", "{name}"], ("GET", "/folders/{vf}/files"), "stopped"),
        (
            ["mkdir", "{name}", "new"],
            ("POST", "/folders/{vf}/mkdir"),
            "the same command again with -p makes the rest",
        ),
        (
            ["upload", "{name}", "{file}"],
            ("POST", "/folders/{vf}/request-upload"),
            "goes on where this one was",
        ),
        (
            ["download", "{name}", "there", "-d", "{file}.d"],
            ("POST", "/folders/{vf}/request-download"),
            "goes on where this one was",
        ),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else None,
)
def test_ctrl_c_is_130_and_says_how_to_go_on(
    new_server: Embedded, tmp_path: Path, words: list[str], route: tuple[str, str], how: str
) -> None:
    name, ident = fresh(new_server)
    (new_server.folder_dir(ident) / "there").write_text("x")
    (tmp_path / "file").write_text("x")
    env = {**new_server.env("owner"), "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "xdg")}
    path = route[1].replace("{vf}", "*")
    new_server.faults({"rules": [{"action": "stall", "method": route[0], "path": path, "times": None}]})
    command = start(env, *(word.format(name=name, file=tmp_path / "file") for word in words))
    eventually(lambda: new_server.count(*route) > 0)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=60)
    assert command.returncode == 130, err
    assert how in err and "Traceback" not in err


# --- nobody reads ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["list"], ["list", "--json"], ["ls", "{name}"], ["cat", "{name}", "f"], ["--help"]]
)
def test_reader_that_has_gone_is_141_without_a_word(new_server: Embedded, words: list[str]) -> None:
    name, ident = fresh(new_server)
    (new_server.folder_dir(ident) / "f").write_bytes(os.urandom(1 << 20))
    command = start(new_server.env("owner"), *(word.format(name=name) for word in words))
    assert command.stdout is not None and command.stderr is not None
    command.stdout.close()
    with command.stderr:
        err = command.stderr.read()
    assert (command.wait(60), err) == (141, "")
