"""A supervisor as systemd is one: a datagram socket that remembers what it is told, and when."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

Message = dict[str, str]


class FakeSupervisor:
    """Listens from the start until the ``with`` block ends.

    Args:
        directory: where its socket lies; None: an abstract name.

    Attributes:
        address: for ``NOTIFY_SOCKET``.
        heard: (seconds of the monotonic clock, message), in order.
    """

    def __init__(self, directory: Path | None = None) -> None:
        name = f"notify-{secrets.token_hex(4)}"
        self._path = directory / name if directory is not None else None
        self.address = str(self._path) if self._path is not None else f"@{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path) if self._path is not None else f"\0{name}")
        self._state = threading.Condition()
        self.heard: list[tuple[float, Message]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeSupervisor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while data := self._socket.recv(8192):
            message = dict(line.split("=", 1) for line in data.decode().splitlines())
            with self._state:
                self.heard.append((time.monotonic(), message))
                self._state.notify_all()

    def environment(self, watchdog_s: float = 0) -> dict[str, str]:
        """What a service is started with."""
        found = {"NOTIFY_SOCKET": self.address}
        return {**found, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))} if watchdog_s else found

    def messages(self, name: str, since: float = 0.0) -> list[str]:
        """The values of one variable, of messages that came after a time."""
        return [m[name] for at, m in list(self.heard) if name in m and at > since]

    def wait_for(self, wanted: Callable[[Message], bool], deadline_s: float = 60) -> Message:
        """The first message, also of those that came already, that is wanted."""

        def found() -> Message | None:
            return next((m for _, m in self.heard if wanted(m)), None)

        with self._state:
            assert self._state.wait_for(lambda: found() is not None, deadline_s), self.heard
            message = found()
        assert message is not None
        return message


def ours(message: Message) -> bool:
    """Whether it names this process."""
    return message.get("MAINPID") == str(os.getpid())
