"""Commands run in this process, as one user of one server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounting import VFSMOUNT, clean_environment
from vfsmount.cli import main


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs commands with the settings of a user, and no other settings and mounts of this machine's."""

    def __init__(
        self,
        env: Mapping[str, str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        state: Path,
    ) -> None:
        self.env = dict(env)
        self._patch, self._capsys, self._state = monkeypatch, capsys, state

    def __call__(self, *arguments: str) -> Said:
        """Run one command to its end."""
        with self._patch.context() as patch:
            for name in [n for n in os.environ if n.startswith(("BACKEND_", "SORNA_", "VFSMOUNT_"))]:
                patch.delenv(name)
            for name, value in {**self.env, "XDG_STATE_HOME": str(self._state)}.items():
                patch.setenv(name, value)
            self._capsys.readouterr()
            code = main(arguments)
        said = self._capsys.readouterr()
        return Said(code, said.out, said.err)

    def ok(self, *arguments: str) -> str:
        """What a command that must succeed says on stdout."""
        said = self(*arguments)
        assert said.code == 0, said.err
        return said.out

    def json(self, *arguments: str) -> Any:
        """The document that a command prints with ``--json``; it must succeed."""
        return json.loads(self.ok(*arguments, "--json"))

    def bytes(self, *arguments: str) -> bytes:
        """What a command that must succeed writes, run as a program of its own."""
        done = subprocess.run(
            [*VFSMOUNT, *arguments],
            env=clean_environment({**self.env, "XDG_STATE_HOME": str(self._state)}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def names(self) -> list[str]:
        """The folders that are listed."""
        return [row["name"] for row in self.json("list")]

    def on_terminal(self, *arguments: str, typed: str) -> Said:
        """Run a command on a terminal of its own on which somebody types; its stderr is the terminal."""
        ours, theirs = pty.openpty()
        try:
            with subprocess.Popen(
                [*VFSMOUNT, *arguments],
                env=clean_environment({**self.env, "XDG_STATE_HOME": str(self._state)}),
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=theirs,
                text=True,
            ) as process:
                os.close(theirs)
                shown = _read_until(ours, b"]: ")
                os.write(ours, typed.encode())
                shown += _read_until(ours, None)
                out, _ = process.communicate(timeout=60)
        finally:
            os.close(ours)
        return Said(process.returncode, out, shown.decode())


def _read_until(terminal: int, end: bytes | None, deadline_s: float = 60) -> bytes:
    """What a terminal shows up to a prompt, or up to the program's end."""
    shown, give_up = b"", time.monotonic() + deadline_s
    while end is None or end not in shown:
        assert time.monotonic() < give_up, shown
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # nobody has the other side open any more
            break
        if not piece:
            break
        shown += piece
    return shown
