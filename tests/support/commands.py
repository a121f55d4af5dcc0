"""Commands of the project run as a user would, in this process or in one of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import below
from tests.support.embedded import Embedded, eventually
from vfsmount.cli import main

CHECKOUT = Path(__file__).parents[2]


class User:
    """Somebody with settings, a state directory and a current directory of their own.

    Args:
        env: the ``BACKEND_…`` variables.
        work: becomes ``HOME``; the current directory is ``here`` in it.
    """

    def __init__(
        self,
        env: dict[str, str],
        work: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._capsys = capsys
        self.state = work / "state"
        self.here = work / "here"
        self.here.mkdir(parents=True, exist_ok=True)
        self.env = {**env, "HOME": str(work), "XDG_STATE_HOME": str(self.state)}
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(self.here)

    def run(self, *words: str | Path, status: int = 0) -> tuple[str, str]:
        """(stdout, stderr) of a command that has to end with that status."""
        self._capsys.readouterr()
        found = main([str(w) for w in words])
        out, err = self._capsys.readouterr()
        assert found == status, f"status {found}, not {status}\n{out}{err}"
        return out, err

    def json(self, *words: str | Path, status: int = 0) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(self.run(*words, "--json", status=status)[0])

    def start(self, *words: str | Path, **env: str) -> subprocess.Popen[str]:
        """A command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "vfsmount", *map(str, words)],
            env={**os.environ, **self.env, "PYTHONPATH": str(CHECKOUT), **env},
            cwd=self.here,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def kill_when(process: subprocess.Popen[str], ripe: Callable[[], bool]) -> None:
    """SIGKILL once `ripe` says so.

    Raises:
        AssertionError: the process ended before.
    """

    def look() -> bool:
        assert process.poll() is None, process.communicate()
        return ripe()

    eventually(look, deadline_s=120)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def user_of(
    server: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> User:
    """The server's ``owner``."""
    return User(server.env("owner"), tmp_path / "home", monkeypatch, capsys)


def content(directory: Path) -> dict[str, bytes]:
    """Path → content of all regular files below a directory, and ``path/`` of empty directories."""
    found = {}
    for path in below(directory):
        name = str(path.relative_to(directory))
        if path.is_file() and not name.startswith(".upload"):
            found[name] = path.read_bytes()
        elif path.is_dir() and name != ".upload" and not any(path.iterdir()):
            found[name + "/"] = b""
    return found
