"""Starting the holder of a mount: in the background, or in our own place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vfsmount import holder
from vfsmount.holder import wire

_HOLDER = Path(holder.__file__).parent


def command_of_generation() -> list[str]:
    """What starts a daemon of this very code, but for the arguments."""
    return [sys.executable, "-P", str(Path(__file__).parent / "generation.py")]


class Start:
    """What a holder is told.

    Attributes:
        server: descriptors of the embedded server and the variables of its user; None: there is none.
    """

    def __init__(self, words: Sequence[str], deadline_s: float) -> None:
        self._words = list(words)
        self._deadline_s = deadline_s
        self.server: tuple[int, int, dict[str, str]] | None = None

    def environment(self, pipe: int) -> dict[str, str]:
        """With all that it is told.

        Args:
            pipe: where it says that the mount answers; -1: nowhere.
        """
        told = {
            "command": command_of_generation(),
            "words": self._words,
            "directory": os.getcwd(),
            "deadline_s": self._deadline_s,
            "pipe": pipe,
            "server": self.fds,
        }
        user = self.server[2] if self.server is not None else {}
        return {**os.environ, **user, wire.START: json.dumps(told)}

    @property
    def fds(self) -> list[int]:
        """What it inherits."""
        return list(self.server[:2]) if self.server is not None else []

    @property
    def command(self) -> list[str]:
        """What starts it: with nothing that it does not need. Its modules are found without `site`."""
        return [sys.executable, "-P", "-S", str(_HOLDER / "__main__.py")]


def become(start: Start) -> NoReturn:
    """Go on as the holder, so that whoever started us has to do with it."""
    for fd in start.fds:
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    os.execve(sys.executable, start.command, start.environment(-1))  # noqa: S606 (our own interpreter)


def run(start: Start) -> int:
    """Start a holder in the background; the exit status, once the mount answers or has failed."""
    from vfsmount.cli.background import wait

    read_end, write_end = os.pipe()
    started = subprocess.Popen(
        start.command,
        env=start.environment(write_end),
        pass_fds=[write_end, *start.fds],
        start_new_session=True,
    )
    for fd in (write_end, *start.fds):
        os.close(fd)
    status = wait(read_end, started.pid)
    started.returncode = 0  # it outlives us
    return status
