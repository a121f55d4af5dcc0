"""Starting a generation: a daemon of its own session, with its end of a socket and the journal."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vfsmount.holder import kernel, wire

# Started → standing by (all but the first) → serving.
STARTING, STANDBY, SERVING = "starting", "standby", "serving"


class Child:
    """One generation.

    Attributes:
        number: counted from 1.
        control: our end of its socket.
        command: what it was started with, but for the arguments.
        heard: when it last said that it is alive, by the monotonic clock.
        began: when it was told to serve; 0.0: not yet.
        reply: its answer to the kernel's first request.
        status: with which it says that it ends; None: it has not said so.
        text: why it could not serve.
        candidate: it was started by an upgrade, and is to take the serving one's place.
        leaving: it was told to stop for another one.
    """

    def __init__(self, pid: int, number: int, control: socket.socket, command: Sequence[str]) -> None:
        self.pid = pid
        self.number = number
        self.control = control
        self.command = command
        self.state = STARTING
        self.started = self.heard = time.monotonic()
        self.began = 0.0
        self.reply = b""
        self.status: int | None = None
        self.text = ""
        self.draining = False
        self.candidate = False
        self.leaving = False
        self.killed = 0.0

    def send(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        """Tell it; it may have died, which shows otherwise."""
        wire.send(self.control, message, fds)

    def signal(self, number: int) -> None:
        """Send it a signal. It is our child and not buried, so the number is its own."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Have it die, once."""
        if not self.killed:
            self.killed = time.monotonic()
            self.signal(signal.SIGKILL)


def start(
    number: int,
    command: Sequence[str],
    words: Sequence[str],
    directory: str,
    journal: int,
    told: Mapping[str, Any],
) -> Child:
    """Start a generation.

    Args:
        words: the arguments of the mount command.
        directory: where that command was called.
        told: what it finds in its environment besides (`wire.GENERATION`).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    holder = os.getpid()
    fds = {"control": theirs.fileno(), "journal": journal, "number": number, "holder": holder}
    fds["protocol"] = wire.PROTOCOL  # what is installed may have changed since we were started
    environment = {**os.environ, wire.GENERATION: json.dumps({**told, **fds})}
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()  # what the terminal sends goes to the holder, who passes it on
            kernel.die_with_parent()
            if os.getppid() != holder:
                os._exit(1)
            try:
                os.chdir(directory)
            except OSError:
                os.chdir("/")
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for fd in (theirs.fileno(), journal):
                os.set_inheritable(fd, True)
            os.execve(command[0], [*command, *words], environment)  # noqa: S606 (our own interpreter)
        finally:
            os._exit(127)
    theirs.close()
    return Child(pid, number, ours, command)
