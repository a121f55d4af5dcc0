"""Shells on terminals of their own, at which somebody types and presses TAB.

The commands that are typed are not run: a program called ``vfsmount`` stands first on PATH that writes down
the words it was called with, and passes on what shells ask of completion.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from tests.support.mounting import VFSMOUNT

_SHIM = f"""#!/bin/sh
if [ -n "$_VFSMOUNT_COMPLETE" ]; then {" ".join(VFSMOUNT)} "$@"; echo >>"$WORDS.asked"; exit 0; fi
for word in "$@"; do printf '%s\\n' "$word"; done >"$WORDS.new"
mv "$WORDS.new" "$WORDS"
"""
_START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
# What is said when the shell has read its script: nothing else says so in these words.
_READY = "rea" + "dy-for-words"
_SETUP = {
    "bash": "bind 'set bell-style none'; source {script}; echo rea''dy-for-words\n",
    "zsh": "autoload -U compinit; compinit -u -D; unsetopt beep; source {script}; echo rea''dy-for-words\n",
    "fish": "source {script}; echo rea''dy-for-words\n",
}


def why_no_shell(name: str) -> str:
    """What is missing for a test of a shell; empty where nothing is."""
    return "" if shutil.which(name) else f"{name} is not installed"


class Shell:
    """One interactive shell that has loaded the completion script."""

    def __init__(self, name: str, script: Path, env: Mapping[str, str], directory: Path) -> None:
        programs = directory / "programs"
        programs.mkdir(exist_ok=True)
        shim = programs / "vfsmount"
        shim.write_text(_SHIM)
        shim.chmod(0o755)
        self._words = directory / "words"
        self.here = directory / "here"
        self.here.mkdir(exist_ok=True)
        own = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "WORDS": str(self._words),
            "TERM": "xterm",
            "PS1": "% ",
        }
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.screen = ""
        self._process = subprocess.Popen(
            _START[name],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**env, **own, "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=self.here,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.type(_SETUP[name].format(script=script))
        self.until(_READY)
        self._settle()

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._ours)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._ours, keys.encode())

    def until(self, text: str, deadline_s: float = 30) -> str:
        """The screen, once it shows a text that came after everything looked at before."""
        shown, end = "", time.monotonic() + deadline_s
        while text not in shown:
            assert time.monotonic() < end, f"{text!r} is not shown: {shown!r}"
            shown += self._read(0.1)
        return shown

    def words(self, line: str) -> list[str]:
        """The words of the command that a line becomes; TABs in it are pressed, and waited for."""
        self._words.unlink(missing_ok=True)
        pieces = line.split("\t")
        for piece in pieces[:-1]:
            asked = self._asked()
            self.type(piece + "\t")
            self._wait(lambda before=asked: self._asked() > before)
            self._settle()
        self.type(pieces[-1] + "\n")
        self._wait(self._words.exists)
        self._settle()
        return self._words.read_text().splitlines()

    def _asked(self) -> int:
        """How many times completion was asked for, and has answered."""
        asked = self._words.with_name("words.asked")
        return len(asked.read_text()) if asked.exists() else 0

    def _wait(self, ripe: Callable[[], bool], deadline_s: float = 30) -> None:
        end = time.monotonic() + deadline_s
        while not ripe():
            assert time.monotonic() < end, f"nothing happened: {self.screen!r}"
            self._read(0.05)

    def _settle(self) -> None:
        """Return when the terminal is silent for a moment."""
        while self._read(0.2):
            pass

    def _read(self, seconds: float) -> str:
        if not select.select([self._ours], [], [], seconds)[0]:
            return ""
        try:
            piece = os.read(self._ours, 65536).decode(errors="replace")
        except OSError:
            return ""
        self.screen += piece
        return piece
