"""Waiting for a program as a shell or a container's first process does: signals passed on, orphans buried."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What a supervisor is told and its program has to hear. SIGCHLD is its own affair; the others end it.
FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_SI_KERNEL = 0x80  # <asm-generic/siginfo.h>
_FIRST_PROCESS = 1
_GRACE_S = 2.0


def status_of(raw: int) -> int:
    """Exit status of a process as a shell tells it: 128 and the number where a signal ended it."""
    code = os.waitstatus_to_exitcode(raw)
    return code if code >= 0 else 128 - code


@contextmanager
def holding_signals() -> Iterator[frozenset[signal.Signals]]:
    """Keep signals for `wait` while the body runs, also where they would be ignored.

    Yields the mask from before, which a child has to restore.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    try:
        yield frozenset(signal.Signals(number) for number in before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait(
    pid: int, on_signal: Callable[[int], None] | None = None, timeout_s: float | None = None
) -> int | None:
    """Wait for a child, inside `holding_signals`; bury every other that ends meanwhile.

    Args:
        on_signal: called for a signal that is to reach the child; None: the child gets it. What the
            terminal sends is not passed on: the child has it already.

    Returns:
        Its raw status; None: time is up.
    """
    give_up = None if timeout_s is None else time.monotonic() + timeout_s
    deliver = on_signal or (lambda number: _tell(pid, number))
    wanted = {*FORWARDED, signal.SIGCHLD}
    while True:
        # First: it may have ended before its signal was held.
        raw = _bury(pid)
        if raw is not None:
            return raw
        if give_up is None:
            info: signal.struct_siginfo | None = signal.sigwaitinfo(wanted)
        else:
            info = signal.sigtimedwait(wanted, max(0.0, give_up - time.monotonic()))
        if info is None:
            return None
        from_terminal = info.si_code == _SI_KERNEL and on_signal is None
        if info.si_signo != signal.SIGCHLD and not from_terminal:
            deliver(info.si_signo)


def _bury(pid: int) -> int | None:
    """Take leave of all that ended; the raw status of one of them."""
    while True:
        try:
            ended, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if ended in (0, pid):
            return raw if ended else None
        _buried[ended] = raw


# Children that somebody else may still ask for.
_buried: dict[int, int] = {}


def buried(pid: int) -> int | None:
    """The raw status of a child that ended while another was waited for."""
    return _buried.pop(pid, None)


def _tell(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def end_leftovers(keep: int) -> None:
    """End what a command left running, as the end of a session or a container does.

    Needs `namespaces.adopt_orphans`, and finds nothing where the kernel does not tell a process's children.
    """
    give_up = time.monotonic() + _GRACE_S
    while left := [pid for pid in _children() if pid != keep]:
        number = signal.SIGTERM if time.monotonic() < give_up else signal.SIGKILL
        for pid in left:
            _tell(pid, number)
        wait(left[0], on_signal=lambda _: None, timeout_s=0.1)


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def as_first_process(work: Callable[[], int]) -> int:
    """Do the work; as a container's first process have a child do it, and be what an init is.

    The kernel gives the first process every orphan to bury, and no signal that it has not asked for.
    A daemon that waits for children of its own cannot do that.
    """
    if os.getpid() != _FIRST_PROCESS:
        return work()
    with holding_signals() as before:
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return work()
        raw = wait(pid)
    assert raw is not None
    return status_of(raw)
