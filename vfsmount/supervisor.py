"""What the process that started us, systemd for one, wants to be told: ready, alive, stopping, how far.

Each message is one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names. Without
that variable nothing is sent, and nothing needs to be asked first.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

from vfsmount.log import event, redact

_log = logging.getLogger("vfsmount.supervisor")

_SEND_S = 1.0  # that a supervisor with a full socket is waited for
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who to tell.

    Attributes:
        address: of its socket; "" where there is nobody.
        watchdog_s: it kills us after so long without `alive`; 0: it does not.
        via: passes messages on where we are not the process that it listens to.
        main_pid: that process; 0: this one.
    """

    address: str = ""
    watchdog_s: float = 0.0
    via: Callable[[str], None] | None = None
    main_pid: int = 0

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Supervisor:
        """The one that the environment names, which does not name it any more afterwards: what we
        start has nothing to tell it."""
        address, usec, pid = (environ.pop(name, "") for name in _VARIABLES)
        if not address.startswith(("/", "@")):
            return cls()
        is_watched = usec.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if is_watched else 0.0)

    def __bool__(self) -> bool:
        return bool(self.address or self.via)

    def ready(self, status: str) -> None:
        """The service is up, and this process is it: the one that was started may have forked."""
        self._send("READY=1", f"MAINPID={self.main_pid or os.getpid()}", _status(status))

    def status(self, text: str) -> None:
        """One line for people."""
        self._send(_status(text))

    def alive(self) -> None:
        """To be said more often than every `watchdog_s`, by what may hang."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", _status(status))

    def extend(self, seconds: float) -> None:
        """Give us so much more time, from now, for what is under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, *lines: str) -> None:
        if self.via is not None:
            self.via("\n".join(lines))
            return
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.settimeout(_SEND_S)
                to.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), name)
        except OSError as e:  # we live on without being heard
            event(_log, logging.DEBUG, "supervisor.unheard", error=e)


def _status(text: str) -> str:
    return "STATUS=" + " ".join(redact(text).split())
