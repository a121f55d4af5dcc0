"""Who may call the manager now: four at a time, foreground before background, within the budget.

More than four parallel calls bring nothing (the manager serves some 30 a second whatever the
parallelism, contract 7 "Measured cost") and only make the foreground wait behind them.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

import trio

from vfsmount.core.governor import Budget, Class
from vfsmount.errors import RateLimited

MAX_IN_FLIGHT = 4

_class: ContextVar[Class] = ContextVar("vfsmount_call_class", default=Class.FOREGROUND)


@contextmanager
def background() -> Iterator[None]:
    """Calls made inside, and by tasks started inside, give way to the foreground."""
    before = _class.set(Class.BACKGROUND)
    try:
        yield
    finally:
        _class.reset(before)


class Governor:
    """Hands out turns. Waiting is first come, first served within a class."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self._in_flight = 0
        self._numbers = itertools.count()
        self._queue: list[tuple[Class, int, trio.Event]] = []

    @property
    def waiting(self) -> int:
        """Calls that have no turn yet."""
        return len(self._queue)

    @property
    def calls_left(self) -> int | None:
        """Calls the budget allows now; None while the server has told no limit."""
        return self.budget.calls_left(trio.current_time())

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold one of the turns; call the manager inside.

        Raises:
            RateLimited: the budget does not allow this call before the caller's deadline.
        """
        await self._wait()
        try:
            yield
        finally:
            self._in_flight -= 1
            self._wake_first()

    def on_reply(self, limit: int, remaining: int, window_s: float) -> None:
        """Feed the budget; see `Budget.on_reply`."""
        self.budget.on_reply(limit, remaining, window_s, trio.current_time())
        self._wake_first()

    def on_refused(self, reset_s: float | None) -> float:
        """Feed the budget a 429; see `Budget.on_refused`."""
        return self.budget.on_refused(trio.current_time(), reset_s)

    async def _wait(self) -> None:
        cls = _class.get()
        ticket = (cls, next(self._numbers), trio.Event())
        heapq.heappush(self._queue, ticket)
        try:
            while not self._try(ticket):
                await self._sleep(ticket)
                ticket = self._renew(ticket)
        except BaseException:
            if ticket in self._queue:
                self._queue.remove(ticket)
                heapq.heapify(self._queue)
            self._wake_first()
            raise

    def _try(self, ticket: tuple[Class, int, trio.Event]) -> bool:
        if self._queue[0] is not ticket or self._in_flight >= MAX_IN_FLIGHT:
            return False
        now = trio.current_time()
        wait_s = self.budget.wait_s(ticket[0], now)
        # A deadline that has passed (or a cancelled scope) ends the sleep that follows, by itself.
        if now < trio.current_effective_deadline() < now + wait_s:
            raise RateLimited(f"the budget of manager calls is spent for the next {wait_s:.0f} s")
        if wait_s > 0:
            return False
        # no await from here to the caller's turn
        self.budget.take(now)
        self._in_flight += 1
        heapq.heappop(self._queue)
        self._wake_first()
        return True

    async def _sleep(self, ticket: tuple[Class, int, trio.Event]) -> None:
        first = self._queue[0] is ticket and self._in_flight < MAX_IN_FLIGHT
        timeout = self.budget.wait_s(ticket[0], trio.current_time()) if first else float("inf")
        with trio.move_on_after(timeout):
            await ticket[2].wait()

    def _renew(self, ticket: tuple[Class, int, trio.Event]) -> tuple[Class, int, trio.Event]:
        if not ticket[2].is_set():
            return ticket
        # An event fires once; the place in the queue stays the same.
        fresh = (ticket[0], ticket[1], trio.Event())
        self._queue[self._queue.index(ticket)] = fresh
        return fresh

    def _wake_first(self) -> None:
        if self._queue and self._in_flight < MAX_IN_FLIGHT:
            self._queue[0][2].set()
