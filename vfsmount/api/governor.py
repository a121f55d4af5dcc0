"""Who may call the manager now: a few at a time, foreground before background, within the budget.

How many is measured: the manager serves some 30 a second whatever the parallelism (contract 7
"Measured cost"), and then more than four only make the foreground wait behind them; where the way is
long, more of them keep it busy.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

import trio

from vfsmount.core.governor import MOST, Budget, Class, Concurrency
from vfsmount.errors import RateLimited
from vfsmount.values import CallBudget

# Places that are kept for what somebody asks for, where there are many; where there are few, half of them.
ASKED_FOR = 6

_class: ContextVar[Class] = ContextVar("vfsmount_call_class", default=Class.FOREGROUND)
_hurry: ContextVar[trio.Event | None] = ContextVar("vfsmount_call_hurry", default=None)
_held: ContextVar[bool] = ContextVar("vfsmount_call_turn_held", default=False)
_begun: ContextVar[int] = ContextVar("vfsmount_call_turn_begun", default=0)  # replies told by then


@contextmanager
def background(hurry: trio.Event | None = None) -> Iterator[None]:
    """Calls made inside, and by tasks started inside, give way to the foreground.

    Args:
        hurry: set it when the foreground has come to wait for them, and call `Governor.look_again`.
    """
    with _as(Class.BACKGROUND, hurry):
        yield


@contextmanager
def leisurely() -> Iterator[None]:
    """Calls made inside, and by tasks started inside, give way to all others and leave them four
    fifths of the budget."""
    with _as(Class.INDEXING):
        yield


@contextmanager
def _as(cls: Class, hurry: trio.Event | None = None) -> Iterator[None]:
    before = _class.set(cls), _hurry.set(hurry)
    try:
        yield
    finally:
        _class.reset(before[0])
        _hurry.reset(before[1])


def class_now() -> Class:
    """In whose name calls are made here."""
    hurry = _hurry.get()
    return Class.FOREGROUND if hurry is not None and hurry.is_set() else _class.get()


class Governor:
    """Hands out turns. Waiting is first come, first served within a class."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.concurrency = Concurrency()
        self._in_flight = 0
        self._speculating = 0
        self._changed = trio.Event()  # renewed whenever a place may be free that was not
        self._numbers = itertools.count()
        self._queue: list[tuple[Class, int, trio.Event]] = []
        self._told: deque[int] = deque(maxlen=4 * MOST)  # what the last replies said to remain
        self._replies = 0

    @property
    def waiting(self) -> int:
        """Calls that have no turn yet."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Calls that have one."""
        return self._in_flight

    @property
    def calls_left(self) -> int | None:
        """Calls the budget allows now; None while the server has told no limit."""
        return self.budget.calls_left(trio.current_time())

    @property
    def remaining(self) -> int | None:
        """Calls of the key that the server said to be left in its window; None where it said nothing."""
        return self._told[-1] if self._told else None

    @property
    def state(self) -> CallBudget:
        """For those who look."""
        budget = self.budget
        return CallBudget(self.calls_left, budget.limit, budget.window_s, self.waiting)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold one of the turns; call the manager inside.

        Raises:
            RateLimited: the budget does not allow this call before the caller's deadline.
        """
        held = _held.get()
        if held:
            self.budget.take(trio.current_time())
        else:
            await self._wait()
        began, in_flight = trio.current_time(), self._in_flight
        token = _begun.set(self._replies)
        try:
            yield
        finally:
            _begun.reset(token)
            self.concurrency.ended(trio.current_time() - began, in_flight)
            if not held:
                self._in_flight -= 1
                self._wake_first()

    @asynccontextmanager
    async def spare_turn(self) -> AsyncIterator[None]:
        """A turn for what nobody has asked for yet: when a place is left that nobody waits for.

        What is worth asking for is decided inside, as late as possible. The call made there, one at a
        time, does not wait any more, so that whoever comes to need its answer waits for no one either.
        """
        while not self._is_spare():
            wait_s = self.budget.wait_s(Class.SPECULATION, trio.current_time())
            with trio.move_on_after(wait_s if wait_s > 0 else float("inf")):
                await self._changed.wait()
        self._in_flight += 1
        self._speculating += 1
        token = _held.set(True)
        try:
            yield
        finally:
            _held.reset(token)
            self._in_flight -= 1
            self._speculating -= 1
            self._wake_first()

    def _is_spare(self) -> bool:
        limit = self.concurrency.limit
        most = max(limit // 2, limit - ASKED_FOR)
        idle = not self._queue and self._in_flight < limit - 1 and self._speculating < most
        return idle and not self.budget.wait_s(Class.SPECULATION, trio.current_time())

    def look_again(self) -> None:
        """Who waits in the background may have come to be urgent."""
        for _, _, event in self._queue:
            event.set()

    def on_reply(self, limit: int, remaining: int, window_s: float) -> None:
        """Feed the budget, inside the turn of the call; see `Budget.on_reply`."""
        # Replies overtake each other: one that came since this call began may know of more calls.
        # (Never fewer than none: a context may be shared, as by fixtures of tests.)
        since = max(0, min(self._replies - _begun.get(), len(self._told)))
        least = min([remaining, *itertools.islice(reversed(self._told), since)])
        self._told.append(remaining)
        self._replies += 1
        others = max(0, self._in_flight - 1)
        self.budget.on_reply(limit, least, window_s, trio.current_time(), others)
        self._wake_first()

    def on_refused(self, reset_s: float | None) -> float:
        """Feed the budget a 429; see `Budget.on_refused`."""
        return self.budget.on_refused(trio.current_time(), reset_s)

    async def _wait(self) -> None:
        ticket = (class_now(), next(self._numbers), trio.Event())
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
        if self._queue[0] is not ticket or not self._has_place(ticket[0]):
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
        first = self._queue[0] is ticket and self._has_place(ticket[0])
        timeout = self.budget.wait_s(ticket[0], trio.current_time()) if first else float("inf")
        with trio.move_on_after(timeout):
            await ticket[2].wait()

    def _renew(self, ticket: tuple[Class, int, trio.Event]) -> tuple[Class, int, trio.Event]:
        if not ticket[2].is_set():
            return ticket
        # An event fires once; the place in the queue stays the same, unless it has become urgent.
        fresh = (class_now(), ticket[1], trio.Event())
        self._queue[self._queue.index(ticket)] = fresh
        heapq.heapify(self._queue)
        return fresh

    def _wake_first(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        if self._queue and self._has_place(self._queue[0][0]):
            self._queue[0][2].set()

    def _has_place(self, cls: Class) -> bool:
        # One is kept free of work that nobody waits for: some of that takes long.
        kept = 0 if cls is Class.FOREGROUND else 1
        return self._in_flight < self.concurrency.limit - kept
