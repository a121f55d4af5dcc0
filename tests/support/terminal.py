"""Commands whose output is a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


def on_terminal(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
    typed: Mapping[str, str] | None = None,
    columns: int = 80,
    deadline_s: float = 60,
) -> tuple[int, str]:
    """(exit status, what was shown) of a command on a terminal of its own.

    Args:
        typed: what appears on the screen → what is typed then, once.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        list(command),
        env={**env, "TERM": "xterm-256color"},
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown, end, left = b"", time.monotonic() + deadline_s, dict(typed or {})
    try:
        while True:
            assert time.monotonic() < end, shown
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(ours, 65536)
            except OSError:  # nobody has the other side open any more
                break
            if not piece:
                break
            shown += piece
            for text in [text for text in left if text.encode() in shown]:
                os.write(ours, left.pop(text).encode())
        return process.wait(30), shown.decode(errors="replace")
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait()
