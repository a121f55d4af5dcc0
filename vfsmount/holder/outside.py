"""Who else has to do with a holder: the command that started it, its supervisor, its log, its server."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any

_SERVER_S = 10.0  # that the embedded server may take to end


class Outside:
    """All that is neither kernel nor generation.

    Args:
        start: ``pipe``: to the command that waits for the mount, or -1: it has become this process;
            ``server``: descriptors of the embedded server, which ends when the first is closed and closes the
            second when it has ended, or none.

    Attributes:
        log: file where the daemon's log goes; "": stderr.
    """

    def __init__(self, start: dict[str, Any]) -> None:
        self._pipe: int = start["pipe"]
        self._server: list[int] = start["server"]
        self._is_detached = False
        self._in_background = self._pipe >= 0
        self.log = ""
        for fd in (*self._server, self._pipe):
            if fd >= 0:
                os.set_inheritable(fd, False)
        self._supervisor = os.environ.pop("NOTIFY_SOCKET", "")
        usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        is_watched = usec.isdecimal() and pid in ("", str(os.getpid()))
        self._supervisor_s = int(usec) / 1e6 if is_watched else 0.0

    def told(self) -> dict[str, Any]:
        """What generations need to know of it."""
        return {
            "supervised": self._supervisor[:1] in ("/", "@"),
            "supervisor_s": self._supervisor_s,
            "background": self._in_background,
        }

    def ready(self) -> None:
        """The mount answers: whoever started us may go."""
        with suppress(OSError):
            os.chdir("/")
        if self._in_background:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.close(null)
        self._tell(0, "")

    def _tell(self, status: int, text: str) -> None:
        if self._pipe >= 0:
            with suppress(OSError):
                os.write(self._pipe, json.dumps({"status": status, "text": text}).encode())
            os.close(self._pipe)
            self._pipe = -1

    def notify(self, text: str) -> None:
        """Tell the supervisor, who listens to this process before all others."""
        name = "\0" + self._supervisor[1:] if self._supervisor.startswith("@") else self._supervisor
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.settimeout(1.0)
            to.sendto(text.encode("utf-8", "backslashreplace"), name)

    def note(self, text: str) -> None:
        """Say something about the mount where its log goes."""
        if self.log:
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            with suppress(OSError), open(self.log, "a", encoding="utf-8") as log:
                log.write(f"{at}.000Z WARNING vfsmount.holder holder.notes {json.dumps(text)}\n")
        with suppress(OSError):
            sys.stderr.write(f"vfsmount: {text}\n")
            sys.stderr.flush()
        if self._supervisor:
            self.notify(f"STATUS={text}")

    @staticmethod
    def has_terminal() -> bool:
        """Whether a SIGHUP may mean that our terminal was closed."""
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def end(self, status: int) -> None:
        """Nothing is served any more."""
        self._tell(status, "" if status else "ended before it was ready")
        if self._server:
            os.close(self._server[0])
            select.select([self._server[1]], [], [], _SERVER_S)
