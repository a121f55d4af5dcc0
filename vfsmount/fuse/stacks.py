"""Where everything in the daemon stands, into the log, whenever somebody sends SIGUSR1.

The signal goes to a thread that waits for nothing else, so that a loop that is stuck can be asked, too:
then its thread's stack says where. Stacks are files, lines and functions; there are no values in them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

import trio

from vfsmount.log import event

_log = logging.getLogger("vfsmount.stacks")
_log.setLevel(logging.INFO)  # asked for by name: it shows whatever else does

SIGNAL = signal.SIGUSR1
_PATIENCE_S = 5.0  # with the loop, before it is called stuck
_GOODBYE_S = 1.0
_DEEPEST = 60
_TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_Stack = tuple[str, ...]


@contextmanager
def shown_on_signal() -> Iterator[None]:
    """While the body runs, the signal has all stacks logged; call it where the loop runs, before there are
    other threads, which must not take the signal."""
    token = trio.lowlevel.current_trio_token()
    # For good: what comes late must not kill a daemon that is about to end.
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    over = threading.Event()
    thread = threading.Thread(target=_obey, args=(token, over), name="stacks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        signal.pthread_kill(thread.ident or 0, SIGNAL)
        thread.join(_GOODBYE_S)  # it may be waiting for the very loop that waits here


def _obey(token: trio.lowlevel.TrioToken, over: threading.Event) -> None:
    while True:
        signal.sigwait({SIGNAL})
        if over.is_set():
            return
        try:
            _dump(token)
        except Exception:
            _log.exception("stacks.bug")


def _dump(token: trio.lowlevel.TrioToken) -> None:
    threads = stacks_of_threads()
    found: list[tuple[str, _Stack]] = []
    done = threading.Event()

    def collect() -> None:
        try:
            found.extend(stacks_of_tasks())
        finally:
            done.set()

    try:
        token.run_sync_soon(collect)
        answered = done.wait(_PATIENCE_S)
    except trio.RunFinishedError:
        answered = False
    if answered:
        event(_log, logging.INFO, "stacks.tasks", count=len(found))
        _write(found)
    else:
        event(_log, logging.INFO, "stacks.loop_stuck", no_answer_for_s=_PATIENCE_S, see="MainThread")
    event(_log, logging.INFO, "stacks.threads", count=len(threads))
    _write(threads)


def _write(found: Iterable[tuple[str, _Stack]]) -> None:
    """One record for each stack there is, with how often it is there: a thousand tasks may wait alike."""
    counted: Counter[tuple[str, _Stack]] = Counter(found)
    for (name, stack), count in counted.most_common():
        times = f" ({count} times)" if count > 1 else ""
        _log.info("%s", "\n".join([f"{name}{times}", *(f"  {line}" for line in stack)]))


def stacks_of_tasks() -> list[tuple[str, _Stack]]:
    """Name and stack, outermost frame first, of every task of the loop that calls this."""
    root = trio.lowlevel.current_root_task()
    found: list[tuple[str, _Stack]] = []
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        frames = [_line(frame, number) for frame, number in task.iter_await_frames()]
        found.append((f"task {task.name}", tuple(frames[-_DEEPEST:])))
        for nursery in reversed(task.child_nurseries):
            waiting.extend(reversed(list(nursery.child_tasks)))
    return found


def stacks_of_threads() -> list[tuple[str, _Stack]]:
    """Name and stack, outermost frame first, of every thread but the one that calls this."""
    names = {t.ident: t.name for t in threading.enumerate()}
    found = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines = [_line(f, n) for f, n in traceback.walk_stack(frame)]
            found.append((f"thread {names.get(ident, ident)}", tuple(reversed(lines[:_DEEPEST]))))
    return found


def _line(frame: FrameType, number: int) -> str:
    code = frame.f_code
    file = code.co_filename.removeprefix(f"{_TOP}/")
    return f"{file}:{number} {code.co_qualname}"
