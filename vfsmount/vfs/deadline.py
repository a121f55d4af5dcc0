"""Every request of the kernel ends in time (promise P5).

The kernel passes no interrupts on, so a handler that waits for ever is a process in D state. Each
handler runs under `within`; code that moves bytes for it calls `progress`, which moves the deadline
on: a large upload may take an hour, a silent one may not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import trio

from vfsmount.errors import DeadlineExceeded

LOOK_EVERY_S = 0.25  # a part of the shortest deadline there is, 1 s


@dataclass(slots=True)
class _Running:
    scope: trio.CancelScope
    seconds: float
    outer: _Running | None


_running: ContextVar[_Running | None] = ContextVar("vfs_deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Run the body for at most `seconds` without `progress`.

    Raises:
        DeadlineExceeded: time is up; the body was cancelled.
    """
    with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:
        token = _running.set(_Running(scope, seconds, _running.get()))
        try:
            yield
        finally:
            _running.reset(token)
    if scope.cancelled_caught:
        raise DeadlineExceeded(f"no answer within {seconds:g} s")


def progress(*_: object) -> None:
    """Bytes have moved for the current request: its time starts anew."""
    running = _running.get()
    while running is not None:
        running.scope.deadline = max(running.scope.deadline, trio.current_time() + running.seconds)
        running = running.outer


class Pulse:
    """When an operation last moved bytes, for those who wait behind it."""

    def __init__(self) -> None:
        self.at = float("-inf")

    def beat(self, *_: object) -> None:
        """Bytes have moved: for us and for everybody who waits."""
        self.at = trio.current_time()
        progress()


async def wait_behind(pulse: Pulse, wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for something that another request is doing; its progress counts as ours.

    `wait` is called anew again and again, so it must be safe to cancel (`Lock.acquire`, `Event.wait`).
    """
    over = False
    while not over:
        seen = pulse.at
        with trio.move_on_after(LOOK_EVERY_S):
            await wait()
            over = True
        if pulse.at > seen:  # at the end too: who waits for many short things one after another
            progress()
