"""The moment when somebody presses TAB: an answer soon, or none; never a word on the terminal.

A shell starts the program with the variable `VARIABLE`. Whatever goes wrong (no settings, no server, a mount
that hangs) is silence and exit status 0.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from vfsmount.cli.completion.shells import PROGRAM, SHELLS, VARIABLE

DEADLINE_S = 2.0
_OFFER_S = 0.4  # of those, so that what is known without others is still offered

_ends_at = math.inf  # by the monotonic clock; no shell waits for it


def patience_s() -> float:
    """Seconds in which others may still be asked, infinite where no shell waits."""
    return max(0.0, _ends_at - _OFFER_S - time.monotonic())


def run() -> int:
    """Answer the shell on stdout; the exit status, 0."""
    global _ends_at
    _ends_at = time.monotonic() + DEADLINE_S
    # Whatever hangs, in a call of the system or at the program's end, hangs no longer.
    end = threading.Timer(DEADLINE_S, os._exit, (0,))
    end.daemon = True
    end.start()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 2):  # nobody is asked, nothing is said
        os.dup2(null, fd)
    with suppress(OSError):
        sys.stdout.write(answer(os.environ))
        sys.stdout.flush()
    return 0


def answer(environ: Mapping[str, str]) -> str:
    """What the shell gets to read; "" where there is nothing to offer."""
    import logging

    shell_name, _, instruction = environ.get(VARIABLE, "").partition("_")
    kind = SHELLS.get(shell_name)
    if kind is None:
        return ""
    from vfsmount.cli import app

    logging.disable(logging.CRITICAL)
    try:
        shell = kind(app, {}, PROGRAM, VARIABLE)
        shell.environ = environ
        text = shell.source() if instruction == "source" else shell.complete()
    except Exception:
        return ""
    finally:
        logging.disable(logging.NOTSET)
    return text and text.rstrip("\n") + "\n"
